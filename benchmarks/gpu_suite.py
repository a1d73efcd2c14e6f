"""Everything that wants a GPU, in one command of under eight minutes, into one JSON.

Five sections: what the device reaches (matrix products by precision, memory bandwidth), the time of a training step
beside its roofline, the cost of an added seed under vmap, ten seeds of a whole training, and energy windows. Each has a
share of the time; what would not fit is skipped, and the file says so. It is written after every measurement, so that a
run that is cut leaves what it had. Contenders take turns; compilation and warm-up are not timed.
"""

import argparse  # and not tyro, as elsewhere here: the machines with a GPU that this project is lent have none
import concurrent.futures
import contextlib
import itertools
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
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from _shared import (
    CLASSES,
    Budget,
    Parser,
    Swept,
    built,
    jax_steps,
    take_turns,
    torch_module,
    torch_steps,
    transformation,
)

from fwdonly import RULES, Plan, UsageError, data, measure, nets, report, results, sweep
from fwdonly.base import DOT, Batch, LearningRule, Net, Precision
from fwdonly.foton import ExpansionWarning
from fwdonly.measure import Meter, unavailable
from fwdonly.surroundings import cores
from fwdonly.training import check_precision

SHARES = {"ceiling": 0.07, "steps": 0.45, "seeds": 0.2, "train": 0.13, "energy": 0.15}
"""Sections and their shares of the time; what one leaves over goes to those after it."""

TORCH_PRECISIONS = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}
ASKED_STEP, ASKED_SEED, ASKED_TRAIN = 1.5, 0.15, 3.0
BELIEVED = 0.95
"""A step faster than this share of its roofline shows that the ceiling was measured too low, and decides nothing."""
FULL = 0.5
"""The device is full from the first number of seeds on whose step is this share of its roofline."""

JSON = dict[str, Any]


class Scale(NamedTuple):
    """How much work a section has."""

    product: int
    """Rows of the square matrices of the ceiling."""
    elements: int
    """Of the arrays of the bandwidth."""
    repeats: int
    """Products, or passes over an array, in one program."""
    rounds: int
    window: float
    """Seconds of one timed window, at least."""
    mlps: tuple[str, ...]
    cnns: tuple[str, ...]
    batches: tuple[int, ...]
    seeds: tuple[tuple[int, ...], ...]
    """Numbers of seeds, in pieces that are compiled together."""
    images: int
    epochs: int
    runs: int
    """Of the training, at most."""
    optimizers: tuple[str, ...] = ("adam", "sgd")


_SEEDS = ((1, 2, 4, 8), (16, 32, 64), (128, 256))
_NETS = ("784-1000-1000", "3072-2000-2000-2000"), ("cnn-32-128-512", "cnn-20-80-240-480")
SCALES = {
    "gpu": Scale(8192, 2**28, 16, 3, 0.05, *_NETS, (1024, 4096, 128), _SEEDS, 60_000, 15, 3),
    "cpu": Scale(1024, 2**25, 4, 3, 0.3, *_NETS, (1024, 4096, 128), _SEEDS, 60_000, 15, 1),
    "smoke": Scale(64, 2**12, 2, 1, 0.01, ("36-16-16",), ("cnn-4-8",), (8,), ((1, 2),), 256, 1, 1, ("adam",)),
}

SHAPES = {"784": (28, 28, 1), "3072": (32, 32, 3), "36": (6, 6, 1), "cnn-4-8": (8, 8, 1)}


def architecture(name: str) -> tuple[tuple[int, ...], Net]:
    """The shape of one input, and the hidden layers: MLPs, and the networks of ``cafo_cnn.py`` and ``ff_cnn.py``."""
    numbers = [int(word) for word in name.removeprefix("cnn-").split("-")]
    if not name.startswith("cnn-"):
        return SHAPES[name.partition("-")[0]], nets.mlp(numbers[1:])
    if name == "cnn-20-80-240-480":
        return SHAPES["784"], nets.cwc(numbers, CLASSES)
    net = nets.cnn(numbers, pool="max", kernel_init=nets.torch_uniform, bias="uniform")
    return SHAPES.get(name, SHAPES["784"]), net


def build(rule: str, name: str, optimizer: str) -> LearningRule:
    """The rule on its network."""
    return built(rule, architecture(name)[1], optimizer)


def optimizer_bytes(rule: str, name: str, optimizer: str) -> int:
    """Bytes that the optimizer moves in one step; CaFo's blocks are not trained here."""
    shape, _ = architecture(name)
    example = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    params = jax.eval_shape(build(rule, name, optimizer).init, jax.random.key(0), example).params
    return measure.optimizer_bytes(transformation("bp", optimizer), params.heads if rule == "cafo" else params)


class Ceiling(NamedTuple):
    """What the device was measured to reach: floating-point operations and bytes per second."""

    flops: float
    bandwidth: float


class Roofline(NamedTuple):
    """Seconds of a step's arithmetic and of its optimizer's traffic at the ceiling; the larger is the bound."""

    arithmetic: float
    traffic: float

    @property
    def seconds(self) -> float:
        return max(self)

    @property
    def by(self) -> str:
        return "arithmetic" if self.arithmetic >= self.traffic else "bandwidth"


def roofline(macs: float, moved: float, ceiling: Ceiling) -> Roofline:
    """Of ``macs`` multiply-accumulates, two operations each, and ``moved`` bytes."""
    return Roofline(2 * macs / ceiling.flops, moved / ceiling.bandwidth)


class Suite:
    """What is measured, with which options, and the file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.end = options, time.monotonic() + 60 * options.minutes
        self.backend = jax.default_backend()
        self.on_gpu = self.backend in ("gpu", "cuda", "rocm")
        self.scale = SCALES["smoke" if options.smoke else "gpu" if self.on_gpu else "cpu"]
        self.ceiling: Ceiling | None = None
        self.failures = 0
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        settings = {name: value for name, value in settings.items() if name not in ("output", "in_a_process")}
        settings["data_dir"] = settings["data_dir"] and "given"  # a path says who measured, not what
        torch = torch_module() if options.torch else None
        self.content: JSON = {
            "finished": False,
            "options": settings,
            "environment": results.environment() | {"torch": getattr(torch, "__version__", None)},
            "precision": {"asked": options.precision, "jax": DOT[options.precision], "of": "products, convolutions"},
            "sections": {name: {"skipped": "the run ended before it"} for name in SHARES},
            "asked": [],
        }
        self.torch, self.no_torch = _torch_device(torch, options.torch, self.on_gpu)

    def precision(self, name: str | None = None) -> Any:
        """Within it, matrix products are compiled to this precision; default is the one that was asked for."""
        return jax.default_matmul_precision(DOT[name or self.options.precision])

    def save(self) -> None:
        results.write_json(self.options.output, self.content)

    def say(self, words: str) -> None:
        print(f"[{max(self.end - time.monotonic(), 0):3.0f} s left] {words}", flush=True)

    def failed(self, error: BaseException) -> JSON:
        """What a measurement leaves that could not be made: refused by the library, or broken."""
        words = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, UsageError):
            return {"skipped": f"refused: {words}"}
        self.failures += 1
        return {"failed": f"{type(error).__name__}: {words}"}

    def at_once(self, jobs: dict[Any, Callable[[], Any]]) -> dict[Any, Any]:
        """What every job returns or raises. They compile in threads, and nothing is timed meanwhile."""

        def work(job: Callable[[], Any]) -> Any:
            try:
                with self.precision():  # a thread has its own
                    return job()
            except Exception as error:
                return error

        with concurrent.futures.ThreadPoolExecutor(max(1, min(16, cores() or 1))) as pool:
            return dict(zip(jobs, pool.map(work, jobs.values()), strict=True))


def _torch_device(torch: Any, wanted: bool, on_gpu: bool) -> tuple[str | None, str | None]:
    """Where eager PyTorch runs, or why it does not."""
    if not wanted:
        return None, "not asked for (--no-torch)"
    if torch is None:
        return None, "PyTorch is not installed"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if on_gpu and device == "cpu":
        return None, "this PyTorch sees no GPU, and a comparison across devices says nothing"
    return device, None


# ---------------------------------------------------------------------------------------------------------------------
# What the device reaches


def product(precision: str, size: int, repeats: int) -> tuple[Callable[[], Any], str]:
    """A call of ``repeats`` products of square matrices, one after another, and the program's text."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    a, c = (jax.random.normal(jax.random.key(i), (size, size)).astype(dtype) for i in range(2))
    a = a / size**0.5  # or the products would overflow

    def many(a: Any, c: Any) -> Any:
        def once(_: Any, c: Any) -> Any:
            return jnp.matmul(a, c, preferred_element_type=jnp.float32).astype(dtype)

        return jax.lax.fori_loop(0, repeats, once, c)

    # Arrays of bfloat16 are multiplied as such; no preset is needed for them, nor has every version one.
    with contextlib.nullcontext() if precision == "bfloat16" else jax.default_matmul_precision(DOT[precision]):
        compiled = jax.jit(many).lower(a, c).compile()
    return lambda: compiled(a, c).block_until_ready(), compiled.as_text() or ""


def pass_over(kind: str, elements: int, repeats: int) -> tuple[Callable[[], Any], str, int]:
    """A call of ``repeats`` passes over arrays, the program's text, and the bytes that one pass reads and writes."""
    a, b = (jax.random.normal(jax.random.key(i), (elements,)) for i in range(2))

    def many(a: Any, b: Any) -> Any:
        once = {"scale": lambda _, a: 0.999 * a, "triad": lambda _, a: 0.999 * a + b}[kind]
        return jax.lax.fori_loop(0, repeats, once, a)

    compiled = jax.jit(many, donate_argnums=0).lower(a, b).compile()

    def call() -> None:
        nonlocal a
        a = compiled(a, b).block_until_ready()

    return call, compiled.as_text() or "", {"scale": 8, "triad": 12}[kind] * elements


def inexactness(precision: str, size: int) -> float:
    """Relative difference of a product of float32 arrays, as training steps have them, from float64."""
    a, b = np.random.default_rng(0).standard_normal((2, size, size)).astype(np.float32)
    with jax.default_matmul_precision(DOT[precision]):
        found = np.asarray(jax.jit(jnp.matmul)(a, b))[:16]
    exact = a[:16].astype(np.float64) @ b
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def computed_as(error: float) -> str:
    """The precision that products of such an error were made in: operands of 24, 11 or 8 significant bits."""
    return "float32" if error < 5e-5 else "tf32" if error < 1e-3 else "bfloat16"


def ceiling(suite: Suite, budget: Budget, found: JSON) -> None:
    """Matrix products in three precisions, and passes over large arrays."""
    scale = suite.scale
    found |= {"products": {}, "bandwidth": {}}
    order = sorted(DOT, key=lambda name: name != suite.options.precision)
    calls: dict[tuple[str, str], Any] = {}
    amounts: dict[tuple[str, str], float] = {}
    wanted = [("product", order[0]), ("pass", "triad"), ("pass", "scale"), *(("product", name) for name in order[1:])]
    for kind, name in wanted:
        place = found["products" if kind == "product" else "bandwidth"]
        if reason := budget.lacks():
            place[name] = {"skipped": reason}
            continue
        try:
            with budget.piece():
                if kind == "product":
                    check_precision(cast(Precision, name))
                    call, text = product(name, scale.product, scale.repeats)
                    amounts[kind, name] = 2.0 * scale.product**3 * scale.repeats
                    error = inexactness(name, min(scale.product, 2048))
                    place[name] = {"size": scale.product, "operands": "bfloat16" if name == "bfloat16" else "float32"}
                    place[name] |= {"jax": DOT[name], "error_of_float32_arrays": error}
                    place[name] |= {"computed_as": computed_as(error)}
                else:
                    call, text, moved = pass_over(name, scale.elements, scale.repeats)
                    amounts[kind, name] = float(moved * scale.repeats)
                    place[name] = {"array_bytes": 4 * scale.elements}
                if " while(" not in text:  # a loop taken apart may be merged into fewer passes or products
                    place[name]["skipped"] = "the compiler took the loop apart, so that its work is not known"
                    continue
                call()
                calls[kind, name] = call
        except Exception as error:
            place[name] = suite.failed(error)
    times = take_turns(calls, scale.rounds, scale.window)
    for (kind, name), seconds in times.items():
        amount, step = amounts[kind, name], statistics.median(seconds)
        rates = {"per_second": amount / step, "min": amount / max(seconds), "max": amount / min(seconds)}
        found["products" if kind == "product" else "bandwidth"][name] |= rates
    bandwidth = max((own.get("per_second", 0.0) for own in found["bandwidth"].values()), default=0.0)
    flops = found["products"][suite.options.precision].get("per_second")
    if flops and bandwidth:
        suite.ceiling = Ceiling(flops, bandwidth)
        found["used"] = {"precision": suite.options.precision, **suite.ceiling._asdict()}
        suite.say(f"{flops / 1e12:.3g} TFLOP/s {suite.options.precision}, {bandwidth / 1e9:.4g} GB/s")


# ---------------------------------------------------------------------------------------------------------------------
# Training steps


CNN_RULES: dict[str, tuple[str, ...]] = {"cnn-20-80-240-480": ("cwc", "bp"), "cnn-4-8": ("cafo", "foton")}


def groups(scale: Scale) -> list[tuple[str, str, tuple[str, ...]]]:
    """(optimizer, net, rules) in the order of their worth."""
    ours, others = ("mf", "bp"), ("ff", "pepita", "foton", "cafo")
    found: list[tuple[str, str, tuple[str, ...]]] = []
    found += [("adam", net, rules) for rules in (ours, others) for net in scale.mlps]
    found += [("sgd", net, ours) for net in scale.mlps]
    found += [("adam", net, CNN_RULES.get(net, ours + others)) for net in scale.cnns]
    found += [("sgd", net, others) for net in scale.mlps]
    return [own for own in found if own[0] in scale.optimizers]


def steps_per_call(suite: Suite, macs: float) -> int:
    """Some 50 ms of arithmetic, so that the host's part does not count."""
    if suite.options.smoke:
        return 2
    flops = suite.ceiling.flops if suite.ceiling else 4e13 if suite.on_gpu else 2e11
    return int(min(256, max(4, 0.05 * flops / (2 * macs))))


def prepare(suite: Suite, rule: str, net: str, batch: int, optimizer: str) -> tuple[Callable[[], Any], int, JSON]:
    """A call of training steps, their number, and what is known of the cell without running it."""
    shape, blocks = architecture(net)
    made = build(rule, net, optimizer)
    macs = measure.macs(RULES[rule], blocks, shape, num_classes=CLASSES, batch=batch)
    moved = optimizer_bytes(rule, net, optimizer)
    held = measure.memory(measure.compile_step(made, shape, batch).compiled)
    count = steps_per_call(suite, macs)
    known: JSON = {"macs_per_step": macs, "optimizer_bytes": moved, "compiled_memory": held.as_json()}
    return jax_steps(made, shape, batch, count), count, known


def steps(suite: Suite, budget: Budget, found: JSON) -> None:
    """Time per training step, beside the roofline and eager PyTorch; memory."""
    found |= {"torch": {"device": suite.torch, "reason": suite.no_torch}, "cells": []}
    if suite.torch:
        torch_module().set_float32_matmul_precision(TORCH_PRECISIONS[suite.options.precision])
        found["torch"]["float32_matmul_precision"] = TORCH_PRECISIONS[suite.options.precision]
    every = groups(suite.scale)
    for number, (optimizer, net, rules) in enumerate(every):
        cell: JSON = {"net": net, "optimizer": optimizer}
        jobs = {(rule, batch): (rule, net, batch, optimizer) for batch in suite.scale.batches for rule in rules}
        if reason := budget.lacks():
            found["cells"] += [{**cell, "rule": rule, "batch": batch, "skipped": reason} for rule, batch in jobs]
            continue
        suite.say(f"steps {number + 1}/{len(every)}: {optimizer} {net} {' '.join(rules)}")
        with budget.piece():
            made = suite.at_once({key: lambda job=job: prepare(suite, *job) for key, job in jobs.items()})
            for batch in suite.scale.batches:
                if budget.left() <= 0 and batch != suite.scale.batches[0]:
                    why = "no time: the section's ended while batches before this one were measured"
                    found["cells"] += [{**cell, "rule": rule, "batch": batch, "skipped": why} for rule in rules]
                    continue
                own = {rule: made[rule, batch] for rule in rules}
                found["cells"] += measure_steps(suite, cell | {"batch": batch}, own)
                suite.save()
        if number == len(suite.scale.mlps) - 1:  # what is asked for has been measured
            peaks(suite, budget, found["cells"])


def measure_steps(suite: Suite, cell: JSON, made: dict[str, Any]) -> list[JSON]:
    """The contenders of one net, batch and optimizer, in turns."""
    cells, calls, counts = [], {}, {}
    for rule, prepared in made.items():
        if isinstance(prepared, Exception):
            cells.append({**cell, "rule": rule, "library": "fwdonly", **suite.failed(prepared)})
            continue
        calls[rule, "fwdonly"], counts[rule, "fwdonly"], _ = prepared
        if suite.torch and rule in ("mf", "bp", "ff") and not cell["net"].startswith("cnn-"):
            shape, blocks = architecture(cell["net"])
            widths = (math.prod(shape), *(block.width for block in blocks))
            count = counts[rule, "torch"] = max(2, counts[rule, "fwdonly"] // 4)
            try:
                calls[rule, "torch"] = torch_steps(rule, widths, cell["batch"], cell["optimizer"], count, suite.torch)
            except Exception as error:
                cells.append({**cell, "rule": rule, "library": "torch", **suite.failed(error)})
    for own in list(calls):
        try:
            calls[own]()
        except Exception as error:  # memory that is not there, say
            cells.append({**cell, "rule": own[0], "library": own[1], **suite.failed(error)})
            del calls[own]
    times = take_turns(calls, suite.scale.rounds, suite.scale.window)
    for (rule, library), per_call in times.items():
        seconds = [each / counts[rule, library] for each in per_call]
        row: JSON = {**cell, "rule": rule, "library": library, "device": suite.torch}
        row |= {"ms_per_step": 1e3 * statistics.median(seconds), "ms_min": 1e3 * min(seconds)}
        row |= {"ms_max": 1e3 * max(seconds), "steps_per_call": counts[rule, library]}
        if library == "fwdonly":
            known = made[rule][2]
            row |= {"device": suite.backend, **known, **against(known, row["ms_per_step"] / 1e3, suite.ceiling)}
            beside = times.get((rule, "torch"))
            torch_ms = 1e3 * statistics.median(beside) / counts[rule, "torch"] if beside else None
            row["over_torch"] = row["ms_per_step"] / torch_ms if torch_ms else None
            row["allocator_peak"] = unavailable("B", NO_PEAK).as_json()
        cells.append(row)
    return cells


def against(known: JSON, seconds: float, ceiling: Ceiling | None, runs: int = 1) -> JSON:
    """A step of ``runs`` runs beside its roofline; None where the ceiling is not known."""
    names = ("roofline_ms", "roofline_by", "step_over_roofline", "share_of_matmul")
    if ceiling is None:
        return dict.fromkeys(names) | {"reason": "the ceiling was not measured"}
    bound = roofline(runs * known["macs_per_step"], runs * known["optimizer_bytes"], ceiling)
    values = (1e3 * bound.seconds, bound.by, seconds / bound.seconds, bound.arithmetic / seconds)
    return dict(zip(names, values, strict=True))


NO_PEAK = "measured for MF and BP with Adam on the MLPs at the largest batch alone, in a process for each"


def peaks(suite: Suite, budget: Budget, cells: list[JSON]) -> None:
    """The allocator's peak of MF and BP, each in a process of its own, since it never falls; all at the same time."""
    largest = max(suite.scale.batches)
    wanted = [own for own in cells if own.get("library") == "fwdonly" and own.get("ms_per_step")]
    wanted = [own for own in wanted if own["rule"] in ("mf", "bp") and own["optimizer"] == "adam"]
    wanted = [own for own in wanted if own["batch"] == largest and own["net"] in suite.scale.mlps]
    reason = budget.lacks(30.0 if suite.on_gpu else 0.0)
    if (missing := measure.device_peak()).value is None:  # nor would another process see one
        reason = missing.reason
    if reason:
        for own in wanted:
            own["allocator_peak"] = unavailable("B", reason).as_json()
        return
    started = [(own, _start_probe(suite, own)) for own in wanted]
    for own, process in started:
        try:
            out, err = process.communicate(timeout=max(budget.left(), 1.0))
            last = (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            own["allocator_peak"] = (
                unavailable("B", last).as_json() if process.returncode else json.loads(out.splitlines()[-1])
            )
        except subprocess.TimeoutExpired:
            process.kill()
            own["allocator_peak"] = unavailable("B", "its process took longer than the section's time").as_json()


def _start_probe(suite: Suite, cell: JSON) -> "subprocess.Popen[str]":
    given = json.dumps([cell[name] for name in ("rule", "net", "batch", "optimizer")] + [suite.options.precision])
    # Beside this process, which holds memory already: what it does not use is theirs.
    environ = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, __file__, "--in-a-process", given]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def probe(rule: str, net: str, batch: int, optimizer: str, precision: str) -> JSON:
    """The allocator's peak of training steps, in a process that does nothing else."""
    shape, _ = architecture(net)
    made = build(rule, net, optimizer)
    with jax.default_matmul_precision(DOT[precision]):
        compiled = measure.compile_step(made, shape, batch).compiled
    key = jax.random.key(0)
    given = Batch(jax.random.uniform(key, (batch, *shape)), jnp.arange(batch) % CLASSES)
    state = jax.jit(made.init)(key, given.x[:2])
    before = measure.device_peak()
    for _ in range(3):
        state, _ = jax.block_until_ready(compiled(state, given, key))
    after = measure.device_peak()
    if after.value is not None and after.value == before.value:
        why = f"compiling or drawing the weights took more than a step did, {after.value / 1e6:.0f} MB"
        return unavailable("B", why).as_json()
    return after.as_json()


# ---------------------------------------------------------------------------------------------------------------------
# The cost of an added seed


def seeds(suite: Suite, budget: Budget, found: JSON) -> None:
    """Seconds per step of 1 to 256 seeds under vmap."""
    net, batch = suite.scale.mlps[0], 128 if not suite.options.smoke else 8
    shape, blocks = architecture(net)
    found |= {"net": net, "batch": batch, "optimizer": "adam", "full_at": FULL, "curves": {"mf": [], "bp": []}}
    for numbers in suite.scale.seeds:
        for rule in ("mf", "bp"):
            curve = found["curves"][rule]
            if reason := budget.lacks():
                curve += [{"seeds": runs, "skipped": reason} for runs in numbers]
                continue
            suite.say(f"seeds {rule}: {' '.join(map(str, numbers))}")
            known = {
                "macs_per_step": measure.macs(RULES[rule], blocks, shape, num_classes=CLASSES, batch=batch),
                "optimizer_bytes": optimizer_bytes(rule, net, "adam"),
            }
            count = steps_per_call(suite, known["macs_per_step"] * max(numbers))

            def make(runs: int, rule: str = rule, count: int = count) -> Callable[[], Any]:
                call, _ = Swept(build(rule, net, "adam"), shape, batch, runs, 8).compiled(count)
                return lambda: jax.block_until_ready(call())

            with budget.piece():
                made = suite.at_once({runs: lambda runs=runs: make(runs) for runs in numbers})
                calls = {(str(runs), ""): call for runs, call in made.items() if not isinstance(call, Exception)}
                for runs in numbers:
                    if isinstance(made[runs], Exception):
                        curve.append({"seeds": runs, **suite.failed(made[runs])})
                        continue
                    try:
                        calls[str(runs), ""]()
                    except Exception as error:
                        del calls[str(runs), ""]
                        curve.append({"seeds": runs, **suite.failed(error)})
                for (runs, _), each in take_turns(calls, suite.scale.rounds, suite.scale.window).items():
                    took = statistics.median(each) / count
                    point: JSON = {"seeds": int(runs), "ms_per_step": 1e3 * took, "ms_min": 1e3 * min(each) / count}
                    point |= {"ms_max": 1e3 * max(each) / count}
                    curve.append(point | against(known, took, suite.ceiling, int(runs)))
            curve.sort(key=lambda point: point["seeds"])
            add_shares(curve)
            suite.save()


def add_shares(curve: list[JSON]) -> None:
    """To every point the cost of an added seed, as a share of the first: since the point before, and since the first.

    Both are None for the first, and without it.
    """
    measured = [point for point in curve if point.get("ms_per_step")]
    first = measured[0] if measured and measured[0]["seeds"] == 1 else None
    for before, point in zip([None, *measured], measured, strict=False):
        point |= {"added_share": None, "added_share_mean": None}
        if first is not None and before is not None:
            for name, start in (("added_share", before), ("added_share_mean", first)):
                more = point["ms_per_step"] - start["ms_per_step"]
                point[name] = more / (point["seeds"] - start["seeds"]) / first["ms_per_step"]


# ---------------------------------------------------------------------------------------------------------------------
# A whole training, and energy


def images(suite: Suite) -> tuple[data.Dataset, str]:
    """MNIST where the folder has it, otherwise random images of its shapes; and a sentence on which it is."""
    folder, count = suite.options.data_dir, suite.scale.images
    if folder is not None and (folder / "mnist.npz").exists() and not suite.options.smoke:
        return data.load("mnist", folder), "MNIST, of --data-dir"  # no path: it says who measured, not what
    why = "no --data-dir" if folder is None else "--smoke" if suite.options.smoke else "no mnist.npz in --data-dir"
    (height, width, channels), rng = architecture(suite.scale.mlps[0])[0], np.random.default_rng(0)
    parts = []
    for n in (count, count // 6):
        parts += [rng.integers(0, 256, (n, height, width, channels), np.uint8), np.arange(n, dtype=np.int32) % CLASSES]
    found = data.Dataset("synthetic", "random uint8 images", *parts, CLASSES)
    return found, f"synthetic: random uint8 images of MNIST's shapes ({why}); accuracies would mean nothing"


def train(suite: Suite, budget: Budget, found: JSON) -> None:
    """Ten seeds of whole trainings by `fwdonly.sweep`."""
    dataset, words = images(suite)
    print(f"data: {words}")
    count = len(dataset.y_train)
    # Only those are held out that whole batches leave out anyway: every epoch has as many steps as all images give.
    split = data.split(dataset, num_validation=count % 128 or 128)
    plan = Plan(epochs=suite.scale.epochs, batch_size=128, keep="last", precision=suite.options.precision)
    found |= {"data": words, "images": count, "steps_per_epoch": len(split[0]) // 128, "epochs": plan.epochs}
    found |= {"net": suite.scale.mlps[0], "optimizer": "adam", "batch": 128, "seeds": 10, "how": "vmap", "rules": {}}
    found["note"] = f"seconds include a validation on {len(split[1])} images after every epoch, and no compilation"
    for rule in ("mf", "bp"):
        made, times, last = build(rule, suite.scale.mlps[0], "adam"), [], None

        def source(made: LearningRule = made) -> LearningRule:
            return made

        own: JSON = {"train_seconds": times}
        found["rules"][rule] = own
        for run in range(suite.scale.runs):
            if reason := budget.lacks():
                own["ended" if times else "skipped"] = reason
                break
            suite.say(f"train {rule}: run {run + 1}/{suite.scale.runs}")
            try:
                with budget.piece():
                    last = sweep(source, dataset, plan, seeds=range(10), split=split, how="vmap")
            except Exception as error:
                own |= suite.failed(error)
                break
            times.append(last.train_seconds)
            own.setdefault("compile_seconds", last.compile_seconds)
        if last is not None:
            own |= {"seconds": statistics.median(times), "diverged": int(np.sum(last.diverged))}
            if dataset.name == "mnist":
                own["test_accuracy"] = [float(v) if np.isfinite(v) else None for v in last.test_accuracy]
        suite.save()


def energy(suite: Suite, budget: Budget, found: JSON) -> None:
    """Windows of training steps of MF and BP in turns (A B B A), where there is a sensor."""
    smoke = suite.options.smoke
    net, batch = suite.scale.mlps[-1], 8 if smoke else 1024
    idle = 0.0 if smoke else min(3.0, suite.options.energy_seconds / 3)
    meter = Meter(idle_seconds=idle)
    found |= {"net": net, "batch": batch, "optimizer": "adam", "windows": []}
    if not any(sensor.kind == meter.kind for sensor in meter.sensors):
        found["unavailable"] = meter.missing.get(meter.kind, f"no sensor of a {meter.kind}")
        suite.say(f"energy unavailable: {found['unavailable']}")
        if not smoke:  # which shows that a window works
            return
    found["claim"] = "none: a claim needs 10 pairs of windows of 30 s, see energy.py"
    shape, _ = architecture(net)
    count = 2 if smoke else 64
    needed = suite.options.energy_seconds + 2 * idle + 2.0
    made: JSON = {}
    for number in range(4):
        rule = ("mf", "bp", "bp", "mf")[number]
        if reason := budget.lacks(needed):
            found["windows"].append({"rule": rule, "skipped": reason})
            continue
        suite.say(f"energy {rule}: window {number + 1}/4")
        try:
            with budget.piece():
                if rule not in made:
                    with suite.precision():
                        made[rule], _ = Swept(build(rule, net, "adam"), shape, batch, 1, 8).compiled(count)
                    jax.block_until_ready(made[rule]())
                seconds, warm_up = suite.options.energy_seconds, 0.0 if smoke else 1.0
                reading = meter.repeat(made[rule], seconds=seconds, warm_up=warm_up, name=rule)
        except Exception as error:
            found["windows"].append({"rule": rule, **suite.failed(error)})
            continue
        done = count * reading.repeats
        own: JSON = {"rule": rule, "steps": done, "reading": reading.as_json()}
        own["seconds_per_step"] = reading.seconds.times(1 / done, "s").as_json()
        own["joules_per_image"] = reading.energy.times(1 / (done * batch), "J").as_json()
        found["windows"].append(own)
        suite.save()


# ---------------------------------------------------------------------------------------------------------------------
# What was asked for, tables and the figure


def asked(content: JSON, gpu: bool) -> list[JSON]:
    """Every number that was asked for: reached, not reached or not measured."""
    sections, found = content["sections"], []

    def line(what: str, limit: float, values: list[tuple[float, str]], why: str, missing: int = 0) -> None:
        """``values``: numbers and where; the largest decides, but what is ``missing`` might be larger."""
        worst, where = max(values, default=(None, why))
        verdict = "not measured" if worst is None or missing else "reached"
        verdict = "not reached" if worst is not None and worst > limit else verdict
        if values and missing:
            where += f"; {missing} of {missing + len(values)} cells are missing or not to be believed"
        if not gpu:
            verdict, where = "not measured", "it is asked of a GPU"
        found.append({"what": what, "limit": limit, "verdict": verdict, "value": worst if gpu else None, "of": where})

    cells = [own for own in sections["steps"].get("cells", ()) if own["rule"] in ("mf", "bp")]
    cells = [own for own in cells if own["batch"] >= 1024 and own.get("library", "fwdonly") == "fwdonly"]
    cells = [own for own in cells if not own["net"].startswith("cnn-")]
    for rule, optimizer in itertools.product(("mf", "bp"), ("adam", "sgd")):
        mine = [own for own in cells if (own["rule"], own["optimizer"]) == (rule, optimizer)]
        values = [(own.get("step_over_roofline"), f"{own['net']}, batch {own['batch']}") for own in mine]
        known = [each for each in values if each[0] is not None]
        values = [each for each in known if each[0] >= BELIEVED]
        why = "steps faster than their roofline: the ceiling was measured too low; run it again on an idle machine"
        why = why if known else sections["steps"].get("skipped", "no cell was measured beside a ceiling")
        what = f"{rule.upper()}, {optimizer}: step over roofline from batch 1024 on"
        line(what, ASKED_STEP, values, why, len(mine) - len(values))
    for rule in ("mf", "bp"):
        curve = [own for own in sections["seeds"].get("curves", {}).get(rule, ()) if own.get("ms_per_step")]
        values, why = until_full(curve)
        why = sections["seeds"].get("skipped", why)
        line(f"{rule.upper()}: an added seed, as a share of the first", ASKED_SEED, values, why)
    own = sections["train"].get("rules", {}).get("mf", {})
    values = [(own["seconds"], f"median of {len(own['train_seconds'])} runs")] if "seconds" in own else []
    why = own.get("skipped") or own.get("failed") or sections["train"].get("skipped", "")
    line("MF: seconds of ten seeds, 15 epochs of 60,000 images", ASKED_TRAIN, values, why)
    return found


def until_full(curve: Sequence[JSON]) -> tuple[list[tuple[float, str]], str]:
    """The shares of the first up to where the device is full, and why there are none, if so."""
    values: list[tuple[float, str]] = []
    for point in curve:
        ratio = point.get("step_over_roofline")
        if ratio is None:
            return [], "the ceiling was not measured, so nobody knows when the device is full"
        if ratio <= 1 / FULL:
            return values, f"the device is full with {point['seeds']} seeds"
        if point["added_share"] is not None:
            values.append((point["added_share"], f"up to {point['seeds']} seeds"))
    return values, "fewer than two points were measured"


def tables(content: JSON) -> str:
    """Markdown."""
    sections, parts = content["sections"], []
    products = [
        [f"product, {name}", _figure(own.get("per_second"), 1e12, "TFLOP/s"), own.get("computed_as") or _why(own)]
        for name, own in sections["ceiling"].get("products", {}).items()
    ]
    passes = [
        [f"memory, {name}", _figure(own.get("per_second"), 1e9, "GB/s"), _why(own)]
        for name, own in sections["ceiling"].get("bandwidth", {}).items()
    ]
    if products:
        parts.append(report.markdown_table(["ceiling", "rate", "float32 arrays computed as"], products + passes))
    rows = []
    for own in sections["steps"].get("cells", ()):
        held = (own.get("compiled_memory") or {}).get("value")
        peak = (own.get("allocator_peak") or {}).get("value")
        rows.append(
            [
                *(own["net"], str(own["batch"]), own["optimizer"], own["rule"], own.get("library", "fwdonly")),
                _figure(own.get("ms_per_step")),
                _figure(own.get("roofline_ms")),
                _figure(own.get("step_over_roofline")),
                _figure(own.get("share_of_matmul"), 0.01, "%"),
                _figure(own.get("over_torch")),
                _figure(held, 1e6),
                _figure(peak, 1e6),
                _why(own),
            ]
        )
    if rows:
        header = ["net", "batch", "optimizer", "rule", "library", "ms/step", "roofline ms", "ratio", "of products"]
        parts.append(report.markdown_table([*header, "over torch", "XLA MB", "peak MB", "not measured"], rows))
    rows = [
        [
            *(rule, str(own["seeds"]), _figure(own.get("ms_per_step")), _figure(own.get("added_share"))),
            *(_figure(own.get("added_share_mean")), _figure(own.get("step_over_roofline")), _why(own)),
        ]
        for rule, curve in sections["seeds"].get("curves", {}).items()
        for own in curve
    ]
    if rows:
        header = ["rule", "seeds", "ms/step", "added seed / first", "mean", "step / roofline", "not measured"]
        parts.append(report.markdown_table(header, rows))
    rows = [
        [rule, _figure(own.get("seconds")), _figure(own.get("compile_seconds")), _why(own)]
        for rule, own in sections["train"].get("rules", {}).items()
    ]
    if rows:
        parts.append(report.markdown_table(["ten seeds", "train s", "compile s", "not measured"], rows))
    rows = [
        [
            own["rule"],
            _figure(own.get("seconds_per_step", {}).get("value"), 1e-3),
            _figure(own.get("joules_per_image", {}).get("value"), 1e-3),
            _why(own) or own["joules_per_image"]["reason"] or "",
        ]
        for own in sections["energy"].get("windows", ())
    ]
    if rows:
        parts.append(report.markdown_table(["energy window", "ms/step", "mJ/image", "not measured"], rows))
    skipped = [[name, _why(own) or own.get("unavailable", "")] for name, own in sections.items()]
    skipped = [row for row in skipped if row[1]]
    return "\n".join(parts + ([report.markdown_table(["section", "not measured"], skipped)] if skipped else []))


def _figure(value: float | None, unit: float = 1.0, name: str = "") -> str:
    return "-" if value is None else f"{value / unit:.3g} {name}".strip()


def _why(own: JSON) -> str:
    return own.get("skipped") or own.get("failed") or ""


def figure(path: Path, content: JSON) -> str | None:
    """The cost of seeds and every step over its roofline; returns why there is none, if so."""
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed"
    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    curves = content["sections"]["seeds"].get("curves", {})
    cells = [own for own in content["sections"]["steps"].get("cells", ()) if own.get("step_over_roofline")]
    if not cells and not any(own.get("ms_per_step") for curve in curves.values() for own in curve):
        return "there is nothing to draw"
    plot, (left, right) = plt.subplots(1, 2, figsize=(13, max(4.0, 0.16 * len(cells))), layout="constrained")
    left.set(xscale="log", yscale="log", xlabel="seeds trained together", ylabel="ms per step")
    for number, (rule, curve) in enumerate(curves.items()):
        points = [own for own in curve if own.get("ms_per_step")]
        if not points:
            continue
        x = [own["seeds"] for own in points]
        left.plot(x, [own["ms_per_step"] for own in points], "o-", color=f"C{number}", label=rule.upper())
        if all(own.get("roofline_ms") for own in points):
            left.plot(x, [own["roofline_ms"] for own in points], ":", color=f"C{number}", label=f"{rule.upper()} bound")
        if x[0] == 1:
            line = [points[0]["ms_per_step"] * (1 + ASKED_SEED * (n - 1)) for n in x]
            label = None if number else f"an added seed at {ASKED_SEED} of the first"
            left.plot(x, line, "--", color="0.6", linewidth=1, label=label)
        left.set_xticks(x, labels=list(map(str, x)))
        left.minorticks_off()
    left.grid(alpha=0.3)
    if left.lines:
        left.legend(fontsize="small")
    values = [own["step_over_roofline"] for own in cells]
    right.barh(range(len(cells)), values, color=["C0" if value <= ASKED_STEP else "C1" for value in values])
    right.axvline(ASKED_STEP, color="0.4", linewidth=1)
    names = [f"{own['rule']} {own['net']} {own['batch']} {own['optimizer']}" for own in cells]
    right.set(xlabel="step over roofline")
    right.set_yticks(range(len(cells)), labels=names, fontsize=7)
    right.invert_yaxis()
    plot.savefig(path, dpi=130)
    plt.close(plot)
    return None


# ---------------------------------------------------------------------------------------------------------------------
# The command

SECTIONS = {"ceiling": ceiling, "steps": steps, "seeds": seeds, "train": train, "energy": energy}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    kind = argparse.ArgumentDefaultsHelpFormatter
    parser = Parser(description=(__doc__ or "").partition("\n")[0], formatter_class=kind, allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("gpu-suite.json"), help="JSON to write; the figure beside")
    parser.add_argument("--minutes", type=float, default=7.5, help="time for everything; what does not fit is skipped")
    parser.add_argument("--sections", nargs="+", choices=list(SHARES), default=list(SHARES), help="what to measure")
    parser.add_argument("--precision", choices=list(DOT), default="float32", help="of the steps' products")
    parser.add_argument("--data-dir", type=Path, help="folder with mnist.npz; without it images are synthetic")
    parser.add_argument("--energy-seconds", type=float, default=10.0, help="length of an energy window")
    parser.add_argument("--no-torch", dest="torch", action="store_false", help="leave eager PyTorch out")
    parser.add_argument("--smoke", action="store_true", help="seconds on a CPU; shows that it works, measures nothing")
    parser.add_argument("--in-a-process", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name, low in (("minutes", 0.0), ("energy_seconds", 0.1)):
        if not low <= getattr(options, name) < math.inf or not getattr(options, name):
            parser.error(f"--{name.replace('_', '-')} must be above {low:g}; got {getattr(options, name):g}")
    if options.data_dir is not None and not options.data_dir.is_dir():
        parser.error(f"--data-dir {options.data_dir} is no folder; give one, or leave it out for synthetic images")
    if options.output.exists():
        parser.error(f"{options.output} exists; give another --output")
    if options.smoke:
        options.energy_seconds = 0.1
    return options


def run(suite: Suite) -> None:
    """Every section that was asked for, each within its share of the time that is left."""
    chosen = [name for name in SHARES if name in suite.options.sections]
    for name in SHARES:
        if name not in chosen:
            suite.content["sections"][name] = {"skipped": "not asked for (--sections)"}
    suite.save()
    while chosen:
        name = chosen[0]
        left = suite.end - time.monotonic()
        budget = Budget(max(left, 0.0) * SHARES[name] / sum(SHARES[each] for each in chosen))
        chosen = chosen[1:]
        if reason := budget.lacks():
            suite.content["sections"][name] = {"skipped": reason}
            suite.save()
            continue
        suite.say(f"{name}: {budget.seconds:.0f} s")
        began = time.monotonic()
        found: JSON = {"budget_seconds": budget.seconds}
        suite.content["sections"][name] = found
        try:
            SECTIONS[name](suite, budget, found)
        except Exception as error:  # the others go on
            found |= suite.failed(error)
        found["seconds"] = time.monotonic() - began
        suite.save()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and print; 3 if something failed."""
    options = parse(arguments)
    # Networks that widen are no orthonormal ones, but their steps take as long.
    warnings.simplefilter("ignore", ExpansionWarning)
    if options.in_a_process:
        print(json.dumps(probe(*json.loads(options.in_a_process)), allow_nan=False))
        return 0
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch and other processes share the memory
    try:
        check_precision(options.precision)
    except UsageError as error:
        print(f"error: {error}; use --precision float32", file=sys.stderr)
        return 2
    suite = Suite(options)
    if options.smoke:
        jax.config.update("jax_disable_most_optimizations", True)  # compiles faster
    try:
        suite.save()
        print(f"{suite.content['environment']['device']} ({suite.backend}), products in {options.precision}")
        if not suite.on_gpu:
            print("no GPU: what is asked of one is not measured here")
        run(suite)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; what was measured is in {options.output}", file=sys.stderr)
        return 130
    suite.content["asked"] = asked(suite.content, suite.on_gpu and not options.smoke)
    suite.content["finished"] = True
    suite.save()
    print("\n" + tables(suite.content))
    try:
        reason = figure(options.output.with_suffix(".png"), suite.content)
    except Exception as error:  # the numbers are safe
        reason = f"{type(error).__name__}: {error}"
    if reason:
        print(f"no figure: {reason}")
    for own in suite.content["asked"]:
        value = "" if own["value"] is None else f" {own['value']:.3g}"
        print(f"{own['what']} (at most {own['limit']:g}): {own['verdict']}{value} ({own['of']})")
    return 3 if suite.failures else 0


if __name__ == "__main__":
    sys.exit(main())
