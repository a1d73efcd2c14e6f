"""Any rule against any other: the same blocks, data, seeds and stopping; paired statistics, verdicts and a report."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import _common
import jax
import jax.numpy as jnp
import tyro
from _rules import RULES, TUNED, arm_of, options_of, words

from fwdonly import LearningRule, UsageError, report, results

Protocol = Literal["own-convergence", "matched-passes", "to-target"]


@dataclasses.dataclass(frozen=True)
class Options(_common.Shared):
    """Compare learning rules under one protocol, paired by seed, and say what is decided.

    Every run is trained by itself, the rules taking turns. MF and BP have settings from searches on the embedded images
    (tune.py); of other rules the report says that they have none, unless --tuned or --set gives some. Ends in a table
    of verdicts and writes a result folder with report.html. Ctrl-C leaves a folder that --resume continues; finished
    runs are not repeated.
    """

    rules: tuple[Literal[tuple(RULES)], ...] = ("mf", "bp")  # ty: ignore[invalid-type-form]
    """Two or more, on one network: an MLP (bp, bp-deep, bp-sum, mf, mf-joint, mf-greedy, mf-greedy-m0, ff, pepita,
    foton, fa, dfa, drtp), CaFo's CNN (cafo, cafo-dfa, bp-cafo) or CwC's (cwc, bp-cwc)."""
    protocol: Protocol = "own-convergence"
    """own-convergence: one stopping rule for all, per stage where a rule has stages; best state restored.
    matched-passes: --passes over the data for every rule, all its stages together, and no early stopping; last state.
    to-target: until two validations in a row reach --target; runs that miss it by the cap count as misses."""
    passes: int = 30
    """For matched-passes; stages share them, the first ones get one more where they do not divide."""
    reference: Literal[(None, *RULES)] = None  # ty: ignore[invalid-type-form]
    """The rule that the others are compared with. None: a bp among the rules, otherwise the last one."""
    margin: float = 0.25
    """Percentage points of accuracy that count as no difference."""
    cost_margin: float = 5.0
    """Percent of seconds, energy or passes that count as no difference."""
    widths: tuple[int, ...] = (1000, 1000)
    """Widths of the hidden layers of the MLP."""
    channels: tuple[int, ...] | None = None
    """Channels of the CNN's blocks. None: those of the rules' script."""
    set: tuple[str, ...] = ()
    """RULE='OPTIONS': options of the rule's own script, such as mf='--learning-rate 1e-3 --prediction sum'."""
    tuned: tuple[Path, ...] = ()
    """Result folders of tune.py, whose best settings to take."""
    seeds: int = 5
    """Number of seeds; claims need 10 or more."""
    alone: bool = True
    """Train every run by itself. --no-alone: a rule's seeds together, faster on a GPU, but then no run has seconds and
    energy of its own, and only accuracies and passes are compared."""
    epochs: int = 100
    """Cap on the epochs; of every stage, where a rule trains in stages."""
    patience: int | None = 10
    """Stop after this many epochs without a better validation loss (or accuracy). None: train to the cap."""
    keep: _common.Keep = "best_loss"
    """The state that is kept and tested: of the epoch with the best validation loss or accuracy, or the last one."""


def arms(options: Options) -> list[_common.Arm]:
    """The rules, stopped as the protocol says."""
    made = []
    for rule, (tuned, more) in _said(options).items():
        own = options_of(rule, _shared(options), *more, tuned=tuned)
        arm = arm_of(rule, own)
        _check_shared(options, arm)
        said = {word.split("=")[0].replace("_", "-") for word in more}
        searched = bool(tuned) or any(words(rule, {name: 0})[0] in said for name in RULES[rule].space)
        made.append(arm._replace(about={**arm.about, "tuned": searched}))
    shapes = {arm.name: _matrices(arm) for arm in made}
    other = next((name for name in shapes if shapes[name] != shapes[made[0].name]), None)
    if other is not None:
        raise UsageError(
            f"rules are compared on one network, and {other} trains another one than {made[0].name}: "
            f"{shapes[other]} here, {shapes[made[0].name]} there (matrices, then outputs, of every block)"
        )
    return [_matched(arm, options.passes) for arm in made] if options.protocol == "matched-passes" else made


def _shared(options: Options) -> Options:
    if options.protocol == "matched-passes":
        return dataclasses.replace(options, patience=None, keep="last", epochs=options.passes)
    if options.protocol == "to-target":
        return dataclasses.replace(options, patience=None, keep="last")
    return options


def _shapes(arm: _common.Arm) -> list[tuple[Any, Any]]:
    """Of every block its parameters and its output, as shapes, for colour images of 32 x 32 and ten classes."""
    found, a = [], jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    for block in arm.net(10) if callable(arm.net) else arm.net:
        # No key is made: processes that share the seeds have not yet come together.
        own = jax.eval_shape(lambda a, block=block: block.init(jax.random.key(0), a), a)
        a = jax.eval_shape(block.apply, own, a)
        found.append((own, a))
    return found


def _matrices(arm: _common.Arm) -> list[tuple[tuple[int, ...], ...]]:
    """Of every block the shapes of its matrices, and of its output."""
    return [(*(w.shape for w in jax.tree.leaves(own) if w.ndim > 1), a.shape[1:]) for own, a in _shapes(arm)]


STOPPING = ("epochs", "patience", "min_delta", "monitor", "keep", "validate_every")


def _check_shared(options: Options, arm: _common.Arm) -> None:
    """Refuse settings of a single rule that would make the protocol's sentence untrue."""
    wanted = _shared(options)
    for field in dataclasses.fields(_common.Shared):
        name, own = field.name, getattr(arm.options, field.name)
        if own != getattr(wanted, name) and not (options.protocol == "own-convergence" and name in STOPPING):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag} is the same for all rules; give it to compare.py, not to {arm.name} (it has {own})"
            )


def notes(options: Options, made: list[_common.Arm]) -> list[str]:
    """What a reader must know of single rules."""
    said = []
    for arm in made:
        parts = [
            f"{name.replace('_', ' ')} {getattr(arm.options, name)}"
            for name in STOPPING
            if options.protocol == "own-convergence" and getattr(arm.options, name) != getattr(options, name)
        ]
        if parts:
            said.append(f"{arm.about['label']} stops by a rule of its own: {', '.join(parts)}.")
        if arm.stages and options.protocol == "matched-passes" and len(arm.stages) > 1:
            shares = " + ".join(str(stage["epochs"]) for stage in arm.stages)
            said.append(f"{arm.about['label']} trains in stages: {shares} passes, whatever they train.")
        if not arm.about["tuned"]:
            said.append(f"{arm.about['label']} has settings from no search.")
        if not any(leaf.ndim == 1 for own, _ in _shapes(arm) for leaf in jax.tree.leaves(own)):
            said.append(f"{arm.about['label']} has no biases.")
    return said


def _matched(arm: _common.Arm, passes: int) -> _common.Arm:
    """The arm with its passes shared out among its stages."""
    made = arm.build(_common.Setting(arm.options, 10, arm.options.learning_rate, 1))
    count = 1 if isinstance(made, LearningRule) else len(made)
    if arm.options.batch_size is None:
        raise UsageError(f"{arm.name} works on all images at once; passes of it cannot be matched")
    if passes < count:
        raise UsageError(f"{arm.name} trains in {count} stages; give it at least as many --passes; got {passes}")
    epochs = [passes // count + (stage < passes % count) for stage in range(count)]
    stages = tuple({"epochs": own, "patience": None, "keep": "last"} for own in epochs)
    return arm._replace(options=dataclasses.replace(arm.options, epochs=max(epochs)), stages=stages)


def _said(options: Options) -> dict[str, tuple[list[str], list[str]]]:
    """What is said of every rule: settings from a search, and by --set."""
    tuned = {rule: shlex.split(TUNED.get(rule, "")) for rule in options.rules}
    more: dict[str, list[str]] = {rule: [] for rule in options.rules}
    for folder in options.tuned:
        try:
            found = json.loads((folder / "best.json").read_text(encoding="utf-8"))
            rule, words = found["rule"], list(found["options"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{folder} is not a result folder of tune.py ({error}); give one that is") from error
        if rule not in options.rules:
            raise UsageError(f"{folder} holds settings of {rule}, which is not among --rules {' '.join(options.rules)}")
        tuned[rule] = words
    for text in options.set:
        rule, equals, words = text.partition("=")
        if not equals or rule not in options.rules:
            raise UsageError(f"--set is RULE='OPTIONS' with a rule among {', '.join(options.rules)}; got {text!r}")
        try:
            more[rule] += shlex.split(words)
        except ValueError as error:
            raise UsageError(f"--set {rule}: {error} in {words!r}") from error
    return {rule: (tuned[rule], more[rule]) for rule in options.rules}


def protocol(options: Options, made: list[_common.Arm]) -> dict[str, Any]:
    """What the report must know."""
    reference = options.reference or next((rule for rule in options.rules if rule.startswith("bp")), options.rules[-1])
    if reference not in options.rules:
        raise UsageError(f"--reference {reference} is not among --rules {' '.join(options.rules)}")
    cap = f"at most {options.epochs} epochs, of every stage where it has stages"
    waits = (
        f"{options.patience} epochs without a better validation {options.monitor}" if options.patience else "the cap"
    )
    words = {
        "own-convergence": f"Every rule trains until {waits} (minimum improvement {options.min_delta:g}; {cap}); the "
        f"state with the {options.keep.replace('_', ' ')} is tested.",
        "matched-passes": f"Every rule uses each training image {options.passes} times, all its stages together, "
        "without early stopping; the last state is tested. Rules in stages update each layer less often.",
        "to-target": "Every rule trains until two validations in a row reach "
        f"{100 * (options.target or 0):g} % accuracy ({cap}); its cost is that until the first of the two.",
    }[options.protocol]
    return {
        "name": options.protocol,
        "reference": reference,
        "words": words,
        "target": options.target if options.protocol == "to-target" else None,
        "passes": options.passes if options.protocol == "matched-passes" else None,
        "notes": notes(options, made),
        "margin_points": options.margin,
        "margin_percent": options.cost_margin,
    }


def check(options: Options) -> None:
    """Refuse what no comparison can use."""
    if len(options.rules) < 2 or len(set(options.rules)) < len(options.rules):
        raise UsageError(f"--rules needs two or more different rules; got {' '.join(options.rules)}")
    if options.protocol == "to-target" and options.target is None:
        raise UsageError("--protocol to-target needs --target, a validation accuracy such as 0.95, fixed beforehand")
    if options.protocol != "to-target" and options.target is not None:
        raise UsageError(f"--target belongs to --protocol to-target; leave it out of {options.protocol}")
    usual, other = Options(), {"matched-passes": STOPPING[:5], "to-target": ("passes", *STOPPING[1:5])}
    for name in other.get(options.protocol, ("passes",)):
        if getattr(options, name) != getattr(usual, name):
            raise UsageError(
                f"--{name.replace('_', '-')} does not belong to --protocol {options.protocol}; leave it out"
            )
    if options.passes < 1:
        raise UsageError(f"--passes must be at least 1; got {options.passes}")
    for name in ("margin", "cost_margin"):
        if not 0 < getattr(options, name) < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} must be above 0; got {getattr(options, name)}")


def finish(folder: Path) -> None:
    """Say what is decided, and write the report."""
    results.write_text(folder / "report.html", report.html_report([folder]))
    results.write_text(folder / "report.md", report.markdown_report([folder]))
    for questions in report.answers([report.load(folder)]):
        rows = [[question.rule, question.quantity, question.sentence] for question in questions]
        heading = "Verdicts, paired by seed, corrected for their number (Holm)"
        report.print_table(heading, ["rule", "of", "verdict"], rows, words=3)


def main() -> int:
    """Parse, train, compare."""
    options = tyro.cli(Options)
    check(options)
    made = arms(options)
    return _common.run("compare", options, made, protocol=protocol(options, made), finish=finish)


if __name__ == "__main__":
    sys.exit(_common.well_behaved(main))
