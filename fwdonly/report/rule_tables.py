"""The report's tables: a row per rule, and a row per rule and seed."""

import statistics
from collections.abc import Sequence
from typing import Any

from ..results import Summary
from . import stats
from .blocks import Block, Items, Table
from .folder import Folder
from .numbers import alone, label, mean_sd, number, spread, without_outcome


def rule_table(folder: Folder) -> Table:
    """A row per rule."""
    others = list(dict.fromkeys(n for s in folder.rules for run in s["runs"] for n in run.get("readouts", {})))
    kept = any(run.get("kept_seconds") is not None for s in folder.rules for run in s["runs"])
    target = folder.protocol.get("name") == "to-target"
    balanced = any("test_balanced_accuracy" in run for s in folder.rules for run in s["runs"])
    header = ["rule", "n", "test %", *["balanced %"] * balanced, *(f"{name} test %" for name in others), "passes"]
    header += ["to target"] * target
    header += ["train s", "energy J", "memory", "arithmetic", "CO2e g", "net J", "mean W", "validation %"]
    header += ["s to kept state"] * kept + ["compile s"]
    rows = []
    for summary in folder.rules:
        every = summary["runs"]
        runs = [run for run in every if not without_outcome(run)]
        of = lambda name, factor=1.0, runs=runs: [factor * run[name] for run in runs if run.get(name) is not None]
        missing = len(folder.planned[summary["rule"]]) - len(every)
        count = [str(len(runs)), *([f"{len(every) - len(runs)} diverged"] if len(runs) < len(every) else [])]
        count += [f"{missing} missing"] if missing else []
        seconds = [spread(of("train_seconds"))] if alone(summary) else []
        seconds = seconds or [number(summary["train_seconds"]), f"of {len(every)} seeds together"]
        readouts = [mean_sd([100 * v for r in runs if (v := _readout(r, name)) is not None]) for name in others]
        accuracy, passes = mean_sd(of("test_accuracy", 100)), mean_sd(of("epochs"), ".1f")
        row = [_name_of(summary), "\n".join(count)]
        row += [_beside(folder, summary, "test_accuracy", accuracy, of("test_accuracy"))]
        row += [*[mean_sd(of("test_balanced_accuracy", 100))] * balanced, *readouts]
        row += [_beside(folder, summary, "epochs", passes, of("epochs"))]
        row += [_reached(every)] if target else []
        row += [_beside(folder, summary, "train_seconds", "\n".join(seconds), [])]
        row += [_beside(folder, summary, "energy_wh", _energy(summary, runs, "energy"), [])]
        row += [_quantities([summary.get("memory")], 1e6, "MB"), _flops([run.get("arithmetic") for run in runs])]
        row += [_energy(summary, runs, name) for name in ("co2e", "net", "mean_power")]
        row += [mean_sd(of("val_accuracy", 100)), *([spread(of("kept_seconds"))] if kept else [])]
        rows.append([*row, number(summary["compile_seconds"])])
    absent = [name for name in folder.planned if name not in {summary["rule"] for summary in folder.rules}]
    rows += [[f"{name.upper()}\nnot trained yet", "0", *["-"] * (len(header) - 2)] for name in absent]
    return Table(header, rows, range(len(rows)))


def _name_of(summary: Summary) -> str:
    return "\n".join([label(summary), *([summary["network"]] if summary.get("network") else [])])


def _beside(folder: Folder, summary: Summary, metric: str, measured: str, values: list[Any]) -> str:
    """The measured number, under it the published one, and under that the verdict.

    Published seconds and energies come from other machines. They are shown and not tested.
    """
    lines = [measured]
    for published in summary.get("published") or ():
        if published["metric"] != metric:
            continue
        accuracy = metric == "test_accuracy"
        scale = 100 if accuracy and published["unit"] not in ("%", "points") else 1
        mean, sd = scale * published["value"], None if published.get("sd") is None else scale * published["sd"]
        words = f"{mean:.2f}" if accuracy else f"{mean:.4g}"
        words += "" if sd is None else f" ± {sd:.2f}" if accuracy else f" ± {sd:.4g}"
        words += "" if accuracy else f" {published['unit']}"
        words += f" (n = {published['n']})" if published.get("n") else ""
        lines.append(f"published {words}")
        if metric in ("train_seconds", "energy_wh"):
            lines.append("on another machine")
        elif values:
            points = float(folder.protocol.get("margin_points", 0.25))
            margin = points if accuracy else float(folder.protocol.get("margin_percent", 5.0)) / 100 * abs(mean)
            ours = [100.0 * value for value in values] if accuracy else values
            unit = "points" if accuracy else published["unit"]
            lost = sum(run["diverged"] for run in summary["runs"])
            verdict = stats.against_published(
                ours, mean, sd, published.get("n"), margin=margin or 1.0, unit=unit, diverged=lost
            )
            sentences = {
                None: verdict.outcome,
                "not decided": "not decided whether reproduced",
                "differs": f"{verdict.outcome}: it differs",
                "diverged": f"{verdict.outcome}: {lost} of {len(summary['runs'])} runs diverged",
            }
            lines += [sentences[verdict.why], f"margin {margin:.3g} {unit}"]
    return "\n".join(lines)


def published_sources(folder: Folder) -> list[Block]:
    sources = dict.fromkeys(
        f"{label(summary)}, published {METRICS.get(published['metric'], published['metric'])}: {published['source']}"
        for summary in folder.rules
        for published in summary.get("published") or ()
    )
    return [Items([f"{source}." for source in sources], "note")] if sources else []


def _reached(runs: Sequence[dict[str, Any]]) -> str:
    """Runs that reached the target, and medians with misses at infinity."""
    if not runs:
        return "-"
    lines = [f"{sum(run.get('target_epoch') is not None for run in runs)} of {len(runs)} runs"]
    for name, unit in (("target_epoch", "passes"), ("target_seconds", "s")):
        if name == "target_seconds" and any(run.get(name) is None and run.get("target_epoch") for run in runs):
            continue
        median = statistics.median([float("inf") if run.get(name) is None else run[name] for run in runs])
        lines.append(f"median {number(median)} {unit}" if median < float("inf") else f"median never ({unit})")
    return "\n".join(lines)


def _energy(summary: Summary, runs: Sequence[dict[str, Any]], name: str) -> str:
    """A figure of the readings: of the sweep, or over the runs."""
    if summary.get("energy"):
        together = f"of {len(summary['runs'])} seeds together"
        return _quantities([summary["energy"].get(name)]) + (f"\n{together}" if name != "mean_power" else "")
    return _quantities([(run.get("energy") or {}).get(name) for run in runs])


def _quantities(quantities: Sequence[Any], per: float = 1.0, unit: str = "") -> str:
    """Mean ± sd of quantities. The line below says whether they are measured, estimated or unavailable."""
    there = [quantity for quantity in quantities if quantity]
    if not there:
        return "-"
    values = [quantity["value"] / per for quantity in there if quantity["value"] is not None]
    status = list(dict.fromkeys(quantity["status"] for quantity in there))
    some = f", {len(values)} of {len(quantities)} runs" if 0 < len(values) < len(quantities) else ""
    return f"{spread(values)}{f' {unit}' * bool(unit and values)}\n{' and '.join(status)}{some}"


def _flops(quantities: Sequence[Any]) -> str:
    size, unit = flop_unit([quantity["value"] for quantity in quantities if quantity and quantity["value"] is not None])
    return _quantities(quantities, size, unit)


def flop_unit(values: Sequence[float | int]) -> tuple[float, str]:
    """Size and name of a unit that suits these numbers of FLOP."""
    sizes = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
    return next(((size, unit) for size, unit in sizes if max(values, default=0) >= size), (1.0, "FLOP"))


def seed_table(folder: Folder) -> Table:
    """One row per rule and planned seed; dashes where the run is missing."""
    runs = [run for summary in folder.rules for run in summary["runs"]]
    others = list(dict.fromkeys(name for run in runs for name in run.get("readouts", {})))
    percent = lambda value: "-" if value is None else f"{100 * value:.2f}"
    plain = number
    reading = lambda name: lambda run: _single((run.get("energy") or {}).get(name))
    columns = {
        "validation %": lambda run: percent(run["val_accuracy"]),
        "test %": lambda r: percent(r["test_accuracy"]),
    }
    if any("test_balanced_accuracy" in run for run in runs):
        columns["balanced %"] = lambda run: percent(run.get("test_balanced_accuracy"))
    for name in others:
        accuracy = lambda run, name=name: percent(_readout(run, name))
        columns[f"{name} test %"] = accuracy
    columns |= {"passes": lambda run: str(run["epochs"]), "kept at": lambda run: str(run["kept_epoch"] or "-")}
    if any(run.get("target_epoch") for run in runs) or folder.protocol.get("name") == "to-target":
        columns["passes to target"] = lambda run: str(run.get("target_epoch") or "-")
        columns["s to target"] = lambda run: plain(run.get("target_seconds"))
    columns["train s"] = lambda run: (
        f"~{number(run['train_seconds_share'])}" if run.get("train_seconds") is None else plain(run["train_seconds"])
    )
    if any(run.get("kept_seconds") is not None for run in runs):
        columns["s to kept state"] = lambda run: plain(run.get("kept_seconds"))
    if any(run.get("energy") for run in runs):
        columns |= {"energy J": reading("energy"), "net J": reading("net"), "mean W": reading("mean_power")}
        columns |= (
            {"CO2e g, estimated": lambda run: reading("co2e")(run).split("\n")[0]}
            if any((run.get("energy") or {}).get("co2e") for run in runs)
            else {}
        )
    if any(run.get("arithmetic") for run in runs):
        columns["arithmetic"] = lambda run: _flops([run.get("arithmetic")]).split("\n")[0]
    rows, looks, strong = [], [], []
    names = {summary["rule"]: summary for summary in folder.rules}
    for look, (rule, seeds) in enumerate(folder.planned.items()):
        by_seed = {run["seed"]: run for run in names[rule]["runs"]} if rule in names else {}
        name = label(names[rule]) if rule in names else rule.upper()
        for seed in seeds:
            run = by_seed.get(seed)
            note = "\nmissing" if run is None else "\ndiverged" if run["diverged"] else ""
            cells = ["-"] * len(columns) if run is None else [show(run) for show in columns.values()]
            rows.append([name, f"{seed}{note}", *cells])
            looks.append(look)
    return Table(["rule", "seed", *columns], rows, looks, strong)


def _readout(run: dict[str, Any], name: str) -> float | None:
    """Test accuracy of a further readout."""
    return run.get("readouts", {}).get(name, {}).get("test_accuracy")


def _single(quantity: dict[str, Any] | None) -> str:
    if not quantity:
        return "-"
    mark = "" if quantity["status"] == "measured" else f"\n{quantity['status']}"
    return ("-" if quantity["value"] is None else number(quantity["value"])) + mark


METRICS = {"test_accuracy": "test accuracy", "epochs": "passes", "train_seconds": "seconds", "energy_wh": "energy"}
