"""The report's figures."""

from typing import Any

from ..results import Summary
from .blocks import Block, Figures, Text
from .folder import Folder
from .numbers import label, without_outcome
from .rule_tables import flop_unit
from .svg import Cloud, Point, Runs, curves_svg, dots_svg, scatter_svg


def picture_sections(folder: Folder) -> list[tuple[str, list[Block]]]:
    """The sections of the report that hold figures: a heading and the figures under it."""
    rules = list(enumerate(folder.rules))
    legend = [(look, label(summary)) for look, summary in rules]
    passes, seconds = _learning(folder)
    drawn, words = [], "A thin line is a seed, the thick one the mean of the seeds still training."
    words += " A short upright line: a stage begins." if any(row["stage"] for row in folder.rows) else ""
    for runs, xlabel, caption in (
        (passes, "passes over the training images", words),
        (seconds, "seconds of training", "The same over each run's own clock, without compilation; markers: its end."),
    ):
        if any(any(runs_of_rule.values()) for _, _, runs_of_rule in runs):
            drawn.append((caption, curves_svg(runs, xlabel, "validation accuracy, %", means=runs is passes)))
    out: list[tuple[str, list[Block]]] = [("Learning curves", [Figures(drawn, legend)] if drawn else [])]
    drawn = []
    for name, xlabel in COSTS.items():
        clouds = []
        for look, summary in rules:
            at = {run["seed"]: _place(run, name) for run in summary["runs"] if not without_outcome(run)}
            there = {seed: place for seed, place in at.items() if place is not None}
            clouds += [Cloud(look, label(summary), there)] if there else []
        if clouds:
            if name == "arithmetic":
                size, unit = flop_unit([x for cloud in clouds for x, _ in cloud.seeds.values()])
                scaled = [{seed: (x / size, y) for seed, (x, y) in cloud.seeds.items()} for cloud in clouds]
                clouds = [cloud._replace(seeds=seeds) for cloud, seeds in zip(clouds, scaled, strict=True)]
                xlabel = f"arithmetic, {unit}"
            absent = [label for look, label in legend if look not in {cloud.look for cloud in clouds}]
            caption = "Small: a seed; large: the mean. Dashed: the front of the means, from which no rule is both "
            caption += "cheaper and more accurate." + (f" Without a value: {', '.join(absent)}." if absent else "")
            drawn.append((caption, scatter_svg(clouds, xlabel, "test accuracy, %")))
    why = "No run has seconds, energy or arithmetic of its own: the seeds of a rule were trained together."
    out.append(("Accuracy against cost", [Figures(drawn, legend)] if drawn else [Text(why, "note")]))
    drawn = []
    diverged = [f"{label(s)} {r['seed']}" for s in folder.rules for r in s["runs"] if without_outcome(r)]
    for name, xlabel in {"test_accuracy": "test accuracy, %", **COSTS}.items():
        values = []
        for look, summary in rules:
            by_seed = {r["seed"]: _value(r, name) for r in summary["runs"] if not without_outcome(r)}
            values.append((look, label(summary), {seed: v for seed, v in by_seed.items() if v is not None}))
        if name != "arithmetic" and any(by_seed for _, _, by_seed in values):
            caption = "A line joins the runs of one seed; the upright line is the mean."
            caption += f" Not shown, diverged: {', '.join(diverged)}." if diverged else ""
            drawn.append((caption, dots_svg(values, xlabel)))
    depth = [(look, label(summary), _by_layer(summary)) for look, summary in rules]
    shown = [clouds for clouds in depth if clouds[2]]
    caption = "Every layer's own scores in the kept state, on the validation images. " + words.split(". ")[0] + "."
    figure = [(caption, curves_svg(shown, "layer", "validation accuracy, %"))] if shown else []
    out.append(("Accuracy by layer", [Figures(figure, legend)] if shown else []))
    out.append(("Seed by seed", [Figures(drawn, legend)] if drawn else []))
    return out


def _by_layer(summary: Summary) -> Runs:
    """The accuracy over depth of every run."""
    of_runs = {run["seed"]: run.get("layer_accuracy") or [] for run in summary["runs"]}
    return {
        seed: [(float(layer), 100 * value, 0) for layer, value in enumerate(values, start=1)]
        for seed, values in of_runs.items()
        if values
    }


COSTS = {"train_seconds": "seconds of training", "energy": "measured energy, J", "arithmetic": "arithmetic, FLOP"}


def _value(run: dict[str, Any], name: str) -> float | None:
    """A number of a run for a figure; energies only where they were measured."""
    if name == "test_accuracy":
        return 100 * run["test_accuracy"]
    if name == "train_seconds":
        return None if run.get(name) is None else float(run[name])
    quantity = (run.get("energy") or {}).get("energy") if name == "energy" else run.get(name)
    usable = quantity and quantity["value"] is not None and (name != "energy" or quantity["status"] == "measured")
    return float(quantity["value"]) if quantity and usable else None


def _place(run: dict[str, Any], name: str) -> Point | None:
    cost = _value(run, name)
    return None if cost is None else (cost, 100 * run["test_accuracy"])


def _learning(folder: Folder) -> list[list[tuple[int, str, Runs]]]:
    """The validation accuracies of every run: once over its passes, once over its seconds."""
    by_run: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in folder.rows:
        by_run.setdefault((row["rule"], row["seed"]), []).append(row)
    curves: list[list[tuple[int, str, Runs]]] = [[], []]
    for look, summary in enumerate(folder.rules):
        both: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
        for run in summary["runs"]:
            rows = sorted(by_run.get((summary["rule"], run["seed"]), []), key=lambda r: (r["stage"], r["epoch"]))
            ends: dict[int, int] = {}
            for row in rows:
                ends[row["stage"]] = row["epoch"]
            points = [[], []]
            for row in rows:
                y = 100 * row["val_accuracy"]
                if y != y:
                    continue
                before = sum(end for stage, end in ends.items() if stage < row["stage"])
                points[0].append((float(before + row["epoch"]), y, row["stage"]))
                if row["seconds"] is not None:
                    points[1].append((row["seconds"], y, row["stage"]))
            for side, curve in zip(both, points, strict=True):
                if curve:
                    side[run["seed"]] = curve
        for side, runs in zip(curves, both, strict=True):
            side += [(look, label(summary), runs)] if runs else []
    return curves
