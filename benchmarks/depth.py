"""Depth: accuracy, accuracy of every layer, passes to convergence, and memory, of networks of 2 to 15 layers.

Accuracy is that of comparisons (`fwdonly compare`, its own convergence), one folder per depth: runs that are there are
not repeated. Memory is the compiler's account of one training step of every rule, without running it. What layers know
is told by probes (`fwdonly.measure.probe`) on the kept model of the seed with the best validation accuracy, for BP as
for MF: one half of the test images fits them, the other half counts. Writes the JSON after every row, so that a killed
command goes on from there.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import fwdonly
from fwdonly import Batch, data, measure, results
from fwdonly.study import design, rules

ROWS = dict[str, Any]
RULES = ("mf", "bp")
TEMPORARY = "temp_size_in_bytes"
MEMORY = ("bp", "bp-remat", "bp-chunks", "mf", "mf-joint", "ff", "cafo", "cwc", "pepita", "foton", "fa", "dfa", "drtp")


@dataclasses.dataclass(frozen=True)
class Options:
    """Train and compile what is missing; writes the JSON and the figure."""

    folder: Path = Path("depth")
    """Folder of the comparisons' result folders. The same command continues what is there."""
    output: Path = Path("depth.json")
    """JSON file to write; rows of the same settings that it has are kept."""
    figure: Path = Path("depth.png")
    """PNG to draw."""
    parts: tuple[str, ...] = ("memory", "accuracy")
    """What to do; what is left out is drawn from the JSON file."""
    depths: tuple[int, ...] = (2, 4, 8, 15)
    """Numbers of hidden layers."""
    width: int = 500
    """Units of every hidden layer."""
    seeds: int = 3
    """Seeds of the comparisons."""
    epochs: int = 100
    """Cap on the epochs of the comparisons."""
    patience: int = 10
    """Epochs without a better validation loss after which a run has converged."""
    dataset: str = "mnist5k"
    """Data of the comparisons."""
    batch: int = 1024
    """Batch of the memory's steps, on inputs of 784 numbers."""
    memory: tuple[str, ...] = MEMORY
    """Rules whose memory is asked for."""


def main(options: Options) -> None:
    """Add the rows that are missing, one after another."""
    settings = {n: v for n, v in dataclasses.asdict(options).items() if n in ("width", "epochs", "patience", "batch")}
    settings |= {"seeds": options.seeds, "dataset": options.dataset}
    record: ROWS = {"settings": settings, "environment": results.environment(), "memory": [], "accuracy": []}
    if options.output.is_file():
        old = json.loads(options.output.read_text())
        if old["settings"] != settings:
            sys.exit(f"{options.output} has other settings; name another file, or give {old['settings']}")
        record |= {part: old[part] for part in ("memory", "accuracy")}
    work = [(memory_row, "memory", (name, depth)) for depth in options.depths for name in options.memory]
    work += [(accuracy_rows, "accuracy", (name, depth)) for depth in options.depths for name in RULES]
    for row_of, part, (name, depth) in work:
        there = {(row["rule"], row["depth"]) for row in record[part]}
        if part not in options.parts or (name, depth) in there:
            continue
        record[part] += row_of(name, depth, options)
        results.write_json(options.output, record)
        print(f"{part}: {name}, {depth} layers", flush=True)
    draw(record, options.figure)


def net_of(depth: int, options: Options) -> str:
    """The network's specification."""
    return f"mlp:{','.join([str(options.width)] * depth)}"


def memory_row(name: str, depth: int, options: Options) -> list[ROWS]:
    """Bytes of the compiler for one step of the rule's largest stage: in all, and temporaries alone."""
    rule = rules.load(name)
    arm = design.make_arm(rule, rule.defaults(compared=True), net=net_of(depth, options))
    steps = [
        measure.compile_step(stage.rule, (28, 28, 1), options.batch).compiled
        for stage in arm.training(10, 1)
        if stage.plan.get("batch_size", 1) is not None
    ]
    largest = max(steps, key=lambda step: measure.memory(step).value or 0)
    held = {"total": measure.memory(largest).value, "temporary": getattr(largest.memory_analysis(), TEMPORARY)}
    return [{"rule": name, "label": rule.label, "depth": depth, **held}]


def accuracy_rows(name: str, depth: int, options: Options) -> list[ROWS]:
    """A rule's row of the comparison at this depth, which is trained first where it is not there."""
    folder = options.folder / f"layers-{depth:02d}"
    words = [*RULES, "--net", net_of(depth, options), "--dataset", options.dataset, "--seeds", str(options.seeds)]
    words += ["--epochs", str(options.epochs), "--patience", str(options.patience), "--layer-accuracy"]
    here = ["--output-dir", str(folder), "--resume", "--quiet"]  # of this machine, and not of the numbers
    summary = folder / "summary.json"
    if not (summary.is_file() and json.loads(summary.read_text())["finished"]):
        command = [sys.executable, "-m", "fwdonly", "compare", *words, *here]
        code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
        if code not in (0, 3):
            sys.exit(f"{' '.join(command)} ended with code {code}; mend what its message says, and run this again")
    (of_rule,) = [rule for rule in json.loads(summary.read_text())["rules"] if rule["rule"] == name]
    runs = of_rule["runs"]
    row = {"rule": name, "label": of_rule["label"], "depth": depth, "command": "fwdonly compare " + " ".join(words)}
    for field in ("seed", "test_accuracy", "epochs", "kept_epoch", "diverged"):
        row[field] = [run[field] for run in runs]
    row["layer_accuracy"] = [run.get("layer_accuracy") for run in runs]
    return [row | {"probes": probes_of(folder, name, options)}]


def probes_of(folder: Path, name: str, options: Options) -> list[float] | None:
    """Accuracy of linear probes on every layer of the kept model, on images that neither it nor the probe has seen."""
    file = next(iter(sorted(folder.glob(f"model-{name}-*.safetensors"))), None)
    if file is None:
        return None
    model, images = fwdonly.load(file), data.load(options.dataset)
    x, y = images.x_test, images.y_test
    halves = [
        Batch(model.inputs.scaled(jax.device_put(np.asarray(x[at::2]))), jax.device_put(y[at::2])) for at in (0, 1)
    ]
    probes = measure.probe(model.rule, model.state, halves[0], halves[1])
    return [float(value) for value in probes.accuracy]


def draw(record: ROWS, path: Path) -> None:
    """Four panels: test accuracy, passes and memory against depth, and what every layer knows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.5), layout="constrained")
    (accuracy, passes), (layers, memory) = figure.subplots(2, 2)
    colours = {name: f"C{at}" for at, name in enumerate(RULES)}
    for name, colour in colours.items():
        rows = sorted((row for row in record["accuracy"] if row["rule"] == name), key=lambda row: row["depth"])
        for axis, field, factor in ((accuracy, "test_accuracy", 100.0), (passes, "epochs", 1)):
            seeds = [[factor * value for value in row[field] if value is not None] for row in rows]
            points = [(row["depth"], values) for row, values in zip(rows, seeds, strict=True) if values]
            means = [statistics.fmean(values) for _, values in points]
            sds = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
            label = rows[0]["label"] if rows else name
            axis.errorbar([at for at, _ in points], means, sds, color=colour, marker="o", capsize=3, label=label)
        for row, style in zip(rows, ("-", "--", "-.", ":"), strict=False):
            if row["probes"]:
                along = range(1, row["depth"] + 1)
                values = [100 * value for value in row["probes"]]
                layers.plot(along, values, style, color=colour, label=f"{row['label']}, {row['depth']} layers")
    for at, name in enumerate(dict.fromkeys(row["rule"] for row in record["memory"])):
        rows = sorted((row for row in record["memory"] if row["rule"] == name), key=lambda row: row["depth"])
        points = [row["depth"] for row in rows], [row["temporary"] / 1e6 for row in rows]
        memory.plot(*points, marker="os^vD"[at % 5], markersize=4, color=f"C{at % 10}", label=rows[0]["label"])
    settings = record["settings"]
    seeds = f"mean ± sd of {settings['seeds']} seeds"
    accuracy.set(xlabel="hidden layers", ylabel="test accuracy, %", title=f"accuracy ({seeds})")
    passes.set(xlabel="hidden layers", ylabel="passes until stopped", title=f"passes to convergence ({seeds})")
    layers.set(xlabel="layer", ylabel="accuracy of a linear probe, %", title="what every layer knows (best seed)")
    title = f"memory beside state and batch of {settings['batch']}, by the compiler"
    memory.set(xlabel="hidden layers", ylabel="temporaries of a step, MB", yscale="log", title=title)
    memory.set_ylim(top=4 * memory.get_ylim()[1])  # room for the names
    figure.suptitle(f"{settings['dataset']}, hidden layers of {settings['width']}")
    for axis in (accuracy, passes, layers, memory):
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="x-small", ncols=2 if axis in (layers, memory) else 1)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
