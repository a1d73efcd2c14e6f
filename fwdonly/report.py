"""Result files, and the tables and figures made from them alone.

A result folder holds ``config.json``, ``summary.json``, ``metrics.csv``, ``table.md`` and ``learning_curves.png``, and
where power was measured ``power.csv`` and ``power.png``.
Missing numbers are null (in tables a dash), never 0.
"""

import csv
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .base import UsageError
from .energy import Intensity, Reading
from .train import Result

METERED = (
    "Energy: of all seeds together, gross; training, validation and writing checkpoints, without compilation and "
    "test. Stopping as configured, one window per rule: no difference between rules may be claimed from it "
    "(benchmarks/energy.py measures differences at matched passes)."
)

Summary = dict[str, Any]
"""One rule's results as JSON: ``rule``, ``runs`` (one record per seed), seconds, and whether it finished."""

METRIC_COLUMNS = ["rule", "seed", "stage", "epoch", "train_loss", "val_loss", "val_accuracy", "layer_loss"]

POWER_COLUMNS = ["rule", "seconds", "device", "watts", "mark"]

FOOTNOTE = (
    "train s of a seed is its share of the rule's wall clock by epochs (seeds are trained in one program); in the mean "
    "row, train s and compile s are the measured totals of the rule."
)


def summarise(rule: str, seeds: Sequence[int], result: Result, intensity: Intensity | None = None) -> Summary:
    """A rule's `Result` over several seeds as plain JSON types: one record per seed, in the order of ``seeds``.

    ``train_seconds`` of a run is its share of the sweep's wall clock in proportion to its epochs, since runs of a
    sweep are not timed one by one. Its energy is not shared out: it is that of the sweep. ``intensity`` adds CO2e.
    """
    total = max(int(result.epochs.sum()), 1)
    runs = []
    for i, seed in enumerate(seeds):
        trained = int(result.epochs[i])
        runs.append(
            {
                "seed": int(seed),
                "val_accuracy": _number(result.val_accuracy[i]),
                "val_loss": _number(result.val_loss[i]),
                "test_accuracy": _number(result.test_accuracy[i]),
                "test_loss": _number(result.test_loss[i]),
                "epochs": trained,
                "kept_epoch": int(result.kept_epoch[i]),
                "train_seconds_share": result.train_seconds * trained / total,
                "diverged": bool(result.diverged[i]),
                "readouts": {
                    name: {metric: _number(values[i]) for metric, values in found.items()}
                    for name, found in result.readouts.items()
                },
            }
        )
    return {
        "rule": rule,
        "finished": result.finished,
        "compile_seconds": result.compile_seconds,
        "train_seconds": result.train_seconds,
        "energy": None if result.energy is None else _energy(result.energy, intensity),
        "runs": runs,
    }


def _energy(reading: Reading, intensity: Intensity | None) -> dict[str, Any]:
    more = {} if intensity is None else {"co2e": reading.carbon(intensity).as_json()}
    return json.loads(json.dumps(reading.as_json() | more))  # as it comes back from the file: lists for tuples


def metric_rows(rule: str, seeds: Sequence[int], result: Result) -> list[dict[str, Any]]:
    """The history as one row per epoch and seed, for ``metrics.csv``; epochs a stopped run did not train are left out.

    A value per layer becomes one cell, joined with spaces; what a rule measures besides gets columns of its own.
    """
    history, rows = result.history, []
    plain = {*METRIC_COLUMNS[:-1], "trained"}
    for at in range(len(history.get("epoch", ()))):
        for i, seed in enumerate(seeds):
            if not history["trained"][at][i]:
                continue
            own = {name: np.ravel(column[at][i]) for name, column in history.items() if name not in plain}
            rows.append(
                {
                    "rule": rule,
                    "seed": int(seed),
                    "stage": int(history["stage"][at]),
                    "epoch": int(history["epoch"][at]),
                    **{name: _number(history[name][at][i]) for name in ("train_loss", "val_loss", "val_accuracy")},
                    "layer_loss": "",
                    **{name: " ".join(f"{value:.6g}" for value in values) for name, values in own.items()},
                }
            )
    return rows


def environment() -> dict[str, Any]:
    """The software and hardware of this process, as far as it can be read; unknown entries are None."""
    device = jax.devices()[0]
    names = ("fwdonly", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in names},
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": len(jax.devices()),
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "matmul_precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
    }


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; NaN is refused.

    Raises:
        UsageError: the file cannot be written.
    """
    _write(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_metrics(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write ``metrics.csv``; a missing number is an empty cell.

    Raises:
        UsageError: the file cannot be written.
    """
    write_rows(path, METRIC_COLUMNS, rows)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a CSV whole or not at all; columns that only rows have come last, a missing number is an empty cell.

    Raises:
        UsageError: the file cannot be written.
    """
    temporary = path.with_name(path.name + ".part")
    rows = list(rows)
    columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    try:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a writable folder") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.csv``; of `METRIC_COLUMNS` numbers as numbers, missing ones as NaN; others as text."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {
                name: value
                if name in ("rule", "layer_loss") or name not in METRIC_COLUMNS
                else int(value)
                if name in ("seed", "stage", "epoch")
                else float(value or "nan")
                for name, value in row.items()
            }
            for row in csv.DictReader(file)
        ]


def power_rows(rule: str, result: Result) -> list[dict[str, Any]]:
    """The power trace as rows for ``power.csv``: W of every device over seconds, idle power (no seconds), and marks."""
    reading = result.energy
    if reading is None or not any(part.trace for part in reading.parts):
        return []
    rows: list[dict[str, Any]] = []
    for part in reading.parts:
        own = {"rule": rule, "device": part.name}
        rows += [own | {"seconds": round(at, 4), "watts": round(watts, 3), "mark": ""} for at, watts in part.trace]
        if part.idle.value is not None:
            rows.append(own | {"seconds": None, "watts": round(part.idle.value, 3), "mark": "idle"})
    return rows + [
        {"rule": rule, "device": "", "seconds": round(at, 4), "watts": None, "mark": name} for at, name in reading.marks
    ]


def read_power(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``power.csv``; missing numbers as None."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            row | {name: float(row[name]) if row[name] else None for name in ("seconds", "watts")}
            for row in csv.DictReader(file)
        ]


def table_rows(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the result table: a row per rule and seed, then mean ± sd (n - 1) per rule.

    Accuracies in percent. The mean covers finished runs that did not diverge, and says how many there are. Of the
    seconds, see `FOOTNOTE`; of energies, `footnotes`. Where energy was asked for, the mean row has the sweep's.
    """
    others = list(dict.fromkeys(name for s in summaries for run in s["runs"] for name in run.get("readouts", {})))
    header = ["rule", "seed", "val %", "test %", *(f"{name} test %" for name in others)]
    header += ["epochs", "train s", "compile s"]
    energies = [summary["energy"] for summary in summaries if summary.get("energy")]
    figures = {"energy J": "energy", "net J": "net", "mean W": "mean_power", "CO2e g": "co2e"} if energies else {}
    figures = {column: name for column, name in figures.items() if any(name in energy for energy in energies)}
    header += list(figures)

    def other(run: dict[str, Any], name: str) -> float | None:
        return run.get("readouts", {}).get(name, {}).get("test_accuracy")

    rows = []
    for summary in summaries:
        name = summary["rule"].upper()
        for run in summary["runs"]:
            note = " diverged" if run["diverged"] else ""
            rows.append(
                [
                    name,
                    str(run["seed"]) + note,
                    _percent(run["val_accuracy"]),
                    _percent(run["test_accuracy"]),
                    *(_percent(other(run, name)) for name in others),
                    str(run["epochs"]),
                    f"~{run['train_seconds_share']:.1f}",
                    "",
                    *("" for _ in figures),
                ]
            )
        counted = [run for run in summary["runs"] if run["test_accuracy"] is not None]
        rows.append(
            [
                name,
                f"mean of {len(counted)}",
                mean_sd([100 * run["val_accuracy"] for run in counted]),
                mean_sd([100 * run["test_accuracy"] for run in counted]),
                *(mean_sd([100 * v for run in counted if (v := other(run, name)) is not None]) for name in others),
                mean_sd([run["epochs"] for run in counted], ".1f"),
                f"{summary['train_seconds']:.1f}",
                f"{summary['compile_seconds']:.1f}",
                *(_figure((summary.get("energy") or {}).get(name)) for name in figures.values()),
            ]
        )
    return header, rows


def footnotes(summaries: Sequence[Summary]) -> list[str]:
    """What a reader of the table must know: how seconds are shared, and where every rule's energy comes from."""
    lines = [FOOTNOTE]
    metered = [summary for summary in summaries if summary.get("energy")]
    if metered:
        lines.append(METERED)
    for summary in summaries:
        energy = summary.get("energy")
        if not energy:
            lines += [f"{summary['rule'].upper()}: trained without --energy."] if metered else []
            continue
        own = energy["energy"]
        words = f"{summary['rule'].upper()}: energy "
        if own["value"] is None:
            words += f"unavailable: {own['reason']}"
        else:
            words += f"{own['status']} ({own['source']})" + (f", {own['reason']}" if own["reason"] else "")
            for part in energy["parts"]:
                limit, busy = part["about"].get("power_limit_w"), part["utilisation"]
                words += f"; {part['name']} idle {_figure(part['idle'])} W"
                words += f", limit {limit:g} W" if limit is not None else ""
                words += f", busy {100 * busy:.0f} %" if busy is not None else ""
            words += "; under 30 s: not for a claim" if energy["seconds"]["value"] < 30 else ""
        for name, opinion in energy["opinions"].items():
            value = f"{opinion['value']:.4g} {opinion['unit']}" if opinion["value"] is not None else opinion["reason"]
            words += f"; {name} {opinion['status']} {value}"
        notes = [*energy["notes"], *(note for part in energy["parts"] for note in part["notes"])]
        lines.append("; ".join([words, *notes]) + ".")
        co2e = energy.get("co2e")
        if co2e and co2e["value"] is not None:
            lines.append(f"{summary['rule'].upper()}: CO2e {co2e['status']}, {co2e['source']}.")
    return lines


def statistics_of(summary: Summary) -> dict[str, Any]:
    """Mean and sample sd (n - 1; None for one run) over the runs that finished and did not diverge."""
    counted = [run for run in summary["runs"] if run["test_accuracy"] is not None]
    out: dict[str, Any] = {"n": len(counted), "diverged": sum(run["diverged"] for run in summary["runs"])}
    columns = {name: [run[name] for run in counted] for name in ("val_accuracy", "test_accuracy", "epochs")}
    for name in {name: None for run in counted for name in run.get("readouts", {})}:
        columns[f"{name}_test_accuracy"] = [run["readouts"][name]["test_accuracy"] for run in counted]
    for name, values in columns.items():
        out[name] = {
            "mean": statistics.fmean(values) if values else None,
            "sd": statistics.stdev(values) if len(values) > 1 else None,
        }
    return out


def mean_sd(values: Sequence[float | int], form: str = ".2f") -> str:
    """``mean ± sd`` with the sample standard deviation; a dash without values, no sd for a single one."""
    if not values:
        return "-"
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to the terminal (extra ``experiments``); rows that hold a mean are set off."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=True)
    for row in rows:
        mean = row[1].startswith("mean")
        table.add_row(*row, style="bold" if mean else None, end_section=mean)
    console = Console()
    # A table cut off at the width of a narrow terminal, or at the 80 columns of piped output, helps nobody.
    needed = Measurement.get(Console(width=1000), console.options.update(width=1000), table).maximum
    Console(width=max(console.width, needed)).print(table)


def learning_curves(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Draw validation accuracy and training loss over epochs, every seed thin and the mean of each rule thick.

    The mean of a further readout is dashed.

    Stages follow one another on the epoch axis, their borders dotted. The losses are each rule's own objective and
    not comparable between rules. The mean covers the seeds still training at that epoch.

    Args:
        path: the PNG to write (extra ``experiments``).
        rows: as from `metric_rows` or `read_metrics`.
        title: a line above the figure, such as network and data.
    """
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    for colour, rule in enumerate(dict.fromkeys(row["rule"] for row in rows)):
        own = [row for row in rows if row["rule"] == rule]
        offsets, end = {}, 0
        for stage in sorted({row["stage"] for row in own}):
            offsets[stage] = end
            end += max(row["epoch"] for row in own if row["stage"] == stage)
            if stage > 0:
                for axis in (left, right):
                    axis.axvline(offsets[stage] + 0.5, color=f"C{colour}", linestyle=":", linewidth=1)
        for axis, name, factor in ((left, "val_accuracy", 100.0), (right, "train_loss", 1.0)):
            # A point without a value between two stages breaks the lines there.
            at: dict[float, list[float]] = {offset + 0.5: [math.nan] for stage, offset in offsets.items() if stage}
            breaks = [(epoch, math.nan) for epoch in at]
            for seed in dict.fromkeys(row["seed"] for row in own):
                curve = [(offsets[r["stage"]] + r["epoch"], _float(r[name]) * factor) for r in own if r["seed"] == seed]
                axis.plot(*zip(*sorted(curve + breaks), strict=True), color=f"C{colour}", alpha=0.35, linewidth=0.8)
                for epoch, value in curve:
                    at.setdefault(epoch, []).append(value)
            epochs = sorted(at)
            means = [np.nanmean(at[e]) if np.isfinite(at[e]).any() else np.nan for e in epochs]
            seeds = len({row["seed"] for row in own})
            axis.plot(
                epochs,
                means,
                color=f"C{colour}",
                linewidth=2,
                marker="o" if len(epochs) < 10 else None,
                label=f"{rule.upper()}, {f'mean of {seeds} seeds' if seeds > 1 else '1 seed'}",
            )
        for name in sorted({name for row in own for name in row if name.startswith("val_accuracy_") and row[name]}):
            of_epoch: dict[int, list[float]] = {}
            for row in own:
                of_epoch.setdefault(offsets[row["stage"]] + row["epoch"], []).append(100 * float(row[name] or "nan"))
            epochs = sorted(of_epoch)
            other = f"{rule.upper()}, {name.removeprefix('val_accuracy_')} readout"
            means = [np.nanmean(of_epoch[e]) for e in epochs]
            left.plot(epochs, means, color=f"C{colour}", linestyle="--", linewidth=1.5, label=other)
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


def alignment_curves(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Draw the cosine with backpropagation's gradient over training and over depth, and the ratio of norms over depth.

    Left: mean over hidden layers, every seed thin and the mean of each rule thick; an epoch's value is the mean over
    its steps. Middle and right: every layer, the output layer last, of the first epoch (dashed) and the last one.

    Args:
        path: the PNG to write (extra ``experiments``).
        rows: as from `metric_rows` or `read_metrics`, with the columns ``cosine`` and ``norm_ratio``; others are left
            out.
        title: a line above the figure, such as network and data.
    """
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.2), constrained_layout=True)
    rows = [row for row in rows if row.get("cosine")]
    for colour, rule in enumerate(dict.fromkeys(row["rule"] for row in rows)):
        own = [row for row in rows if row["rule"] == rule]
        values = {name: _by_run(own, name) for name in ("cosine", "norm_ratio")}  # (seeds, epochs, layers)
        look: dict[str, Any] = {"color": f"C{colour}"}
        hidden = values["cosine"][..., :-1].mean(-1)
        epochs = 1 + np.arange(hidden.shape[1])
        for seed in hidden:
            left.plot(epochs, seed, alpha=0.35, linewidth=0.8, **look)
        left.plot(epochs, hidden.mean(0), linewidth=2, marker="o", markersize=3, label=rule.upper(), **look)
        for axis, name in ((middle, "cosine"), (right, "norm_ratio")):
            mean = values[name].mean(0)
            layers = 1 + np.arange(mean.shape[1])
            axis.plot(layers, mean[0], linestyle="--", linewidth=1, **look)
            axis.plot(layers, mean[-1], marker="o", markersize=3, label=rule.upper(), **look)
    figure.suptitle(textwrap.fill(title, 130))
    left.set(xlabel="epoch", ylabel="cosine with BP's gradient", title="mean over hidden layers")
    middle.set(xlabel="layer", ylabel="cosine", title="first epoch (dashed) and last one")
    right.set(xlabel="layer", ylabel="norm over that of BP's gradient", yscale="log", title="the same, ratio of norms")
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in (left, middle):
        axis.set_ylim(-1.05, 1.05)
    _save(figure, path)


def power_figure(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Draw every rule's power over its training, one panel a rule, on one scale; epochs dotted, idle power dashed.

    Args:
        path: the PNG to write (extra ``experiments``).
        rows: as from `power_rows` or `read_power`.
        title: a line above the figure, such as network and data.
    """
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    rules = list(dict.fromkeys(row["rule"] for row in rows))
    figure, axes = plt.subplots(
        len(rules),
        1,
        figsize=(11, 1.2 + 2.4 * len(rules)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, rule in zip(axes[:, 0], rules, strict=True):
        own = [row for row in rows if row["rule"] == rule]
        axis.set_ymargin(0.25)  # room for the marks' names
        marks = [row for row in own if row["seconds"] is not None and row["mark"]]
        for row in marks:
            axis.axvline(row["seconds"], color="0.6", linestyle=":", linewidth=0.8)
        for row in marks[:: -(-len(marks) // 12) or 1]:  # a dozen labels at most
            axis.annotate(
                row["mark"], (row["seconds"], 1), xycoords=("data", "axes fraction"), rotation=90, fontsize="xx-small",
                ha="right", va="top", color="0.4",
            )  # fmt: skip
        for colour, device in enumerate(dict.fromkeys(row["device"] for row in own if row["device"])):
            trace = [(row["seconds"], row["watts"]) for row in own if row["device"] == device and not row["mark"]]
            axis.plot(*zip(*trace, strict=True), color=f"C{colour}", linewidth=1.2, label=device)
            for row in own:
                if row["device"] == device and row["mark"] == "idle":
                    axis.axhline(row["watts"], color=f"C{colour}", linestyle="--", linewidth=1, label=f"{device}, idle")
        axis.set(ylabel="power, W", title=rule.upper())
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small", loc="lower right")
        axis.set_ylim(bottom=0)
    axes[-1, 0].set_xlabel("seconds since the training began; dotted: ends of epochs")
    figure.suptitle(textwrap.fill(title, 110))
    _save(figure, path)


def _by_run(rows: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """A column of one rule as numbers (seeds, epochs, ...), cut to the epochs that every seed trained."""
    by_seed: dict[int, list[list[float]]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append([float(value) for value in row[name].split()])
    shortest = min(map(len, by_seed.values()))
    return np.array([curve[:shortest] for curve in by_seed.values()])


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a writable folder") from error
    finally:
        plt.close(figure)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    _write(path, text)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a writable folder") from error


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _figure(quantity: dict[str, Any] | None) -> str:
    """A quantity of a result file for a table; a dash where there is no value."""
    return "-" if quantity is None or quantity["value"] is None else f"{quantity['value']:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    here = Path(__file__).parents[1]
    if not (here / ".git").exists():  # an installed wheel; the repository around it, if any, is somebody else's
        return None
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return out.stdout.strip()


def _cpu() -> str | None:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None
