"""Figures of a result folder, drawn by matplotlib (extra ``experiments``)."""

import functools
import math
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files import write_whole
from ..results import Summary
from .numbers import label


def _apart(draw: Callable[..., None]) -> Callable[..., None]:
    """A drawing function that neither uses nor changes what the user has chosen for figures of their own.

    No pyplot, so no backend: that of a notebook stays as it is, and one that is not installed does not matter.
    """

    @functools.wraps(draw)
    def drawn(*args: Any, **options: Any) -> None:
        matplotlib = _matplotlib()
        with matplotlib.rc_context({"text.usetex": False, "axes.formatter.use_mathtext": False}):
            draw(*args, **options)

    return drawn


def _matplotlib() -> Any:
    """Matplotlib; its import fails where ``$MPLBACKEND`` names a backend that is not known here."""
    try:
        import matplotlib
    except ValueError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # what the failed import left
        backend = os.environ.pop("MPLBACKEND", None)
        try:
            import matplotlib
        finally:
            if backend is not None:
                os.environ["MPLBACKEND"] = backend
    return matplotlib


def _shown(rule: str, labels: Mapping[str, str] | None) -> str:
    return (labels or {}).get(rule, rule.upper())


@_apart
def learning_curves(
    path: Path, rows: Sequence[dict[str, Any]], title: str, labels: Mapping[str, str] | None = None
) -> None:
    """Draw validation accuracy and training loss over epochs, every seed thin and the mean of each rule thick.

    Stages follow one another on the epoch axis, their borders dotted. The losses are each rule's own objective and
    not comparable between rules. The mean covers the seeds still training at that epoch.

    Args:
        path: the PNG to write (extra ``experiments``).
        rows: as from `metric_rows` or `read_metrics`.
        title: a line above the figure, such as network and data.
        labels: names of rules for readers; default capitals.
    """
    figure, ((left, right),) = _panels(1, 2, (11, 4.2))
    for colour, rule in enumerate(dict.fromkeys(row["rule"] for row in rows)):
        rule_rows = [row for row in rows if row["rule"] == rule]
        offsets, end = {}, 0
        for stage in sorted({row["stage"] for row in rule_rows}):
            offsets[stage] = end
            end += max(row["epoch"] for row in rule_rows if row["stage"] == stage)
            if stage > 0:
                for axis in (left, right):
                    axis.axvline(offsets[stage] + 0.5, color=f"C{colour}", linestyle=":", linewidth=1)
        for axis, name, factor in ((left, "val_accuracy", 100.0), (right, "train_loss", 1.0)):
            # A point without a value between two stages breaks the lines there.
            at: dict[float, list[float]] = {offset + 0.5: [math.nan] for stage, offset in offsets.items() if stage}
            breaks = [(epoch, math.nan) for epoch in at]
            for seed in dict.fromkeys(row["seed"] for row in rule_rows):
                curve = [
                    (offsets[r["stage"]] + r["epoch"], _float(r[name]) * factor) for r in rule_rows if r["seed"] == seed
                ]
                axis.plot(*zip(*sorted(curve + breaks), strict=True), color=f"C{colour}", alpha=0.35, linewidth=0.8)
                for epoch, value in curve:
                    at.setdefault(epoch, []).append(value)
            epochs = sorted(at)
            means = [np.nanmean(at[e]) if np.isfinite(at[e]).any() else np.nan for e in epochs]
            seeds = len({row["seed"] for row in rule_rows})
            axis.plot(
                epochs,
                means,
                color=f"C{colour}",
                linewidth=2,
                marker="o" if len(epochs) < 10 else None,
                label=f"{_shown(rule, labels)}, {f'mean of {seeds} seeds' if seeds > 1 else '1 seed'}",
            )
    figure.suptitle(textwrap.fill(title, 110))
    left.set(ylabel="validation accuracy, %")
    figure.supxlabel("epoch; the means cover the seeds still training", fontsize="small")
    right.set(ylabel="training loss, nats", title="the rule's own loss, not comparable between rules")
    right.set_yscale("log")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
        axis.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


BY_LAYER = {
    "cosine": {"ylabel": "cosine", "title": "first epoch (dashed) and last one"},
    "norm_ratio": {
        "ylabel": "norm over that of BP's gradient",
        "yscale": "log",
        "title": "the same, ratio of norms",
    },
    "feedback_cosine": {"ylabel": "cosine of B with W", "title": "the same, feedback and weights"},
    "error_cosine": {"ylabel": "cosine with BP's errors", "title": "the same, errors of hidden layers"},
}
"""Panels over depth of the figure of alignment, by column."""


@_apart
def alignment_curves(
    path: Path, rows: Sequence[dict[str, Any]], title: str, labels: Mapping[str, str] | None = None
) -> None:
    """Draw the cosine with backpropagation's gradient over training and over depth, and the ratio of norms over depth.

    Left: mean over hidden layers, every seed thin and the mean of each rule thick; an epoch's value is the mean over
    its steps. The others: every layer, the output layer last, of the first epoch (dashed) and the last one. Where rules
    send errors by other matrices than the weights, two more: the cosine of these with the weights, and of the errors.

    Args:
        path: the PNG to write (extra ``experiments``).
        rows: as from `metric_rows` or `read_metrics`, with the columns ``cosine`` and ``norm_ratio``, and perhaps
            ``feedback_cosine`` and ``error_cosine``; others are left out.
        title: a line above the figure, such as network and data.
        labels: as for `learning_curves`.
    """
    rows = [row for row in rows if row.get("cosine")]
    panels = [name for name in BY_LAYER if any(row.get(name) for row in rows)]
    figure, ((left, *others),) = _panels(1, 1 + len(panels), (4 + 4.5 * len(panels), 4.2))
    for colour, rule in enumerate(dict.fromkeys(row["rule"] for row in rows)):
        rule_rows = [row for row in rows if row["rule"] == rule]
        look: dict[str, Any] = {"color": f"C{colour}"}
        cosine = _by_run(rule_rows, "cosine")  # (seeds, epochs, layers)
        hidden = cosine[..., : max(cosine.shape[-1] - 1, 1)].mean(-1)
        epochs = 1 + np.arange(hidden.shape[1])
        for seed in hidden:
            left.plot(epochs, seed, alpha=0.35, linewidth=0.8, **look)
        left.plot(epochs, hidden.mean(0), linewidth=2, marker="o", markersize=3, label=_shown(rule, labels), **look)
        for axis, name in zip(others, panels, strict=True):
            if not any(row.get(name) for row in rule_rows):
                continue
            mean = _by_run(rule_rows, name).mean(0)
            layers = 1 + np.arange(mean.shape[1])
            axis.plot(layers, mean[0], linestyle="--", linewidth=1, **look)
            axis.plot(layers, mean[-1], marker="o", markersize=3, label=_shown(rule, labels), **look)
    figure.suptitle(textwrap.fill(title, 130))
    left.set(xlabel="epoch", ylabel="cosine with BP's gradient", title="mean over hidden layers")
    for axis, name in zip(others, panels, strict=True):
        axis.set(xlabel="layer", **BY_LAYER[name])
    for axis in (left, *others):
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.get_yscale() == "linear":
            axis.set_ylim(-1.05, 1.05)
    _save(figure, path)


@_apart
def layer_curves(path: Path, summaries: Sequence[Summary], title: str) -> None:
    """Draw the validation accuracy of every layer's own scores over depth, every seed thin, the mean of a rule thick.

    Args:
        path: the PNG to write (extra ``experiments``).
        summaries: of rules; those without ``layer_accuracy`` are left out.
        title: a line above the figure, such as network and data.
    """
    figure, ((axis,),) = _panels(1, 1, (6, 4.2))
    for colour, summary in enumerate(summaries):
        runs = [100 * np.array(run["layer_accuracy"]) for run in summary["runs"] if run.get("layer_accuracy")]
        look: dict[str, Any] = {"color": f"C{colour}"}
        for values in runs:
            axis.plot(1 + np.arange(len(values)), values, alpha=0.35, linewidth=0.8, **look)
        if runs:
            shortest = min(map(len, runs))
            mean = np.mean([values[:shortest] for values in runs], axis=0)
            axis.plot(1 + np.arange(shortest), mean, linewidth=2, marker="o", label=label(summary), **look)
    figure.suptitle(textwrap.fill(title, 60))
    axis.set(xlabel="layer", ylabel="validation accuracy of its own scores, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    axis.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


@_apart
def power_figure(
    path: Path, rows: Sequence[dict[str, Any]], title: str, labels: Mapping[str, str] | None = None
) -> None:
    """Draw every rule's power over its training, one panel a rule, on one scale; epochs dotted, idle power dashed.

    A run trained alone has a line that starts at second 0. Ends of epochs and idle power are those of the first run.

    Args:
        path: the PNG to write (extra ``experiments``).
        rows: as from `power_rows` or `read_power`.
        title: a line above the figure, such as network and data.
        labels: as for `learning_curves`.
    """
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    figure, axes = _panels(len(rules), 1, (11, 1.2 + 2.4 * len(rules)), shared=True)
    for axis, rule in zip(axes[:, 0], rules, strict=True):
        runs: dict[int | None, list[dict[str, Any]]] = {}
        for row in rows:
            if row["rule"] == rule:
                runs.setdefault(row["seed"], []).append(row)
        seed, first = next(iter(runs.items()))
        axis.set_ymargin(0.25)  # room for the marks' names
        marks = [row for row in first if row["seconds"] is not None and row["mark"]]
        for row in marks:
            axis.axvline(row["seconds"], color="0.6", linestyle=":", linewidth=0.8)
        for row in marks[:: -(-len(marks) // 12) or 1]:  # a dozen labels at most
            axis.annotate(
                row["mark"], (row["seconds"], 1), xycoords=("data", "axes fraction"), rotation=90, fontsize="xx-small",
                ha="right", va="top", color="0.4",
            )  # fmt: skip
        devices = dict.fromkeys(row["device"] for run_rows in runs.values() for row in run_rows if row["device"])
        for colour, device in enumerate(devices):
            name, width = device, 1.2 if len(runs) == 1 else 0.7
            for run_rows in runs.values():
                trace = [
                    (row["seconds"], row["watts"]) for row in run_rows if row["device"] == device and not row["mark"]
                ]
                if trace:
                    axis.plot(*zip(*trace, strict=True), color=f"C{colour}", linewidth=width, label=name)
                    name = None
            for row in first:
                if row["device"] == device and row["mark"] == "idle":
                    axis.axhline(row["watts"], color=f"C{colour}", linestyle="--", linewidth=1, label=f"{device}, idle")
        several = f", {len(runs)} runs; dotted and dashed: of seed {seed}" if len(runs) > 1 else ""
        axis.set(ylabel="power, W", title=_shown(rule, labels) + several)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small", loc="lower right")
        axis.set_ylim(bottom=0)
    axes[-1, 0].set_xlabel("seconds since the training began; dotted: ends of epochs")
    figure.suptitle(textwrap.fill(title, 110))
    _save(figure, path)


@_apart
def search_figure(path: Path, rows: Sequence[dict[str, Any]], names: Sequence[str], title: str) -> None:
    """Draw the validation accuracy of every trial of a search over each number searched, the best one ringed.

    Args:
        path: the PNG to write (extra ``experiments``).
        rows: one per trial: ``state``, ``val_accuracy`` (0..1, None where there is none) and the numbers by name.
        names: the numbers searched; other settings are left out.
        title: a line above the figure.
    """
    rows = [row for row in rows if row["val_accuracy"] is not None]
    names = [name for name in names if all(isinstance(row.get(name), float | int) for row in rows)]
    figure, axes = _panels(1, max(len(names), 1), (5.5 * max(len(names), 1), 4.2), layout=None)
    best = max((row for row in rows if row["state"] == "complete"), key=lambda row: row["val_accuracy"], default=None)
    for axis, name in zip(axes[0], names, strict=False):
        for state, look in (("pruned", {"marker": "x", "color": "0.6"}), ("complete", {"marker": "o", "color": "C0"})):
            trials = [row for row in rows if row["state"] == state]
            axis.scatter(
                [row[name] for row in trials], [100 * row["val_accuracy"] for row in trials], s=18, label=state, **look
            )
        if best is not None:
            axis.scatter(
                [best[name]], [100 * best["val_accuracy"]], s=90, facecolors="none", edgecolors="C3", label="best"
            )
        values = [row[name] for row in rows]
        if values and min(values) > 0 and max(values) > 20 * min(values):
            axis.set_xscale("log")
        axis.set(xlabel=name.replace("_", " "), ylabel="validation accuracy, %")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.suptitle(textwrap.fill(title, 60 * max(len(names), 1)))
    figure.tight_layout()
    _save(figure, path)


def _by_run(rows: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """A column of one rule as numbers (seeds, epochs, ...), cut to the epochs that every seed trained."""
    by_seed: dict[int, list[list[float]]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append([float(value) for value in row[name].split()])
    shortest = min(map(len, by_seed.values()))
    return np.array([curve[:shortest] for curve in by_seed.values()])


def _panels(
    lines: int,
    columns: int,
    size: tuple[float | int, float | int],
    *,
    shared: bool = False,
    layout: Any = "constrained",
) -> tuple[Any, Any]:
    """A figure of its own, drawn by Agg, and its axes (lines, columns); ``size`` in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout=layout)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, sharex=shared, sharey=shared, squeeze=False)


def _save(figure: Any, path: Path) -> None:
    try:
        write_whole(path, lambda file: figure.savefig(file, dpi=130, format="png"))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a writable folder") from error


def _float(value: float | None) -> float:
    return math.nan if value is None else value
