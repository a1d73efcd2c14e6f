"""The jobs of `gpu_jobs.py`: every function measures one thing into ``out`` and keeps what it has as it goes."""

import concurrent.futures
import functools
import importlib.util
import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _shared import (
    CLASSES,
    Swept,
    built,
    jax_steps,
    take_turns,
    torch_graphed,
    torch_module,
    torch_steps,
    transformation,
)
from data_parts import available

from fwdonly import RULES, Batch, Meter, Plan, UsageError, bp, data, fit, measure, mf, nets, results
from fwdonly.base import DOT
from fwdonly.surroundings import cores

ROOT = Path(__file__).parents[1]
JSON = dict[str, Any]
SMALL = ((28, 28, 1), (1000, 1000))
TOY = ((6, 6, 1), (16, 16))
LEARNING_RATE = 1.2e-3
FRESH = 15
"""Passes after which an energy window starts from new weights: what a run takes."""


class Session:
    """The options, the clock, the data and what the jobs share."""

    def __init__(self, options: Any) -> None:
        self.options, self.dry = options, options.dry_run
        self.end = time.monotonic() + 60 * options.minutes
        self.environment = results.environment()
        self.on_gpu = jax.default_backend() == "gpu"
        self.configuration = {name: getattr(options, name) for name in (*CONFIGURATION, "dry_run")}
        self.net = TOY if self.dry else SMALL
        self.slowness: list[float] = []
        """Seconds of every finished job over its estimate."""
        self.keep: Callable[..., None] = lambda found, **more: None
        """Writes what the job under way has found so far."""

    def left(self) -> float:
        return self.end - time.monotonic()

    def lacks(self, seconds: float) -> bool:
        """Whether so many seconds, by this card's pace, are no longer left; a dry run always has time."""
        return not self.dry and self.left() < seconds * self.pace()

    def pace(self) -> float:
        """How much longer this machine takes than the estimates: the median over its finished jobs."""
        return statistics.median(self.slowness) if self.slowness else 1.0

    def say(self, words: str) -> None:
        print(f"[{max(self.left(), 0):3.0f} s left] {words}", flush=True)

    def known(self, name: str) -> JSON:
        """What an earlier job of this folder found on the same card, or nothing."""
        try:
            content = json.loads((self.options.results / f"{name}.json").read_text())
            same = content["environment"]["device"] == self.environment["device"] and content["dry_run"] == self.dry
            return content["found"] if same else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def images(self) -> data.Dataset:
        """MNIST of --data; in a dry run random images."""
        if not self.dry:
            if self.options.data is None or not (self.options.data / "mnist.npz").exists():
                raise UsageError("mnist.npz is missing in --data")
            return data.load("mnist", self.options.data)
        rng, shape = np.random.default_rng(0), self.net[0]
        parts = []
        for count in (256, 64):
            parts += [rng.integers(0, 256, (count, *shape), np.uint8), np.arange(count, dtype=np.int32) % CLASSES]
        return data.Dataset("random", "made here", *parts, CLASSES)


def at_once(jobs: dict[Any, Callable[[], Any]], seconds: float = math.inf) -> dict[Any, Any]:
    """The outcome of every job, compiled in threads; an error is an outcome, and so is one that takes too long.

    A thread that compiles cannot be stopped: it goes on, and nobody waits for it.
    """

    def work(job: Callable[[], Any]) -> Any:
        with jax.default_matmul_precision("highest"):  # a thread has a setting of its own
            return job()

    pool = concurrent.futures.ThreadPoolExecutor(max(1, min(16, cores() or 1)))
    futures = {name: pool.submit(work, job) for name, job in jobs.items()}
    concurrent.futures.wait(futures.values(), None if seconds == math.inf else max(seconds, 0.0))
    pool.shutdown(wait=False, cancel_futures=True)
    return {name: _outcome(future, seconds) for name, future in futures.items()}


def _outcome(future: "concurrent.futures.Future[Any]", seconds: float) -> Any:
    if not future.done() or future.cancelled():
        return TimeoutError(f"not compiled within {seconds:.0f} s")
    return future.exception() or future.result()


def spread(times: Sequence[float], per: float = 1.0) -> JSON:
    """Median, least and most, over ``per``."""
    return {"median": statistics.median(times) / per, "min": min(times) / per, "max": max(times) / per, "n": len(times)}


# ---------------------------------------------------------------------------------------------------------------------
# Tests and ceilings


def device_tests(session: Session, out: JSON) -> None:
    """tests/device: side by side, and then those that need the device to themselves."""
    words = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "--tb=short"]
    environ = {"XLA_FLAGS": "--xla_gpu_autotune_level=0"} | os.environ
    environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONPATH": str(ROOT)}
    parts = {"together": ["tests/device", "-m", "not alone", "-n", "12"], "alone": ["tests/device", "-m", "alone"]}
    if session.dry:
        parts = {"together": ["tests/device/test_numbers.py", "--device-dry-run", "-k", "donated"]}
    codes = []
    for name, part in parts.items():
        began = time.monotonic()
        code, text = ended(words + part, environ, min(max(session.left(), 10), 110))
        lines = text.strip().splitlines()
        out[name] = {"seconds": time.monotonic() - began, "exit_code": code, "output": text[-8000:]}
        out[name]["last"] = lines[-1] if lines else ""
        session.keep(out)
        codes.append(code)
    if None in codes:
        out["ended"] = "the time was up"
    if wrong := [code for code in codes if code not in (0, 1, None)]:
        raise RuntimeError(f"pytest ended with {wrong[0]}")


def ended(words: Sequence[str], environ: Mapping[str, str], seconds: float) -> tuple[int | None, str]:
    """The exit status of a command, None where it took too long, and what it printed."""
    process = subprocess.Popen(
        words, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        text, _ = process.communicate(timeout=seconds)
        return process.returncode, text
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest prints its failures, a training saves itself
        try:
            text, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
        return None, text


def ceilings(session: Session, out: JSON) -> None:
    """Products by precision, memory bandwidth, and what one small kernel costs."""
    size, elements, repeats = (64, 2**12, 2) if session.dry else (8192, 2**28, 8)
    window = 0.005 if session.dry else 0.05

    def product(precision: str) -> Callable[[], Any]:
        dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
        a, c = (jax.random.normal(jax.random.key(i), (size, size)).astype(dtype) for i in range(2))
        once = lambda _, c: jnp.matmul(a / size**0.5, c, preferred_element_type=jnp.float32).astype(dtype)
        with jax.default_matmul_precision("default" if precision == "bfloat16" else DOT[precision]):
            call = jax.jit(lambda a, c: jax.lax.fori_loop(0, repeats, once, c)).lower(a, c).compile()
        return lambda: call(a, c).block_until_ready()

    def triad() -> Callable[[], Any]:
        a, b = (jax.random.normal(jax.random.key(i), (elements,)) for i in range(2))
        passes = lambda a, b: jax.lax.fori_loop(0, repeats, lambda _, a: 0.999 * a + b, a)
        compiled = jax.jit(passes, donate_argnums=0).lower(a, b).compile()  # or a copy of a would be timed, too

        def call() -> None:
            nonlocal a
            a = compiled(a, b).block_until_ready()

        return call

    def chain() -> Callable[[], Any]:
        x = jnp.zeros(())
        turn = lambda _, x: jnp.sort(jnp.stack([x, x + 1]))[0]  # a kernel that no other swallows
        call = jax.jit(lambda x: jax.lax.fori_loop(0, 1000, turn, x)).lower(x).compile()
        return lambda: call(x).block_until_ready()

    def empty() -> Callable[[], Any]:
        x = jnp.zeros(())
        call = jax.jit(lambda x: x + 1).lower(x).compile()
        return lambda: call(x).block_until_ready()

    jobs: dict[Any, Callable[[], Any]] = {"triad": triad, "turns of a loop": chain, "one call": empty}
    jobs |= {name: functools.partial(product, name) for name in (DOT if session.on_gpu else ["float32"])}
    made = at_once(jobs)
    calls = {(name, ""): call for name, call in made.items() if not isinstance(call, Exception)}
    out["failed"] = {name: str(error).split("\n")[0] for name, error in made.items() if isinstance(error, Exception)}
    for call in calls.values():
        call()
    times = {name: seconds for (name, _), seconds in take_turns(calls, 3, window).items()}
    for name, seconds in times.items():
        if name in DOT:
            out[name] = {"TFLOP_per_s": 2e-12 * size**3 * repeats / statistics.median(seconds)}
        elif name == "triad":
            out[name] = {"GB_per_s": 1e-9 * 12 * elements * repeats / statistics.median(seconds)}
        else:
            out[name] = {"us": 1e6 * statistics.median(seconds) / (1000 if name == "turns of a loop" else 1)}


# ---------------------------------------------------------------------------------------------------------------------
# Energy


def energy(session: Session, out: JSON) -> None:
    """MF and BP on MNIST at matched passes: windows of whole passes in turns, joules and seconds per pass.

    One run at a time, 784-1000-1000, batch 128, Adam, float32. "host": the same step, with every batch sent from host
    memory and one call per step, as the papers' programs do it.
    """
    dataset, batch = session.images(), 8 if session.dry else 128
    count = len(dataset.y_train) // batch
    shape, widths = session.net
    x = data.normalise(jnp.asarray(dataset.x_train[: count * batch]), *data.statistics(dataset))
    x, y = x.reshape(count, batch, *shape), jnp.asarray(dataset.y_train[: count * batch]).reshape(count, batch)
    host = np.asarray(x), np.asarray(y)
    rules = {"mf": mf.rule, "bp": bp.rule}
    rules = {
        name: make(nets.mlp(widths), optax.adam(LEARNING_RATE), num_classes=CLASSES) for name, make in rules.items()
    }

    def passes(name: str) -> Callable[[], Any]:
        rule = rules[name]

        def epoch(state: Any, x: Any, y: Any) -> Any:
            def step(state: Any, pair: Any) -> Any:
                state, metrics = rule.update(state, Batch(*pair), jax.random.key(0))
                return state, metrics["loss"]

            return jax.lax.scan(step, state, (x, y))

        start = jax.jit(rule.init).lower(jax.random.key(0), x[0]).compile()
        state, done = start(jax.random.key(0), x[0]), 0
        compiled = jax.jit(epoch, donate_argnums=0).lower(state, x, y).compile()

        def call() -> Any:
            nonlocal state, done
            if done % FRESH == 0:  # converged weights draw less power, and no run is that long
                state = start(jax.random.key(done), x[0])
            state, losses = compiled(state, x, y)
            done += 1
            return losses

        return call

    def fed(name: str) -> Callable[[], Any]:
        rule = rules[name]
        start = jax.jit(rule.init).lower(jax.random.key(0), x[0]).compile()
        state, done = start(jax.random.key(0), x[0]), 0
        one = lambda state, x, y: rule.update(state, Batch(x, y), jax.random.key(0))
        compiled = jax.jit(one, donate_argnums=0).lower(state, x[0], y[0]).compile()

        def call() -> Any:
            nonlocal state, done
            if done % FRESH == 0:
                state = start(jax.random.key(done), x[0])
            done += 1
            for own_x, own_y in zip(*host, strict=True):
                state, metrics = compiled(state, own_x, own_y)
            return metrics["loss"]

        return call

    jobs: dict[Any, Callable[[], Any]] = {("resident", name): functools.partial(passes, name) for name in rules}
    jobs |= {("host", name): functools.partial(fed, name) for name in rules}
    made = at_once(jobs)
    for call in made.values():
        if isinstance(call, Exception):
            raise call
        jax.block_until_ready(call())
    seconds = 0.05 if session.dry else session.options.window
    out |= {"net": "-".join(map(str, (math.prod(shape), *widths))), "batch": batch, "steps_per_pass": count}
    out |= {"window_seconds": seconds, "windows": []}
    meter = Meter(idle_seconds=0.0)
    if not session.dry:  # once before all, and told apart
        reading = Meter(idle_seconds=4.0).repeat(made["resident", "mf"], seconds=2.0, warm_up=0.5, name="idle")
        parts = [part for part in reading.parts if part.kind == "gpu"]
        out["idle_watts"] = parts[0].idle.value if parts else None
    pairs = 1 if session.dry else session.options.pairs
    for arm, number in (("resident", pairs), ("host", 1 if session.dry else max(3, pairs // 3))):
        for block in range(number):
            for name in ("mf", "bp") if block % 2 == 0 else ("bp", "mf"):
                warm = 0.0 if session.dry else 0.5
                reading = meter.repeat(made[arm, name], seconds=seconds, warm_up=warm, name=f"{arm} {name}")
                finite = bool(np.isfinite(np.asarray(made[arm, name]())).all())
                own: JSON = {"arm": arm, "rule": name, "block": block, "passes": reading.repeats}
                own |= {"seconds_per_pass": (reading.seconds.value or math.nan) / reading.repeats}
                joules = reading.energy.value
                own |= {"joules_per_pass": None if joules is None else joules / reading.repeats}
                own |= {"finite": finite, "watts": reading.mean_power.value, "reason": reading.energy.reason}
                parts = [part for part in reading.parts if part.kind == "gpu"]
                own |= {"disagreement": parts[0].disagreement if parts else None, "notes": list(reading.notes)}
                out["windows"].append(own)
            session.keep(out)
            if session.left() < 30 and not session.dry:
                out |= {"ended": "the time was up", "ratios": ratios(out["windows"])}
                return
    out["ratios"] = ratios(out["windows"])


def ratios(windows: Sequence[JSON]) -> JSON:
    """MF over BP by block: geometric mean and its 95 % t interval, by arm and quantity."""
    from scipy import stats as distributions

    found: JSON = {}
    for arm, name in itertools.product(("resident", "host"), ("seconds_per_pass", "joules_per_pass")):
        by = {(own["rule"], own["block"]): own[name] for own in windows if own["arm"] == arm and own[name]}
        logs = [math.log(by["mf", b] / by["bp", b]) for rule, b in by if rule == "mf" and ("bp", b) in by]
        if len(logs) < 2:
            continue
        interval = distributions.ttest_1samp(logs, 0.0).confidence_interval(0.95)
        ends = [math.exp(end) for end in (statistics.fmean(logs), interval.low, interval.high)]
        found[f"{arm} {name}"] = dict(zip(("ratio", "low", "high"), ends, strict=True)) | {"n": len(logs)}
    return found


def own_convergence(session: Session, out: JSON) -> None:
    """MF and BP, each run until its own validation loss stands still (patience 5), in turns, one run at a time."""
    dataset, seeds = session.images(), range(1 if session.dry else session.options.seeds)
    plan = Plan(epochs=2 if session.dry else 60, patience=5, keep="best_accuracy", batch_size=8 if session.dry else 128)
    widths = session.net[1]
    rules = {"mf": mf.rule, "bp": bp.rule}
    rules = {
        name: make(nets.mlp(widths), optax.adam(LEARNING_RATE), num_classes=CLASSES) for name, make in rules.items()
    }
    windows = [w for w in session.known("energy").get("windows", ()) if w["arm"] == "resident" and w["joules_per_pass"]]
    for name in rules:
        own = [w["joules_per_pass"] for w in windows if w["rule"] == name]
        out.setdefault("joules_per_pass", {})[name] = statistics.fmean(own) if own else None
    out |= {"plan": {"epochs": plan.epochs, "patience": 5, "batch": plan.batch_size, "rate": LEARNING_RATE}, "runs": []}
    for seed in seeds:
        for name in ("mf", "bp") if seed % 2 == 0 else ("bp", "mf"):
            result = fit(rules[name], dataset, plan, seed=seed, meter=Meter(idle_seconds=0.0))
            reading = result.energy
            own: JSON = {"rule": name, "seed": seed, "epochs": int(result.epochs), "seconds": result.train_seconds}
            own |= {"compile_seconds": result.compile_seconds, "test_accuracy": float(result.test_accuracy)}
            own |= {"val_accuracy": float(result.val_accuracy)}
            own |= {"joules": None if reading is None else reading.energy.value}
            per_pass = out["joules_per_pass"][name]
            own |= {"joules_by_passes": None if per_pass is None else per_pass * own["epochs"]}
            own |= {"reason": None if reading is None else reading.energy.reason}
            own |= {"note": "joules_by_passes: passes times joules of a pass (job energy); a run is too short to meter"}
            out["runs"].append(own)
            session.keep(out)
        if session.left() < 15 and not session.dry:
            out["ended"] = "the time was up"
            return


# ---------------------------------------------------------------------------------------------------------------------
# Seeds and steps


def seeds(session: Session, out: JSON) -> None:
    """Milliseconds per step of 1 to 64 seeds together (vmap), and of ten by ``map``; MF and BP, MLP and CNN."""
    batch, count = (8, 4) if session.dry else (128, 128)
    numbers = (1, 2) if session.dry else (1, 10, 32, 64)
    cells = [("mlp", "vmap", runs) for runs in numbers]
    cells += [(net, how, numbers[1]) for net, how in (("mlp", "map"), ("cnn", "vmap"), ("cnn", "map"))]
    out |= {"batch": batch, "points": []}

    def make(name: str, net: str, how: str, runs: int) -> Callable[[], Any]:
        shape, blocks = architecture(session, net)
        own = count if net == "mlp" else max(2, count // 16)
        call, _ = Swept(built(name, blocks, "adam"), shape, batch, runs, 8, how).compiled(own)
        return lambda: jax.block_until_ready(call())

    for net, how, runs in cells:
        if session.lacks(20):
            out["ended"] = "the time was up"
            return
        own = count if net == "mlp" else max(2, count // 16)
        jobs: dict[Any, Callable[[], Any]] = {
            (name, ""): functools.partial(make, name, net, how, runs) for name in ("mf", "bp")
        }
        times = timed_in_turns(session, jobs, 0.01 if session.dry else 0.1)
        shape, blocks = architecture(session, net)
        for (name, _), each in times.items():
            point: JSON = {"rule": name, "net": net, "how": how, "seeds": runs}
            point |= cost(session, each, own, *bound_of(name, blocks, shape, batch, runs))
            out["points"].append(point)
        session.keep(out)


def architecture(session: Session, net: str) -> tuple[tuple[int, ...], Any]:
    """Shape of an image and the blocks."""
    if net == "cnn":
        shape = (8, 8, 1) if session.dry else (32, 32, 3)
        return shape, nets.cnn([4, 8] if session.dry else [64, 128, 256], pool="max")
    if net == "large":
        return (32, 32, 3), nets.mlp([2000, 2000, 2000])
    return session.net[0], nets.mlp(session.net[1])


def timed_in_turns(session: Session, jobs: dict[Any, Callable[[], Any]], window: float) -> dict[Any, Any]:
    """Seconds per call of every job, compiled side by side and timed in turns; an error where one failed."""
    made = at_once(jobs, max(session.left() - 10, 5) if not session.dry else math.inf)
    found: dict[Any, Any] = {}
    for key, call in list(made.items()):
        try:
            if isinstance(call, BaseException):
                raise call
            call()
        except Exception as error:  # memory that is not there, say
            found[key] = error
            del made[key]
    return found | take_turns(made, 3, window)


def cost(session: Session, each: Any, count: int, macs: float, moved: float) -> JSON:
    """Milliseconds of a step, and its bound: the larger of its products and its optimizer's traffic at the ceiling."""
    if isinstance(each, Exception):
        return {"failed": f"{type(each).__name__}: {str(each).splitlines()[0] if str(each) else ''}"[:200]}
    found: JSON = {"ms_per_step": spread(each, count / 1e3), "macs": macs, "optimizer_bytes": moved}
    reached = session.known("ceilings")
    if "float32" in reached and "triad" in reached:
        ceiling = Ceiling(1e12 * reached["float32"]["TFLOP_per_s"], 1e9 * reached["triad"]["GB_per_s"])
        bound = roofline(macs, moved, ceiling)
        found |= {"bound_ms": 1e3 * bound.seconds, "bound_by": bound.by}
        found |= {"over_bound": found["ms_per_step"]["median"] / found["bound_ms"]}
    return found


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
    """Roofline of ``macs`` multiply-accumulates, two operations each, and ``moved`` bytes."""
    return Roofline(2 * macs / ceiling.flops, moved / ceiling.bandwidth)


def bound_of(rule: str, blocks: Any, shape: tuple[int, ...], batch: int, runs: int) -> tuple[float, float]:
    """Multiply-accumulates of a step of ``runs`` runs, and bytes that its optimizer moves."""
    macs = measure.macs(RULES[rule], blocks, shape, num_classes=CLASSES, batch=batch)
    example = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    params = jax.eval_shape(built(rule, blocks, "adam").init, jax.random.key(0), example).params
    trained = params.heads if rule == "cafo" else params  # its blocks are not trained here
    return runs * macs, runs * measure.optimizer_bytes(transformation("bp", "adam"), trained)


def steps(session: Session, out: JSON) -> None:
    """Every rule's step beside its bound, BP's products alone, and PyTorch: eager, compiled, as CUDA graph."""
    torch = torch_module()
    device = "cuda" if torch is not None and torch.cuda.is_available() else None
    count, ours, others = (
        (2, ("mf", "bp"), ()) if session.dry else (64, ("mf", "bp"), ("ff", "pepita", "foton", "cafo"))
    )
    groups: list[tuple[str, int, tuple[str, ...]]] = [("mlp", 8, ours), ("cnn", 8, ours)] if session.dry else []
    if not session.dry:
        groups += [("mlp", 128, ours), ("mlp", 1024, ours), ("cnn", 128, ours), ("mlp", 4096, ours)]
        groups += [("mlp", 128, others), ("mlp", 1024, others), ("large", 128, ours)]
    out["cells"] = []
    for net, batch, rules in groups:
        if session.lacks(25):
            out["ended"] = "the time was up"
            return
        shape, blocks = architecture(session, net)
        counts: dict[Any, int] = {}
        jobs: dict[Any, Callable[[], Any]] = {}
        own = count if net != "cnn" else max(2, count // 8)
        for name in rules:
            jobs[name, "fwdonly"] = functools.partial(
                lambda name, *rest: jax_steps(built(name, rest[0], "adam"), *rest[1:]), name, blocks, shape, batch, own
            )
        if net == "mlp" and "bp" in rules:
            jobs["bp", "products alone"] = functools.partial(products_alone, shape, session.net[1], batch, own)
        if device and net != "cnn" and "bp" in rules:
            full = (math.prod(shape), *(block.width for block in blocks))
            for name in rules:
                for by, make in TORCH.items():
                    counts[name, by] = max(2, own // 8)
                    jobs[name, by] = functools.partial(make, name, full, batch, "adam", counts[name, by], device)
        for (name, by), each in timed_in_turns(session, jobs, 0.005 if session.dry else 0.05).items():
            cell: JSON = {"net": net, "batch": batch, "rule": name, "by": by}
            per = counts.get((name, by), own)
            out["cells"].append(cell | cost(session, each, per, *bound_of(name, blocks, shape, batch, 1)))
        session.keep(out)


TORCH: dict[str, Callable[..., Callable[[], None]]] = {
    "torch eager": torch_steps,
    "torch compile": functools.partial(torch_steps, compiled=True),
    "torch CUDA graph": torch_graphed,
}


def products_alone(shape: tuple[int, ...], widths: tuple[int, ...], batch: int, count: int) -> Callable[[], Any]:
    """The matrix products of a step of BP at their own shapes, one after another and nothing else between them."""
    sides = [math.prod(shape), *widths, CLASSES]
    keys = iter(jax.random.split(jax.random.key(0), 2 * len(sides)))
    weights = [jax.random.normal(next(keys), pair) / pair[0] ** 0.5 for pair in itertools.pairwise(sides)]
    x = jax.random.normal(next(keys), (batch, sides[0]))

    def step(carry: Any, _: Any) -> Any:
        acts = [x]
        for W in carry:
            acts.append(acts[-1] @ W)
        delta, new = acts[-1], []
        for at in reversed(range(len(carry))):
            new.append(carry[at] - 1e-9 * (acts[at].T @ delta))
            if at:
                delta = delta @ carry[at].T
        return new[::-1], None

    call = jax.jit(lambda weights: jax.lax.scan(step, weights, None, length=count)[0]).lower(weights).compile()
    return lambda: jax.block_until_ready(call(weights))


# ---------------------------------------------------------------------------------------------------------------------
# Processes of their own: users' commands, compilation, memory


def users(session: Session, out: JSON) -> None:
    """``mf_mlp.py --seeds 10`` as users type it: seconds, seconds of compilation, accuracy, joules of ten seeds."""
    words = ["experiments/mf_mlp.py", "--seeds", "10", "--energy", "--idle-seconds", "3"]
    if session.dry:
        words[2:] = ["2", "--epochs", "1", "--net", "mlp:8", "--dataset", "toy"]
    trained(session, out, words, 100)


def cifar(session: Session, out: JSON) -> None:
    """CIFAR-10, MLP 3x2000, ten seeds, MF and BP by own convergence (patience 5), without augmentation."""
    words = ["-m", "fwdonly", "train", "mf", "--against", "bp", "--dataset", "cifar10", "--net", "mlp:2000,2000,2000"]
    words += ["--learning-rate", "2.15e-4", "--bp.learning-rate", "8.1e-5", "--lr-schedule", "constant"]
    words += ["--epochs", "40", "--patience", "5", "--keep", "best_loss", "--energy", "--idle-seconds", "3"]
    on_cifar(session, out, words, 150)


def cifar_published(session: Session, out: JSON) -> None:
    """CIFAR-10 under the authors' rule of 2026: augmentation, patience 20, MF greedy with M_0; ten seeds."""
    on_cifar(session, out, ["-m", "fwdonly", "train", "mf", "--preset", "cifar10_2026", "--against", "bp"], 500)


def conv_mf(session: Session, out: JSON) -> None:
    """MF and BP on 64-128-256-512 (3x3, ReLU, 2x2 pooling, flattened readouts), by own convergence (patience 5)."""
    words = ["-m", "fwdonly", "train", "mf", "--against", "bp", "--dataset", "cifar10", "--net", "cnn:64,128,256,512"]
    words += ["--learning-rate", "1e-3", "--lr-schedule", "constant", "--augment", "--epochs", "60", "--patience", "5"]
    on_cifar(session, out, [*words, "--keep", "best_loss"], 300)


def conv_cwc(session: Session, out: JSON) -> None:
    """CwC and BP under CwC's published settings for CIFAR-10 (78.1 %)."""
    on_cifar(session, out, ["-m", "fwdonly", "train", "cwc", "--preset", "cifar10", "--against", "bp"], 300)


def conv_deeperforward(session: Session, out: JSON) -> None:
    """DeeperForward on its four layers under its settings for CIFAR-10 (79.5 %)."""
    on_cifar(session, out, ["-m", "fwdonly", "train", "deeperforward", "--preset", "cifar10_4"], 3_000)


def conv_scff(session: Session, out: JSON) -> None:
    """SCFF on three convolutions, without labels, and its readout, under its settings for CIFAR-10 (80.75 %).

    Per seed some 1.7e15 multiply-accumulates: layers 1 and 2 learn 6 and 4 epochs at 0.03e9 and 0.35e9 an image, layer
    3, 21 at 1.45e9; the readout's features are kept. Ten seeds at 25 TFLOP/s of float32: 1,400 s.
    """
    on_cifar(session, out, ["-m", "fwdonly", "train", "scff-greedy", "--preset", "cifar10"], 1_500)


def conv_cafo(session: Session, out: JSON) -> None:
    """CaFo with DFA blocks under the published settings for CIFAR-10 (77.6 %)."""
    on_cifar(session, out, ["-m", "fwdonly", "train", "cafo-dfa", "--preset", "cifar10"], 400)


def mixer_cifar(session: Session, out: JSON) -> None:
    """MF, MF-Joint and BP on eight mixer blocks of 128 channels, by own convergence (patience 5).

    A step takes at most 0.46 GFLOP an image, by hand: 0.229e9 products and sums, 2.5e16 FLOP in 40 epochs of all
    runs. That is 480 s at the 51 TFLOP/s which an H200 reached; products as small as these are taken to run at half.
    """
    words = ["-m", "fwdonly", "train", "mf", "--against", "mf-joint", "bp", "--dataset", "cifar10"]
    words += ["--net", "mixer:128x8;patch=4", "--learning-rate", "1e-3", "--augment", "--epochs", "40"]
    on_cifar(session, out, [*words, "--patience", "5", "--keep", "best_loss"], 1_000)


def on_cifar(session: Session, out: JSON, words: list[str], seconds: float) -> None:
    """A training on CIFAR-10, or on toy images in a dry run."""
    if session.dry:
        words = [
            "-m",
            "fwdonly",
            "train",
            "mf",
            "--against",
            "bp",
            "--dataset",
            "toy",
            "--net",
            "mlp:8",
            "--epochs",
            "1",
        ]
    elif session.options.data is None or not available("cifar10", session.options.data):
        raise UsageError("cifar10.npz, or all its parts, are missing in --data")
    trained(session, out, [*words, "--seeds", "2" if session.dry else "10"], seconds)


def trained(session: Session, out: JSON, words: list[str], seconds: float) -> None:
    """A command of the library in a process of its own; what its summary says, seed by seed."""
    out["command"] = " ".join(["python", *words])
    if importlib.util.find_spec("tyro") is None:
        raise UsageError("tyro is not installed; carry its wheel, with docstring-parser and typeguard")
    with tempfile.TemporaryDirectory() as folder:
        where = session.options.data
        if session.dry:
            toy, where = session.images(), Path(folder)
            parts = {name: getattr(toy, name) for name in ("x_train", "y_train", "x_test", "y_test")}
            np.savez(where / "toy.npz", allow_pickle=False, **parts)
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "MPLBACKEND": "Agg"}
        environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        given = [*words, "--data-dir", str(where), "--output-dir", f"{folder}/run"]
        limit = session.left() - 5 if not session.dry else 300
        code, text = ended([sys.executable, *given], environ, max(min(limit, 2 * seconds), 5))
        out |= {"exit_code": code, "output": text.replace(str(where), "DIR").replace(folder, "FOLDER")[-3000:]}
        summary = Path(folder, "run", "summary.json")
        if not summary.exists():
            raise RuntimeError(f"the command ended with {code}: {text.strip().splitlines()[-1:]}")
        content = json.loads(summary.read_text())
    names = ("seed", "val_accuracy", "test_accuracy", "epochs", "diverged")
    for own in content["rules"]:
        energy = (own.get("energy") or {}).get("energy", {})
        rule = {name: own[name] for name in ("rule", "finished", "train_seconds", "compile_seconds")}
        rule |= {"joules": energy.get("value"), "reason": energy.get("reason")}
        out.setdefault("rules", []).append(rule | {"runs": [{n: run[n] for n in names} for run in own["runs"]]})
    if code is None:
        out["ended"] = "the time was up"


FLAGS = {"default": "", "no autotuning": "--xla_gpu_autotune_level=0"}
"""Ways to compile whose price and gain are measured."""


def compilation(session: Session, out: JSON) -> None:
    """Seconds that a sweep of ten seeds compiles, and its step, with and without XLA's autotuning."""
    names = ("mf", "bp")
    for (how, flags), rule in itertools.product(FLAGS.items(), names):
        if session.lacks(25):
            out["ended"] = "the time was up"
            return
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        if session.on_gpu:
            environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        found = probed(session, {"what": "compile", "rule": rule, "seeds": 2 if session.dry else 10}, environ)
        out.setdefault("cells", []).append({"rule": rule, "how": how, **found})
        session.keep(out)


def memory(session: Session, out: JSON) -> None:
    """Temporary memory of a step by the compiler's account, and the allocator's peak, over depth; MF and BP."""
    depths = (1, 2) if session.dry else (2, 4, 8, 16)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    cells = [{"what": "memory", "rule": rule, "depth": depth} for depth in depths for rule in ("mf", "bp")]
    with concurrent.futures.ThreadPoolExecutor(4 if session.on_gpu else 1) as pool:
        found = pool.map(lambda cell: probed(session, cell, environ), cells)
        out["cells"] = [cell | own for cell, own in zip(cells, found, strict=True)]


def probed(session: Session, cell: JSON, environ: Mapping[str, str]) -> JSON:
    """What `probe` prints in a process of its own."""
    words = [sys.executable, str(ROOT / "benchmarks/gpu_jobs.py"), "--probe", json.dumps(cell | {"dry": session.dry})]
    code, text = ended(words, environ, max(session.left(), 5) if not session.dry else 120)
    lines = text.strip().splitlines()
    if code != 0:
        return {"failed": (lines or [f"exit status {code}"])[-1][:200]}
    return json.loads(lines[-1])


def probe(cell: JSON) -> JSON:
    """One measurement that needs a process: compilation from nothing, or an allocator that nobody else used."""
    dry = cell["dry"]
    shape, widths = TOY if dry else SMALL
    if cell["what"] == "compile":
        batch, count = (8, 4) if dry else (128, 128)
        with jax.default_matmul_precision("highest"):
            sweep = Swept(built(cell["rule"], nets.mlp(widths), "adam"), shape, batch, cell["seeds"], 8)
            call, seconds = sweep.compiled(count)
        jax.block_until_ready(call())
        turns = [took for took in take_turns({("", ""): lambda: jax.block_until_ready(call())}, 3, 0.1).values()]
        return {"compile_seconds": seconds, "ms_per_step": spread(turns[0], count / 1e3)}
    blocks, batch = nets.mlp([widths[0]] * cell["depth"]), 8 if dry else 4096
    made = built(cell["rule"], blocks, "adam")
    with jax.default_matmul_precision("highest"):
        compiled = measure.compile_step(made, shape, batch).compiled
    temporary = getattr(compiled.memory_analysis(), "temp_size_in_bytes", None)
    key = jax.random.key(0)
    given = Batch(jax.random.uniform(key, (batch, *shape)), jnp.arange(batch) % CLASSES)
    state = jax.jit(made.init)(key, given.x[:2])
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state, given)))
    before = measure.device_peak()
    for _ in range(3):
        state, _ = jax.block_until_ready(compiled(state, given, key))
    peak = measure.device_peak()
    below = peak.value is not None and peak.value == before.value
    reason = "compiling or drawing the weights took more than a step did" if below else peak.reason
    found: JSON = {"temporary_bytes": temporary, "held_bytes": held}
    return found | {"peak_bytes": None if below else peak.value, "reason": reason}


CONFIGURATION = ("pairs", "window", "seeds")
"""Options that change what a job measures."""
