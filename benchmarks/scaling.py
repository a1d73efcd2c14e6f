"""Throughput of training steps against seeds, devices, batch, width and depth; the cost of a step against its work.

One axis is varied at a time around a base point: 784-1000-1000, batch 128, one seed, one device, Adam. What is timed
are steps of `rule.update` in the library's own compiled program of runs (`fwdonly.training`), as `fwdonly.sweep`
trains them: mapped or vmapped over seeds, sharded over devices. Random images lie ready as float32; a sweep adds the
gather of a batch, its normalisation and the sums of the metrics. The rules of a cell take turns, round after round, and
so does the ceiling, a matrix product; compilation and warm-up are not timed. What would not fit into the memory or the
time is skipped, and the file says why. It is written after every axis.

A CPU has one device; more of them are simulated, each number in a process of its own. They share the cores, so that
no gain is all that can be hoped for.
"""

import argparse  # as gpu_jobs.py, and for its reason
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from _shared import CLASSES, Budget, Contenders, Parser, built, take_turns, timed

import fwdonly
from fwdonly import Batch, UsageError, measure, nets, report, results
from fwdonly.base import DOT, LearningRule, Net, setting
from fwdonly.foton import ExpansionWarning
from fwdonly.training import Programs, Setup, check_precision, free_bytes, mesh_of, programs, tree_bytes

SHAPE, BATCHES = (28, 28, 1), 4
"""Shape of one image; batches that every run goes through."""
RULES = ("mf", "bp", "ff", "pepita", "foton", "cafo", "feedback")
SHARE = 0.8
"""Share of the free memory that a cell may need."""
CHUNK = 32
"""Steps in a call of several mapped runs, at least: each call copies every run's state in and out, as a sweep's does
after 128 steps; with one step of 784-1000-1000 in a call that more than doubles its time."""
FEW = 4
"""Steps in a call otherwise, at least: of a single one the compiler makes a program without a loop, which no training
runs; on two cores that took 1.2 to 1.9 times the time of four (MF of batch 4096; PEPITA of width 4096)."""
START = 10.0
"""Seconds that a process takes to start, at first sight."""

JSON = dict[str, Any]


class Cell(NamedTuple):
    """What is trained, and on how much."""

    seeds: int = 1
    devices: int = 1
    batch: int = 128
    width: int = 1000
    depth: int = 2

    @property
    def net(self) -> Net:
        return nets.mlp([self.width] * self.depth)

    def macs(self, rule: str) -> float:
        """Multiply-accumulates of one step of all runs."""
        return self.seeds * measure.macs(fwdonly.RULES[rule], self.net, SHAPE, num_classes=CLASSES, batch=self.batch)


class Grid(NamedTuple):
    """The base point and its axes; the runs that are spread over devices are as many as the most devices."""

    base: Cell
    axes: dict[str, tuple[int, ...]]

    def cells(self, axis: str) -> list[Cell]:
        base = self.base._replace(seeds=max(self.axes["devices"])) if axis == "devices" else self.base
        return [base._replace(**{axis: value}) for value in self.axes[axis]]


GRID = Grid(
    Cell(),
    {
        "seeds": (1, 2, 4, 8, 16, 32, 64, 128, 256),
        "devices": (1, 2, 4, 8),
        "batch": (32, 64, 128, 256, 512, 1024, 2048, 4096),
        "width": (128, 256, 512, 1000, 2048, 4096),
        "depth": (1, 2, 3, 5, 10, 20),
    },
)
SMOKE = Grid(
    Cell(batch=4, width=16, depth=1),
    {"seeds": (1, 2), "devices": (1, 2), "batch": (4, 8), "width": (16, 32), "depth": (1, 2)},
)


class Settings(NamedTuple):
    """How everything is measured."""

    how: str
    precision: str
    rounds: int
    window: float
    """Seconds of one timed window, at least."""
    product: int
    """Rows of the square matrices of the ceiling."""
    quick: bool = False
    """Compile without most optimizations, where nothing is measured."""


class Pace:
    """What was seen so far, from which follows how long a cell may take."""

    def __init__(self, flops: float, per_mac: dict[str, float], preparing: dict[str, float]) -> None:
        self.flops, self.per_mac, self.preparing = flops, per_mac, preparing

    def step(self, rule: str, cell: Cell) -> float:
        """Seconds of a step of all runs: as the rule's last cell, or at half the ceiling."""
        return cell.macs(rule) * self.per_mac.get(rule, 4 / self.flops)

    def count(self, rule: str, cell: Cell, settings: Settings) -> int:
        """Steps in one call: so many that it takes some half of a window, and the host's part does not count."""
        low = 1 if settings.quick else FEW if settings.how == "vmap" or cell.seeds == 1 else CHUNK
        return int(min(256, max(low, settings.window / 2 / self.step(rule, cell))))

    def seconds(self, rule: str, cell: Cell, settings: Settings) -> float:
        """Seconds of compiling, allocating, warming up and all rounds."""
        step = self.step(rule, cell)
        call = step * self.count(rule, cell, settings)
        return self.preparing.get(rule, 0.0) + 2 * call + settings.rounds * (call + max(call, settings.window))


# ---------------------------------------------------------------------------------------------------------------------
# Programs


class Job(NamedTuple):
    """What `fwdonly.training.programs` compiles a program for."""

    rule: LearningRule
    setup: Setup


@functools.lru_cache(maxsize=len(RULES))
def begin(name: str, width: int, depth: int) -> tuple[LearningRule, Any]:
    """A rule on a network and the state in which every run begins; weights do not depend on the batch."""
    rule = built(name, Cell(width=width, depth=depth).net, "adam")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExpansionWarning)  # no orthonormal networks, but their steps take as long
        return rule, jax.jit(rule.init)(jax.random.key(0), jax.random.uniform(jax.random.key(1), (2, *SHAPE)))


def _steps(job: Job, count: int, state: Any, seed: Any, shared: Batch) -> tuple[Any, Any]:
    """``count`` steps of one run, every run with batches of its own."""

    def one(state: Any, number: Any) -> tuple[Any, Any]:
        at, key = (seed + number) % BATCHES, jax.random.fold_in(jax.random.key(seed), number)
        state, metrics = job.rule.update(state, Batch(shared.x[at], shared.y[at]), key)
        return state, metrics["loss"]

    state, losses = jax.lax.scan(one, state, jnp.arange(count, dtype=jnp.uint32))
    return state, losses.mean()


class Prepared(NamedTuple):
    """A compiled cell of one rule."""

    start: Callable[[], Callable[[], None]]
    """Allocates everything and returns the call that trains, and waits for the end."""
    count: int
    """Steps in one call."""
    compile_seconds: float
    needs: int
    """Bytes: of all simulated devices, which share a memory, or of one real device."""


def prepare(rule: str, cell: Cell, settings: Settings, count: int) -> Prepared:
    """The program of a cell, for shapes alone: besides one run's state nothing is allocated.

    Raises:
        UsageError: fewer devices than asked for, or what the rule refuses.
    """
    mesh = mesh_of(cell.seeds, cell.devices)
    setup: Any = Setup(settings.how, mesh, settings.precision)  # ty: ignore[invalid-argument-type]
    made, state = begin(rule, cell.width, cell.depth)
    job = Job(made, setup)
    x: Any = jax.ShapeDtypeStruct((BATCHES, cell.batch, *SHAPE), jnp.float32)
    y: Any = jax.ShapeDtypeStruct((BATCHES, cell.batch), jnp.int32)
    seeds = jax.ShapeDtypeStruct((cell.seeds,), jnp.uint32)
    states: Any = jax.tree.map(lambda a: jax.ShapeDtypeStruct((cell.seeds, *a.shape), a.dtype), state)
    compiled = Programs()
    program = compiled.prepare(_steps, job, states, seeds, Batch(x, y), static=(count,), donate=(0,))
    needs = tree_bytes(states) // setup.devices + tree_bytes((x, y)) + (compiled.working_bytes() or 0)

    def start() -> Callable[[], None]:
        images, labels = jax.random.uniform(jax.random.key(1), x.shape), jnp.arange(y.size).reshape(y.shape) % CLASSES
        shared, own = setup.share(Batch(images, labels)), setup.place(jnp.arange(cell.seeds, dtype=jnp.uint32))
        states = setup.place(jax.tree.map(lambda a: jnp.broadcast_to(a, (cell.seeds, *a.shape)), state))

        def call() -> None:
            nonlocal states
            states, losses = program(states, own, shared)
            jax.block_until_ready((states, losses))

        return call

    shared_memory = setup.devices if jax.default_backend() == "cpu" else 1
    return Prepared(start, count, compiled.compile_seconds, needs * shared_memory)


@functools.lru_cache(maxsize=1)
def product(settings: Settings) -> Callable[[], Any]:
    """The ceiling: a product of two square matrices, the highest rate this machine gives a compiled program."""
    a, b = jax.random.normal(jax.random.key(0), (2, settings.product, settings.product))
    with jax.default_matmul_precision(DOT[settings.precision]):
        compiled = jax.jit(jnp.matmul).lower(a, b).compile()
    return lambda: compiled(a, b).block_until_ready()


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def measure_cell(cell: Cell, rules: Sequence[str], settings: Settings, budget: Budget, pace: Pace) -> list[JSON]:
    """One cell of all rules, in turns; where they do not fit into the memory together, in groups that do."""
    rows: dict[str, JSON] = {}
    made: dict[str, Prepared] = {}
    pending = list(rules)
    while pending:
        calls: dict[str, Callable[[], None]] = {}
        later: list[str] = []
        reserved = 0.0
        for rule in pending:
            row: JSON = {"rule": rule, **cell._asdict(), "macs_per_step": cell.macs(rule)}
            rows[rule] = row
            needed = pace.seconds(rule, cell, settings)
            if reason := _lacks(budget, reserved, needed):
                row["skipped"] = reason
                continue
            began = time.perf_counter()
            try:
                if rule not in made:
                    made[rule] = prepare(rule, cell, settings, pace.count(rule, cell, settings))
                own = made[rule]
                row |= {"needs_bytes": own.needs, "compile_seconds": own.compile_seconds}
                free = free_bytes()
                if free is not None and SHARE * free < own.needs:
                    if calls:
                        later.append(rule)
                    else:
                        row["skipped"] = f"no memory: it needs {own.needs / 1e9:.3g} GB, {free / 1e9:.3g} GB are free"
                    continue
                call = own.start()
                call()
                ready = time.perf_counter()
                call()
                took = time.perf_counter() - ready
            except Exception as error:
                row |= failed(error)
                continue
            pace.per_mac[rule] = took / own.count / row["macs_per_step"]
            pace.preparing[rule] = max(pace.preparing.get(rule, 0.0), ready - began)
            needed = settings.rounds * (took + max(took, settings.window))
            if reason := _lacks(budget, reserved, needed):
                row["skipped"] = reason
                continue
            reserved += needed
            calls[rule] = call
        try:
            if calls:
                take_their_turns(cell, calls, rows, made, settings, pace)
        except Exception as error:  # memory that was not there after all, say
            for rule in calls:
                rows[rule] |= failed(error)
        call = own = None  # none of this group may hold memory when the next one starts
        pending = later
    programs.program.cache_clear()
    return [rows[rule] for rule in rules]


def take_their_turns(
    cell: Cell,
    calls: dict[str, Callable[[], None]],
    rows: dict[str, JSON],
    made: dict[str, Prepared],
    settings: Settings,
    pace: Pace,
) -> None:
    """Time the rules of a group and the ceiling, and complete the rules' rows."""
    contenders: Contenders = {("product", ""): product(settings)}
    contenders |= {(rule, "fwdonly"): call for rule, call in calls.items()}
    times = take_turns(contenders, settings.rounds, settings.window)
    pace.flops = 2 * settings.product**3 / statistics.median(times.pop(("product", "")))
    for (rule, _), per_call in times.items():
        seconds = [each / made[rule].count for each in per_call]
        step, row = statistics.median(seconds), rows[rule]
        row |= {"seconds_per_step": step, "seconds_min": min(seconds), "seconds_max": max(seconds), "rounds": seconds}
        row |= {"steps_per_call": made[rule].count, "steps_per_second": cell.seeds / step}
        row |= {"samples_per_second": cell.seeds * cell.batch / step, "ceiling_flops": pace.flops}
        real = 1 if jax.default_backend() == "cpu" else cell.devices  # simulated ones share the ceiling
        row["over_ideal"] = step / (2 * row["macs_per_step"] / (pace.flops * real))


def _lacks(budget: Budget, reserved: float, needed: float) -> str | None:
    """Why a measurement of ``needed`` seconds does not fit beside those that are ``reserved``, if it does not."""
    left = max(budget.left() - reserved, 0.0)
    return None if needed < left else f"no time: it may take {needed:.3g} s, and {left:.3g} s of the axis are left"


def failed(error: Exception) -> JSON:
    """What a cell leaves that could not be measured: refused by the library, too large, or broken."""
    words = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, UsageError):
        return {"skipped": f"refused: {words}"}
    if "RESOURCE_EXHAUSTED" in words:
        return {"skipped": f"no memory: {words}"}
    return {"failed": f"{type(error).__name__}: {words}"}


def on_devices(cell: Cell, rules: Sequence[str], settings: Settings, budget: Budget, pace: Pace) -> list[JSON]:
    """A cell on simulated devices, in a process that has as many."""

    def nothing(word: str, reason: str) -> list[JSON]:
        return [{"rule": r, **cell._asdict(), "macs_per_step": cell.macs(r), word: reason} for r in rules]

    if reason := budget.lacks(START if budget.slowest == 0 else 0.0):
        return nothing("skipped", reason)
    given: JSON = {"cell": cell, "rules": list(rules), "settings": settings, "seconds": max(budget.left() - START, 0.0)}
    given |= {"flops": pace.flops, "per_mac": pace.per_mac, "preparing": pace.preparing}
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={cell.devices}".strip()
    command = [sys.executable, __file__, "--in-a-process", json.dumps(given)]
    pipes: JSON = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with budget.piece():
        try:
            environ = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
            found = subprocess.run(command, env=environ, timeout=max(budget.left(), 0.0) + START, **pipes)
        except subprocess.TimeoutExpired:
            return nothing("skipped", "no time: its process took longer than what the axis had left")
    if found.returncode:
        return nothing("failed", (found.stderr.strip().splitlines() or [f"exit code {found.returncode}"])[-1])
    return json.loads(found.stdout.splitlines()[-1])


def in_a_process(given: JSON) -> list[JSON]:
    """The other side of `on_devices`."""
    pace = Pace(given["flops"], given["per_mac"], given["preparing"])
    settings, cell = Settings(*given["settings"]), Cell(*given["cell"])
    jax.config.update("jax_disable_most_optimizations", settings.quick)
    return measure_cell(cell, given["rules"], settings, Budget(given["seconds"]), pace)


class Benchmark:
    """What is measured, with which options, and the file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.end = options, time.monotonic() + 60 * options.minutes
        self.on_cpu = jax.default_backend() == "cpu"
        self.grid = SMOKE if options.smoke else GRID
        how = options.how if options.how != "auto" else "map" if self.on_cpu else "vmap"
        rows = 64 if options.smoke else 2048 if self.on_cpu else 8192
        rounds, window = (1, 0.01) if options.smoke else (options.rounds, options.seconds)
        self.settings = Settings(how, options.precision, rounds, window, rows, options.smoke)
        ceiling = product(self.settings)
        self.pace = Pace(2 * rows**3 / timed(ceiling, window), {}, {})
        own = vars(options)
        self.content: JSON = {
            "finished": False,
            "options": {name: own[name] for name in own if name not in ("output", "in_a_process")},
            "environment": results.environment(),
            "compilation_cache": bool(setting("compilation_cache_dir")),
            "base": {"inputs": math.prod(SHAPE), **self.grid.base._asdict(), "optimizer": "adam", "how": how},
            "precision": {"asked": options.precision, "jax": DOT[options.precision]},
            "ceiling": {"size": rows, "flops": None},
            "axes": {name: {"skipped": "the run ended before it"} for name in self.grid.axes},
        }
        for name in self.grid.axes:
            if name not in options.axes:
                self.content["axes"][name] = {"skipped": "not asked for (--axes)"}

    def save(self) -> None:
        results.write_json(self.options.output, self.content)

    def say(self, words: str) -> None:
        left = max(self.end - time.monotonic(), 0.0)
        print(f"[{int(left // 60)}:{int(left % 60):02} left] {words}", flush=True)

    def run(self) -> None:
        """Every axis that was asked for, each with an equal part of the time that is left."""
        axes = [name for name in self.grid.axes if name in self.options.axes]
        for number, axis in enumerate(axes):
            left = max(self.end - time.monotonic(), 0.0)
            budget, cells = Budget(left / (len(axes) - number)), []
            found: JSON = {"budget_seconds": budget.seconds, "cells": cells}
            self.content["axes"][axis] = found
            if axis == "devices":
                found["simulated"] = self.on_cpu
            began = time.monotonic()
            for cell in self.grid.cells(axis):
                apart = axis == "devices" and self.on_cpu
                self.say(f"{axis} {getattr(cell, axis)}{' (simulated)' if apart else ''}")
                measured = (on_devices if apart else measure_cell)(
                    cell, self.options.rules, self.settings, budget, self.pace
                )
                cells += measured
            found["seconds"] = time.monotonic() - began
            rates = [row["ceiling_flops"] for name in axes for row in measured_in(self.content, name)]
            if rates:
                ceiling = {"flops": statistics.median(rates), "min": min(rates), "max": max(rates)}
                self.content["ceiling"] |= ceiling
            self.save()


def measured_in(content: JSON, axis: str) -> list[JSON]:
    """The cells of an axis that have a time."""
    return [row for row in content["axes"][axis].get("cells", ()) if "seconds_per_step" in row]


# ---------------------------------------------------------------------------------------------------------------------
# Tables and the figure


def tables(content: JSON) -> str:
    """Markdown, a table per axis."""
    parts = []
    for axis, own in content["axes"].items():
        if "cells" not in own:
            parts.append(f"{axis}: {own['skipped']}\n")
            continue
        rows = []
        for row in own["cells"]:
            line = [str(row[axis]), row["rule"]]
            if "seconds_per_step" not in row:
                rows.append([*line, *["-"] * 5, row.get("skipped") or row["failed"]])
                continue
            ms = [1e3 * row[name] for name in ("seconds_per_step", "seconds_min", "seconds_max")]
            line.append("{:.4g} ({:.4g}-{:.4g})".format(*ms))
            line += [f"{row['steps_per_second']:.4g}", f"{row['samples_per_second']:.4g}"]
            rows.append([*line, f"{row['over_ideal']:.3g}", f"{row['compile_seconds']:.2f}", ""])
        name = f"{axis} (simulated)" if own.get("simulated") else axis
        header = [name, "rule", "ms/step of all runs", "steps x runs/s", "samples/s", "over ideal", "compile s"]
        parts.append(report.markdown_table([*header, "not measured"], rows))
    return "\n".join(parts)


def figure(path: Path, content: JSON) -> str | None:
    """Cost against work, a panel per axis; returns why there is none, if so."""
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed"
    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    axes = [axis for axis in content["axes"] if measured_in(content, axis)]
    if not axes:
        return "there is nothing to draw"
    columns = min(3, len(axes))
    lines = -(-len(axes) // columns)
    size = (4.8 * columns, 4.2 * lines + 0.6)
    plot, panels = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for panel in panels.flat[len(axes) :]:
        panel.axis("off")
    base, flops = content["base"], content["ceiling"]["flops"]
    for panel, axis in zip(panels.flat, axes, strict=False):
        own = measured_in(content, axis)
        drawn = (devices_panel if axis == "devices" else work_panel)(panel, axis, own, content)
        missing = len(content["axes"][axis]["cells"]) - len(own)
        title = drawn + (f"; {missing} cells not measured" if missing else "")
        panel.set_title(title, fontsize="medium")
        panel.set(ylabel="seconds per step of all runs")
        panel.grid(alpha=0.3, which="both", linewidth=0.4)
        panel.legend(fontsize="x-small")
    words = "-".join(map(str, [base["inputs"], *[base["width"]] * base["depth"]]))
    words = f"{words}, batch {base['batch']}, {base['seeds']} seed, Adam, {base['how']}, one axis varied at a time"
    seen = content["environment"]
    plot.suptitle(
        f"{words}\n{seen['cpu'] if seen['backend'] == 'cpu' else seen['device']}, "
        f"{content['precision']['asked']}, product of {content['ceiling']['size']} rows: "
        f"{flops / 1e9:.4g} GFLOP/s",
        fontsize="medium",
    )
    plot.savefig(path, dpi=130)
    plt.close(plot)
    return None


def _lines(panel: Any, own: list[JSON], x: str) -> None:
    """A line per rule with the spread of its rounds."""
    from matplotlib import ticker

    for number, rule in enumerate(RULES):
        rows = [row for row in own if row["rule"] == rule]
        if rows:
            y = [row["seconds_per_step"] for row in rows]
            low = [row["seconds_per_step"] - row["seconds_min"] for row in rows]
            high = [row["seconds_max"] - row["seconds_per_step"] for row in rows]
            style: JSON = {"color": f"C{number}", "label": rule, "markersize": 4, "linewidth": 1.3, "capsize": 2}
            panel.errorbar([row[x] for row in rows], y, yerr=(low, high), fmt="o-", **style)
    panel.set(xscale="log", yscale="log")
    for side in (panel.xaxis, panel.yaxis):
        low, high = side.get_view_interval()
        side.set_major_locator(ticker.LogLocator(subs=(1.0,) if high > 1e3 * low else (1.0, 3.0)))
        side.set_major_formatter(ticker.LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf)))
        side.set_minor_formatter(ticker.NullFormatter())


def work_panel(panel: Any, axis: str, own: list[JSON], content: JSON) -> str:
    """Seconds against multiply-accumulates, and what these take at the ceiling; returns the title."""
    _lines(panel, own, "macs_per_step")
    x = [min(row["macs_per_step"] for row in own), max(row["macs_per_step"] for row in own)]
    ideal = [2 * each / content["ceiling"]["flops"] for each in x]
    panel.plot(x, ideal, "--", color="0.4", linewidth=1, label="ideal: at the ceiling")
    named = next(rule for rule in RULES if any(row["rule"] == rule for row in own))
    for row in own:
        if row["rule"] == named:
            place = {"xytext": (2, -11), "textcoords": "offset points", "fontsize": 7, "color": "0.3"}
            panel.annotate(str(row[axis]), (row["macs_per_step"], row["seconds_per_step"]), **place)
    panel.set(xlabel=f"multiply-accumulates per step (numbers: {axis}, at {named})")
    return axis


def devices_panel(panel: Any, axis: str, own: list[JSON], content: JSON) -> str:
    """Seconds against devices, the work being the same, and the share of one device's; returns the title."""
    from matplotlib import ticker

    _lines(panel, own, axis)
    counts = sorted({row[axis] for row in own})
    simulated = content["axes"][axis]["simulated"]
    alone = {row["rule"]: row["seconds_per_step"] for row in own if row[axis] == 1}
    for number, rule in enumerate(RULES):
        if rule in alone:
            label = "one device's cost / N" if rule == next(iter(alone)) else None
            ideal = [alone[rule] / count for count in counts]
            panel.plot(counts, ideal, "--", color=f"C{number}", linewidth=0.8, alpha=0.7, label=label)
            if simulated:
                label = "ideal here: no gain" if label else None
                panel.plot(counts, [alone[rule]] * len(counts), ":", color=f"C{number}", linewidth=1, label=label)
    panel.set_xticks(counts, labels=list(map(str, counts)))
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    panel.set(
        xlabel=f"devices, of {own[0]['seeds']} seeds" + (" (simulated: they share the cores)" if simulated else "")
    )
    return f"{axis} (simulated)" if simulated else axis


# ---------------------------------------------------------------------------------------------------------------------
# The command


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    kind = argparse.ArgumentDefaultsHelpFormatter
    parser = Parser(description=(__doc__ or "").partition("\n")[0], formatter_class=kind, allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("scaling.json"), help="JSON to write; the figure beside")
    parser.add_argument("--axes", nargs="+", choices=list(GRID.axes), default=list(GRID.axes), help="what is varied")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES[:5]), help="learning rules")
    parser.add_argument("--minutes", type=float, default=30.0, help="time for everything; what does not fit is skipped")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of a cell; its rules take turns in each")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one timed window, at least")
    parser.add_argument("--how", choices=("auto", "map", "vmap"), default="auto", help="of the runs, as of sweep")
    parser.add_argument("--precision", choices=list(DOT), default="float32", help="as of Plan")
    parser.add_argument("--smoke", action="store_true", help="seconds on a CPU; shows that it works, measures nothing")
    parser.add_argument("--in-a-process", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("minutes", "rounds", "seconds"):
        if not 0 < getattr(options, name) < math.inf:
            parser.error(f"--{name} must be above 0; got {getattr(options, name):g}")
    for name in ("axes", "rules"):
        if len(set(getattr(options, name))) < len(getattr(options, name)):
            parser.error(f"--{name} names something twice: {' '.join(getattr(options, name))}")
    if options.output.exists() and not options.in_a_process:
        parser.error(f"{options.output} exists; give another --output")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and print; 3 if something failed."""
    options = parse(arguments)
    if options.in_a_process:
        print(json.dumps(in_a_process(json.loads(options.in_a_process)), allow_nan=False))
        return 0
    if options.smoke:
        jax.config.update("jax_disable_most_optimizations", True)  # compiles faster
    try:
        check_precision(options.precision)
        benchmark = Benchmark(options)
        benchmark.save()
        content = benchmark.content
        print(f"{content['environment']['device']}, {content['environment']['devices']} device(s), {options.precision}")
        benchmark.run()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; the axes that were measured are in {options.output}", file=sys.stderr)
        return 130
    content["finished"] = True
    benchmark.save()
    print("\n" + tables(content))
    try:
        reason = figure(options.output.with_suffix(".png"), content)
    except Exception as error:  # the numbers are safe
        reason = f"{type(error).__name__}: {error}"
    if reason:
        print(f"no figure: {reason}")
    return 3 if any("failed" in row for own in content["axes"].values() for row in own.get("cells", ())) else 0


if __name__ == "__main__":
    sys.exit(main())
