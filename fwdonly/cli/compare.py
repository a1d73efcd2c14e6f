"""``fwdonly compare RULES``: the same blocks, data, seeds and stopping; paired statistics, verdicts and a report."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DAMAGE, UsageError, short, words_of
from ..study import (
    Arm,
    Data,
    Field,
    Machine,
    Measuring,
    Output,
    Protocol,
    Rule,
    Runs,
    Study,
    declared,
    design,
    load,
    make_arm,
    run,
)
from ..training import Plan
from . import options, tell
from .options import Group

DESCRIPTION = """Compare learning rules under one protocol, paired by seed, and say what is decided.

Every run trains by itself, the rules taking turns. MF and BP start from settings of searches on the embedded images
(fwdonly tune); of other rules the report says that they have none, unless --tuned or options of their own give some.
Options of a single rule are --RULE.OPTION, such as --mf.prediction sum. The rules mf, mf-joint, mf-last, mf-joint-last
make a 2 x 2 of objective and locality, whose effects the report tells apart. Ends in a table of verdicts and writes a
result folder with report.html. Ctrl-C leaves a folder that --resume continues; finished runs are not repeated."""

TUNED = Field("tuned", tuple[Path, ...], (), "Result folders of fwdonly tune, whose best settings to take.")
DEFAULTS = {"seeds": 5, "alone": True, "epochs": 100, "patience": 10, "keep": "best_loss"}


def groups_of() -> list[Group]:
    """All options of the command, but for those of single rules."""
    return [Group("protocol", (*declared(Protocol), TUNED)), *options.shared_groups()]


def study_of(words: Sequence[str], command_line: Sequence[str] = (), prog: str = "fwdonly compare") -> Study:
    """The study that the words of a command describe.

    Raises:
        UsageError: words that describe none.
    """
    names, words = options.names_first(words)
    every = [load(name) for name in names]
    different = len({rule.name for rule in every}) == len(every) > 1
    if not {"-h", "--help"} & set(words):
        options.check_names(names, words, prog, "RULE RULE ...", different)
    words, words_of_rule = options.of_arms(words, [rule.name for rule in every])
    groups = groups_of()
    values = options.parse(words, groups, DEFAULTS, prog=prog, description=DESCRIPTION)
    protocol = options.make(Protocol, values)
    usual = {field.name: DEFAULTS.get(field.name, field.default) for group in groups for field in group.fields}
    protocol.check(values, usual)
    settings = tuned_settings(values["tuned"], [rule.name for rule in every])
    arms = [_arm(rule, values, protocol, settings.get(rule.name), words_of_rule[rule.name], prog) for rule in every]
    measuring = options.make(Measuring, values)
    arms = [dataclasses.replace(protocol.staged(arm), alignment=measuring.alignment) for arm in arms]
    return Study(
        "compare",
        tuple(arms),
        options.make(Data, values),
        options.make(Runs, values),
        measuring,
        options.make(Machine, values),
        options.make(Output, values),
        protocol.record(arms, values),
        tuple(command_line),
    )


def _arm(
    rule: Rule,
    values: Mapping[str, Any],
    protocol: Protocol,
    tuned: Mapping[str, Any] | None,
    words: Sequence[str],
    prog: str,
) -> Arm:
    """An arm of the comparison. Its settings come from a search and from the words for this rule alone."""
    names = options.names_in(words)
    shared = {name: values[name] for name in values if name in Plan.__dataclass_fields__} | protocol.length(values)
    for name in names:
        if name == "preset":
            raise UsageError(f"a preset of {rule.name} would also set data and stopping; give its single settings")
        if name in ("net", *values) and protocol.shared(name) and name in (*shared, "net", *values):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is the same for all rules; give it without {rule.name}.")
    settings = rule.variant.tuned if tuned is None else tuned
    start = rule.defaults(compared=True) | dict(settings) | shared
    length = Group("length", options.plan_fields(*design.STOPPING))
    groups = [options.rule_group(rule), options.optimizer_group(rule), length]
    description = f"Options of {rule.label} in a comparison."
    changes = options.parse(words, groups, start, prog=f"{prog} ... --{rule.name}.", description=description)
    arm = make_arm(rule, start | changes, net=values["net"])
    check_scores(arm)
    searched = bool(settings) or bool(names & set(rule.space))
    return dataclasses.replace(arm, about={**arm.about, "tuned": searched})


def check_scores(arm: Arm) -> None:
    """Refuse to steer a rule by the loss of scores that are no logits."""
    by_loss = arm.plan.keep == "best_loss" or (arm.plan.patience is not None and arm.plan.monitor == "loss")
    if arm.rule.card.monitor == "accuracy" and by_loss:
        raise UsageError(
            f"the scores of {arm.name} are no probabilities, so that their loss says little; for all rules add "
            "--monitor accuracy --keep best_accuracy"
        )


def tuned_settings(folders: Sequence[Path], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings from result folders of ``fwdonly tune``, by rule.

    Raises:
        UsageError: a folder that is none, or of a rule that is not compared.
    """
    settings: dict[str, dict[str, Any]] = {}
    for folder in folders:
        try:
            best = json.loads((folder / "best.json").read_text(encoding="utf-8"))
            rule, values = str(best["rule"]), dict(best["values"])
        except (OSError, *DAMAGE) as error:
            raise UsageError(
                f"{folder} is not a result folder of fwdonly tune ({words_of(error)}); give one that is"
            ) from error
        if rule not in names:
            raise UsageError(f"{folder} holds settings of {short(rule)}, which is not among {' '.join(names)}")
        settings[rule] = values
    return settings


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly compare") -> int:
    """Parse, train, decide; the exit code."""
    study = study_of(words, command_line, prog)
    return tell.conclude(run(study, tell.render), command_line, tell.verdicts)
