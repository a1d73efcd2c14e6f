"""``fwdonly train RULE``: one rule, and others beside it."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..card import Optimizer
from ..errors import UsageError
from ..study import (
    Arm,
    Data,
    Field,
    Machine,
    Measuring,
    Output,
    Rule,
    Runs,
    Study,
    design,
    load,
    make_arm,
    published,
    run,
)
from ..training import Plan
from . import options, tell
from .options import Group

DESCRIPTION = """Train {label}, and other rules beside it, over several seeds.

Prints a table of every seed and writes a result folder. Ctrl-C leaves a folder that --resume continues. Options of a
rule beside it are --RULE.OPTION, such as --bp.learning-rate 1e-3; its optimizer, length and stopping are otherwise
those of {name}."""


def groups_of(rule: Rule) -> list[Group]:
    """All options of the command for this rule."""
    known = ", ".join(published.presets().get(rule.name, {}))
    presets = f"Start from published settings; other options override them. Of {rule.name}: {known or 'none'}."
    fields = (
        Field("against", tuple[str, ...], (), "Rules to train beside it on the same blocks, split and data order."),
        Field("preset", str | None, None, presets),
    )
    group = options.rule_group(rule)
    return [group._replace(fields=(*fields, *group.fields)), options.optimizer_group(rule), *options.shared_groups()]


def defaults_of(rule: Rule, preset: str | None) -> dict[str, Any]:
    """What the options are without any word: the rule's recipe, over it the preset."""
    start = {"net": rule.card.net} | rule.defaults(compared=False)
    if preset is None:
        return start
    return start | published.preset(rule.name, preset).settings | {"preset": preset}


def study_of(words: Sequence[str], command_line: Sequence[str] = (), prog: str = "fwdonly train") -> Study:
    """The study that the words of a command describe.

    Raises:
        UsageError: words that describe none.
    """
    names, words = options.names_first(words)
    options.check_names(names, words, prog, "RULE", len(names) == 1)
    rule = load(names[0])
    first = options.early(words, preset=None, against="*")
    others = [load(name) for name in first["against"]]
    every = [rule.name, *(other.name for other in others)]
    if len(set(every)) < len(every):
        raise UsageError(f"--against needs rules that differ from each other and from {rule.name}; got {every[1:]}")
    words, own_words = options.of_arms(words, every)
    groups = groups_of(rule)
    description = DESCRIPTION.format(label=rule.label, name=rule.name)
    defaults = defaults_of(rule, first["preset"])
    words += own_words.pop(rule.name)
    values = options.parse(words, groups, defaults, prog=f"{prog} {names[0]}", description=description)
    arm = make_arm(rule, arm_values(rule, values))
    beside = {} if first["preset"] is None else published.preset(rule.name, first["preset"]).against
    names_in_words = options.names_in(words)
    arms = [arm]
    for other in others:
        start = _start_beside(arm, other, names_in_words) | beside.get(other.name, {})
        arms.append(_beside(arm, other, start, own_words[other.name], prog))
    measuring = options.make(Measuring, values)
    return Study(
        f"train-{'-'.join(every)}",
        tuple(_watched(member, measuring) for member in arms),
        options.make(Data, values),
        options.make(Runs, values),
        measuring,
        options.make(Machine, values),
        options.make(Output, values),
        command_line=tuple(command_line),
    )


def arm_values(rule: Rule, values: Mapping[str, Any]) -> dict[str, Any]:
    """What of all values belongs to an arm."""
    names = {*rule.default_options, *Optimizer._fields, *Plan.__dataclass_fields__, "net", "preset"}
    return {name: value for name, value in values.items() if name in names}


def _start_beside(first: Arm, rule: Rule, names: Collection[str]) -> dict[str, Any]:
    """Settings of a rule beside the first one: that one's network, optimizer, length and stopping.

    What the first rule's card says of BP comes before these. Length and stopping are those of the first rule where
    ``names``, the options that the user gave, hold them.
    """
    optimizer = first.optimizer._replace(layer_epochs=(), layer_rates=())  # they are of one rule's layers
    if optimizer.optimizer in first.rule.card.optimizers:
        optimizer = optimizer._replace(optimizer=Optimizer().optimizer)
    twin = first.rule.card.twin if rule.name == "bp" else {}
    length = {*design.STOPPING, "batch_size"} & set(names)
    twin = {name: value for name, value in twin.items() if name not in length}
    return {**optimizer._asdict(), **vars(first.plan), **rule.default_options, **twin}


def _beside(first: Arm, rule: Rule, start: Mapping[str, Any], words: Sequence[str], prog: str) -> Arm:
    """An arm beside the first one. It starts from ``start``; the words for this rule alone change that."""
    length = Group("length", options.plan_fields(*design.STOPPING, "batch_size"))
    groups = [options.rule_group(rule), options.optimizer_group(rule), length]
    description = f"Options of {rule.label} beside {first.rule.label}."
    changes = options.parse(words, groups, start, prog=f"{prog} ... --{rule.name}.", description=description)
    return make_arm(rule, {**start, **changes}, net=str(first.net))


def _watched(arm: Arm, measuring: Measuring) -> Arm:
    return dataclasses.replace(arm, alignment=True) if measuring.alignment else arm


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly train") -> int:
    """Parse, train, print; the exit code."""
    study = study_of(words, command_line, prog)
    return tell.conclude(run(study, tell.render), command_line)
