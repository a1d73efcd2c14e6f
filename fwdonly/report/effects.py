"""The 2 x 2 of objective and locality: what of MF's difference from BP each of the two makes, and both together."""

import dataclasses
from typing import NamedTuple

import numpy as np

from .blocks import Block, Heading, Table, Text
from .folder import Folder
from .intervals import Mean, holm_levels, mean_interval, p_values
from .numbers import label, mean_sd, without_outcome
from .stats import CLAIM

CELLS = ("last back-propagated", "every back-propagated", "last local", "every local")
"""Objective (layers that have a loss) and locality (how far its gradient goes), from BP to MF."""

EFFECTS = {
    "difference": (-1, 0, 0, 1),
    "objective, back-propagated": (-1, 1, 0, 0),
    "locality, last loss alone": (-1, 0, 1, 0),
    "interaction": (1, -1, -1, 1),
    "objective, local": (0, 0, -1, 1),
    "locality, every loss": (0, -1, 0, 1),
    "objective, mean of both": (-0.5, 0.5, -0.5, 0.5),
    "locality, mean of both": (-0.5, -0.5, 0.5, 0.5),
}
"""Contrasts of the four accuracies of a seed, in the order of `CELLS`. The second to fourth add up to the first; so do
the last two, and the second with the sixth."""


class Effect(NamedTuple):
    """A contrast of the cells in points of accuracy, over seeds; ``p`` is corrected for all of `EFFECTS` (Holm)."""

    name: str
    mean: Mean
    p: float | None


@dataclasses.dataclass(frozen=True)
class Factorial:
    """What four rules with the same seeds say. ``labels``: of the cells; ``left_out``: seeds that not all four have."""

    labels: tuple[str, ...]
    accuracies: tuple[tuple[float, ...], ...]
    """Percent by seed, of every cell."""
    left_out: int
    effects: tuple[Effect, ...]


def factorial(folder: Folder) -> Factorial | None:
    """The decomposition of a folder whose protocol names four cells; None of any other, or without a common seed."""
    cells = folder.protocol.get("factorial") or {}
    summaries = [next((s for s in folder.rules if s["rule"] == cells.get(cell)), None) for cell in CELLS]
    if None in summaries:
        return None
    rules = [summary for summary in summaries if summary is not None]
    known = [{r["seed"]: 100 * r["test_accuracy"] for r in rule["runs"] if not without_outcome(r)} for rule in rules]
    seeds = sorted(set.intersection(*map(set, known)))
    planned = {run["seed"] for rule in rules for run in rule["runs"]}
    if not seeds:
        return None
    table = np.array([[side[seed] for seed in seeds] for side in known])
    outcomes = [mean_interval((np.array(signs) @ table).tolist()) for signs in EFFECTS.values()]
    levels = [p for (p,) in holm_levels([[_p(outcome)] for outcome in outcomes])]
    effects = map(Effect, EFFECTS, outcomes, levels)
    rows = tuple(tuple(map(float, row)) for row in table)
    return Factorial(tuple(map(label, rules)), rows, len(planned) - len(seeds), tuple(effects))


def _p(outcome: Mean) -> float | None:
    """The two-sided t test of "0"; None where there is no spread to test by."""
    if not outcome.sd or outcome.mean is None:
        return None
    return float(p_values(outcome.mean, outcome.sd / outcome.n**0.5, outcome.n - 1, 1.0)[0])


def factorial_blocks(folder: Folder) -> list[Block]:
    """A table of the four cells, one of the effects, and a sentence; nothing where there is no 2 x 2."""
    outcome = factorial(folder)
    if outcome is None:
        return []
    names = dict(zip(CELLS, outcome.labels, strict=True))
    means = {cell: mean_sd(row) for cell, row in zip(CELLS, outcome.accuracies, strict=True)}
    cells = [
        [
            f"gradient {where}",
            *(f"{means[f'{loss} {where}']}\n{names[f'{loss} {where}']}" for loss in ("last", "every")),
        ]
        for where in ("back-propagated", "local")
    ]
    differing = _differing(folder)
    warning = f"The four rules differ beside the two factors: {'; '.join(differing)}."
    return [
        Heading(4, "Objective and locality"),
        Table(["test %", "the last loss alone", "a loss at every layer"], cells),
        Text(factorial_sentence(outcome) + "."),
        *([Text(warning, "warning")] if differing else []),
        Table(["effect, points", "mean", "95 % interval", "p"], [_row(effect) for effect in outcome.effects]),
        Text(NOTE, "note"),
    ]


def _differing(folder: Folder) -> list[str]:
    """Settings that all four rules have, and not alike, beside what makes the cells."""
    every = folder.config["configuration"].get("rules", {})
    settings = [every.get(folder.protocol["factorial"][cell], {}) for cell in CELLS]
    names = [name for name in settings[0] if all(name in other for other in settings) and name not in FACTORS]
    values = {name: [str(of[name]) for of in settings] for name in names}
    return [f"{name} {', '.join(of)}" for name, of in values.items() if len(set(of)) > 1]


FACTORS = {"losses", "gradient", "readouts", "hidden"}
"""Options that make a rule one of the cells."""

NOTE = (
    "Differences within a seed of the accuracies above. Objective: what losses at every layer add; locality: what it "
    "adds to stop the gradient at every layer; each at both levels of the other, and their mean. Interaction: how much "
    "one changes with the other. p values: t tests over seeds, corrected for this table (Holm); intervals are "
    "unadjusted. With the last loss alone and local gradients, layers below the last keep their start values: a large "
    "effect of locality there, and an interaction that undoes it, are those of layers that do not learn."
)


def factorial_sentence(outcome: Factorial) -> str:
    """The decomposition in words, which claims nothing from fewer than `CLAIM` seeds."""
    by_name = {effect.name: effect for effect in outcome.effects}
    whole, *parts = (by_name[name] for name in list(EFFECTS)[:4])
    first, last = outcome.labels[0], outcome.labels[-1]
    n = whole.mean.n
    added = " ".join(f"{_signed(part.mean.mean)} ({part.name}{_decided(part)})" for part in parts)
    words = f"{last} minus {first}: {_signed(whole.mean.mean)} points{_decided(whole)} = {added}"
    words += f", over {n} seed{'s' * (n > 1)}"
    words += f"; {outcome.left_out} left out" if outcome.left_out else ""
    return words + (f"; fewer than {CLAIM} seeds: no claim" if n < CLAIM else "")


def _decided(effect: Effect) -> str:
    return "" if effect.p is not None and effect.p <= 0.05 else ", not decided"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:+.2f}"


def _row(effect: Effect) -> list[str]:
    interval = effect.mean.interval
    around = "-" if interval is None else f"{_signed(interval[0])} to {_signed(interval[1])}"
    return [effect.name, _signed(effect.mean.mean), around, "-" if effect.p is None else f"{effect.p:.2g}"]
