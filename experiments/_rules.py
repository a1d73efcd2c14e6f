"""The rules that `compare.py` and `tune.py` know, by name: which script trains each, and what is searched for it."""

import contextlib
import dataclasses
import importlib
import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import _common
import tyro

from fwdonly import UsageError
from fwdonly.tune import Range


class Rule(NamedTuple):
    """A rule as one of our scripts trains it."""

    label: str
    script: str
    arguments: str
    """What makes the script train this rule."""
    space: dict[str, Range]
    """What is searched: two numbers over three decades each, for every rule, by the names of the script's options."""
    twin: bool = False
    """Backpropagation on the script's network: the second arm, whose options are ``--bp.*``."""


_ADAM = {"learning_rate": Range(1e-5, 1e-2), "weight_decay": Range(1e-6, 1e-3)}

RULES: dict[str, Rule] = {
    # On one MLP.
    "bp": Rule("BP", "bp_mlp", "--optimizer adamw", _ADAM),
    "bp-deep": Rule("BP, deep supervision", "bp_mlp", "--optimizer adamw --readouts deep", _ADAM),
    "bp-sum": Rule("BP, all readouts", "bp_mlp", "--optimizer adamw --readouts sum", _ADAM),
    "mf": Rule("MF", "mf_mlp", "--optimizer adamw", _ADAM),
    "mf-joint": Rule("MF, joint gradient", "mf_mlp", "--optimizer adamw --gradient joint", _ADAM),
    "mf-greedy": Rule("MF, greedy", "mf_mlp", "--optimizer adamw --schedule greedy", _ADAM),
    "mf-greedy-m0": Rule(
        "MF, greedy, with M_0", "mf_mlp", "--optimizer adamw --schedule greedy --input-readout", _ADAM
    ),
    "ff": Rule(
        "FF",
        "ff_mlp",
        "--optimizer adamw --learning-rate 1e-3 --head-learning-rate 0.01 --negatives uniform --peer 0",
        _ADAM,
    ),
    "pepita": Rule(
        "PEPITA",
        "pepita_mlp",
        "--optimizer momentum --learning-rate 0.01",
        {"learning_rate": Range(1e-3, 1.0), "feedback_scale": Range(1e-3, 1.0)},
    ),
    "foton": Rule(
        "FOTON",
        "foton_mlp",
        "--optimizer adam --learning-rate 3e-3 --temperature 4",
        {"learning_rate": Range(1e-5, 1e-2), "temperature": Range(0.1, 100.0)},
    ),
    **{
        mode: Rule(mode.upper(), "feedback_mlp", f"--optimizer adamw --learning-rate 1e-3 --mode {mode}", _ADAM)
        for mode in ("fa", "dfa", "drtp")
    },
    # On CaFo's convolutional network.
    "cafo": Rule("CaFo, random blocks", "cafo_cnn", "--optimizer adamw --learning-rate 1e-3", _ADAM),
    "cafo-dfa": Rule(
        "CaFo, DFA blocks",
        "cafo_cnn",
        "--optimizer adamw --blocks dfa",
        {"learning_rate": Range(1e-5, 1e-2), "block_learning_rate": Range(1e-5, 1e-2)},
    ),
    "bp-cafo": Rule("BP", "cafo_cnn", "--compare --bp.optimizer adamw --bp.learning-rate 1e-3", _ADAM, twin=True),
    # On CwC's.
    "cwc": Rule("CwC", "ff_cnn", "--optimizer adamw --learning-rate 1e-2", _ADAM),
    "bp-cwc": Rule("BP", "ff_cnn", "--compare --bp.optimizer adamw --bp.learning-rate 1e-3", _ADAM, twin=True),
}

TUNED: dict[str, str] = {
    "bp": "--learning-rate 0.0012 --weight-decay 1e-6",
    "mf": "--learning-rate 0.0021762316 --weight-decay 1.208e-6",
}
"""Settings from searches with tune.py on the embedded images (see README.md); other rules have their script's own."""


def words(rule: str, values: Mapping[str, Any]) -> list[str]:
    """Options of the rule's script that say these values."""
    prefix = "--bp." if RULES[rule].twin else "--"
    said: list[str] = []
    for name, value in values.items():
        said += [prefix + name.replace("_", "-"), *map(str, value if isinstance(value, tuple | list) else [value])]
    return said


def options_of(rule: str, shared: _common.Shared, *more: str, tuned: Sequence[str] | None = None) -> Any:
    """The options of the rule's script: what all rules share, over it what makes it this rule, over that ``more``.

    ``tuned`` are words that say settings found by a search; None takes those of `TUNED`.

    Raises:
        UsageError: the script does not know an option, or ``more`` asks for a preset, which would also set data and
            stopping; FF steered by the loss of its scores.
    """
    known = RULES[rule]
    kind = importlib.import_module(known.script).Options
    common = {field.name: getattr(shared, field.name) for field in dataclasses.fields(_common.Shared)}
    own = {name: getattr(shared, name, None) for name in ("widths", "channels")}
    common |= {"lr_schedule": "constant"} | {name: value for name, value in own.items() if value is not None}
    names = {field.name for field in dataclasses.fields(kind)}
    options = kind(**{name: value for name, value in common.items() if name in names})
    if known.twin:  # all but its own options as for the rule it stands beside
        options = dataclasses.replace(options, bp=_common.BPOptions())
    if any(word.split("=")[0] == "--preset" for word in more):
        raise UsageError(f"a preset of {rule} would also set data and stopping; say its single settings instead")
    searched = shlex.split(TUNED.get(rule, "")) if tuned is None else list(tuned)
    for said in ([*shlex.split(known.arguments), *searched], list(more)):
        try:
            with contextlib.redirect_stderr(io.StringIO()) as complaint:
                options = tyro.cli(kind, args=said, default=options, prog=f"{known.script}.py")
        except SystemExit as stopped:
            if stopped.code == 0:  # --help
                raise
            if "nrecognized" not in complaint.getvalue():
                print(complaint.getvalue(), file=sys.stderr)
            raise UsageError(f"{known.script}.py, which trains {rule}, does not take {shlex.join(said)}") from stopped
    if rule == "ff" and (options.keep == "best_loss" or (options.patience is not None and options.monitor == "loss")):
        raise UsageError(
            "FF's scores are no probabilities, so that their loss says little; for all rules add --monitor accuracy "
            "--keep best_accuracy"
        )
    return options


def arm_of(rule: str, options: Any, values: Mapping[str, Any] | None = None) -> _common.Arm:
    """The rule as an arm; ``values`` are options that take the place of others, and may be traced."""
    known = RULES[rule]
    if known.twin:
        options = dataclasses.replace(options, bp=dataclasses.replace(options.bp, **dict(values or {})))
    else:
        options = dataclasses.replace(options, **dict(values or {}))
    arms: Sequence[_common.Arm] = importlib.import_module(known.script).arms(options)
    return arms[1 if known.twin else 0]._replace(name=rule, about={"label": known.label})


def value_of(rule: str, options: Any, name: str) -> Any:
    """What the options say of a name in the rule's space."""
    own = getattr(options.bp, name) if RULES[rule].twin else None
    return getattr(options, name) if own is None else own
