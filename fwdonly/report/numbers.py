"""Numbers, names and places of a summary, as words for readers. Missing numbers are dashes, never 0."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..results import Summary


def without_outcome(run: dict[str, Any]) -> bool:
    """Whether a run diverged, or has no test accuracy."""
    return run["diverged"] or run["test_accuracy"] is None


def machines(summaries: Sequence[Summary]) -> dict[str, dict[str, list[int]]]:
    """The machines that made runs. Each has the seeds that it made, by the label of the rule."""
    seeds_by_machine: dict[str, dict[str, list[int]]] = {}
    for summary in summaries:
        for run in summary["runs"]:
            seeds_by_machine.setdefault(run.get("machine") or "unknown", {}).setdefault(label(summary), []).append(
                run["seed"]
            )
    return seeds_by_machine


def side_by_side(summary: Summary) -> bool:
    return any(run.get("processes", 1) > 1 for run in summary["runs"])


def label(summary: Summary) -> str:
    """The rule's name for readers."""
    return summary.get("label") or summary["rule"].upper()


def mean_sd(values: Sequence[float | int], form: str = ".2f") -> str:
    """``mean ± sd`` with the sample standard deviation; a dash without values, no sd for a single one."""
    if not values:
        return "-"
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def number(value: float | int | None, like: float | int | None = None) -> str:
    """Four digits, more before the decimal point, without an exponent; as many decimals as ``like`` would have."""
    if value is None:
        return "-"
    size = abs(value if like is None else like)
    if size and not 1e-4 <= size < 1e9:
        return f"{value:.3e}"
    return f"{value:,.{max(3 - math.floor(math.log10(size)), 0) if size else 0}f}"


def spread(values: Sequence[float | int]) -> str:
    """As `mean_sd`, in the digits of `number`."""
    if not values:
        return "-"
    mean = statistics.fmean(values)
    return f"{number(mean)} ± {number(statistics.stdev(values), mean)}" if len(values) > 1 else number(mean)


def readings_of(summary: Summary) -> list[dict[str, Any]]:
    """The energy reading of the sweep, or the readings of single runs."""
    reading = summary.get("energy")
    return [reading] if reading else [run["energy"] for run in summary["runs"] if run.get("energy")]


def alone(summary: Summary) -> bool:
    """Whether every run has seconds of its own."""
    return bool(summary["runs"]) and all(run.get("train_seconds") is not None for run in summary["runs"])


def value_of(quantity: Mapping[str, Any] | None) -> float | int | None:
    return None if quantity is None else quantity["value"]


def span(values: Sequence[float | int | None], form: str) -> str:
    """Lowest and highest; a dash without any."""
    known = [value for value in values if value is not None]
    ends = [format(end, form) for end in (min(known), max(known))] if known else ["-"]
    return " to ".join(dict.fromkeys(ends))


def figure_of(quantity: dict[str, Any] | None) -> str:
    """A quantity of a result file for a table; a dash where there is no value."""
    return "-" if quantity is None or quantity["value"] is None else f"{quantity['value']:.4g}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
