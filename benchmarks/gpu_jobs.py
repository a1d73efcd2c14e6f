"""Spends rare minutes on a GPU: jobs in order of worth, each with its own small JSON, the moment it ends.

A job that would not fit the time left is not begun. One whose finished JSON for this card lies in --results is skipped,
so that a second occasion goes on where the first stopped. A job that fails leaves its error, and the next one starts.
"""

import argparse  # and not tyro: the machines with a GPU that this project is lent have none
import concurrent.futures
import functools
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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _shared import CLASSES, Parser, Swept, built, jax_steps, take_turns, torch_module, torch_steps

from fwdonly import RULES, Batch, Meter, Plan, UsageError, bp, data, fit, measure, mf, nets, report, results
from fwdonly.base import DOT
from fwdonly.foton import ExpansionWarning
from fwdonly.surroundings import cores

ROOT = Path(__file__).parents[1]
JSON = dict[str, Any]
SMALL = ((28, 28, 1), (1000, 1000))
TOY = ((6, 6, 1), (16, 16))
LEARNING_RATE = 1.2e-3
FRESH = 15
"""Passes after which an energy window starts from new weights: what a run takes."""


class Job(NamedTuple):
    """What is measured; ``seconds``: how long it takes on an H200, as far as it is known."""

    run: Callable[["Session", JSON], None]
    seconds: float
    what: str


class Session:
    """The options, the clock, the data and what the jobs share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.dry = options, options.dry_run
        self.end = time.monotonic() + 60 * options.minutes
        self.environment = results.environment()
        self.on_gpu = jax.default_backend() == "gpu"
        self.configuration = {name: getattr(options, name) for name in (*CONFIGURATION, "dry_run")}
        self.net = TOY if self.dry else SMALL
        self.keep: Callable[..., None] = lambda found, **more: None
        """Writes what the job under way has found so far."""

    def left(self) -> float:
        return self.end - time.monotonic()

    def say(self, words: str) -> None:
        print(f"[{max(self.left(), 0):3.0f} s left] {words}", flush=True)

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


def at_once(jobs: dict[Any, Callable[[], Any]]) -> dict[Any, Any]:
    """The outcome of every job, compiled in threads; an error is an outcome."""

    def work(job: Callable[[], Any]) -> Any:
        try:
            with jax.default_matmul_precision("highest"):  # a thread has a setting of its own
                return job()
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(max(1, min(16, cores() or 1))) as pool:
        return dict(zip(jobs, pool.map(work, jobs.values()), strict=True))


def spread(times: Sequence[float], per: float = 1.0) -> JSON:
    """Median, least and most, over ``per``."""
    return {"median": statistics.median(times) / per, "min": min(times) / per, "max": max(times) / per, "n": len(times)}


# ---------------------------------------------------------------------------------------------------------------------
# Tests and ceilings


def device_tests(session: Session, out: JSON) -> None:
    """tests/device in processes beside one another."""
    words = [sys.executable, "-m", "pytest", "tests/device", "-q", "--no-header"]
    words += ["-p", "no:cacheprovider", "--tb=short"]
    if session.dry:
        words += ["tests/device/test_numbers.py", "--device-dry-run", "-k", "donated"]
        words.remove("tests/device")
    else:
        words += ["-n", "12"]
    environ = {"XLA_FLAGS": "--xla_gpu_autotune_level=0"} | os.environ
    environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    process = subprocess.Popen(
        words, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        text, _ = process.communicate(timeout=min(max(session.left(), 10), 100))
    except subprocess.TimeoutExpired:
        process.terminate()
        text, _ = process.communicate()
        out["ended"] = "the time was up"
    lines = text.strip().splitlines()
    out |= {"seconds": time.monotonic() - began, "exit_code": process.returncode, "output": text[-8000:]}
    out["last"] = lines[-1] if lines else ""
    if process.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {process.returncode}: {lines[-1:]}")


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
    out |= {"plan": {"epochs": plan.epochs, "patience": 5, "batch": plan.batch_size, "rate": LEARNING_RATE}, "runs": []}
    for seed in seeds:
        for name in ("mf", "bp") if seed % 2 == 0 else ("bp", "mf"):
            result = fit(rules[name], dataset, plan, seed=seed, meter=Meter(idle_seconds=0.0))
            reading = result.energy
            own: JSON = {"rule": name, "seed": seed, "epochs": int(result.epochs), "seconds": result.train_seconds}
            own |= {"compile_seconds": result.compile_seconds, "test_accuracy": float(result.test_accuracy)}
            own |= {"val_accuracy": float(result.val_accuracy)}
            own |= {"joules": None if reading is None else reading.energy.value}
            own |= {"reason": None if reading is None else reading.energy.reason}
            own |= {"note": "a run is shorter than the counter needs: multiply its passes by joules_per_pass"}
            out["runs"].append(own)
            session.keep(out)
        if session.left() < 15 and not session.dry:
            out["ended"] = "the time was up"
            return


# ---------------------------------------------------------------------------------------------------------------------
# Seeds and steps


def seeds(session: Session, out: JSON) -> None:
    """Milliseconds per step of 1 to 64 seeds together (vmap), MF and BP."""
    shape, widths = session.net
    batch, count = (8, 4) if session.dry else (128, 128)
    numbers = (1, 2) if session.dry else (1, 10, 32, 64)

    def make(name: str, runs: int) -> Callable[[], Any]:
        rule = built(name, nets.mlp(widths), "adam")
        call, _ = Swept(rule, shape, batch, runs, 8).compiled(count)
        return lambda: jax.block_until_ready(call())

    for runs in numbers:
        made = at_once({name: functools.partial(make, name, runs) for name in ("mf", "bp")})
        for call in made.values():
            if isinstance(call, Exception):
                raise call
            call()
        times = take_turns({(name, ""): call for name, call in made.items()}, 3, 0.01 if session.dry else 0.1)
        for (name, _), each in times.items():
            out.setdefault(name, []).append({"seeds": runs, "ms_per_step": spread(each, count / 1e3)})
        session.keep(out)
        if session.left() < 25 and not session.dry:
            out["ended"] = "the time was up"
            return


def steps(session: Session, out: JSON) -> None:
    """Every rule's step, the step's own products alone, and PyTorch: eager, as CUDA graph where it runs."""
    shape, widths = session.net
    sizes = (8,) if session.dry else (128, 1024, 4096)
    names = ("mf", "bp", "ff", "pepita", "cafo") if not session.dry else ("mf", "bp")
    torch = torch_module()
    device = "cuda" if torch is not None and torch.cuda.is_available() else None
    count = 2 if session.dry else 64
    out["cells"] = []
    for batch in sizes:
        jobs: dict[Any, Callable[[], Any]] = {}
        for name in names:
            jobs[name, "fwdonly"] = functools.partial(
                lambda name, batch: jax_steps(built(name, nets.mlp(widths), "adam"), shape, batch, count), name, batch
            )
        jobs["bp", "products alone"] = functools.partial(products_alone, shape, widths, batch, count)
        made = at_once(jobs)
        if device:
            full = (math.prod(shape), *widths)
            for name in ("mf", "bp"):
                made[name, "torch eager"] = torch_steps(name, full, batch, "adam", max(2, count // 8), device)
        for key in [key for key, call in made.items() if isinstance(call, Exception)]:
            out["cells"].append({"batch": batch, "rule": key[0], "by": key[1], "failed": str(made.pop(key))[:200]})
        for call in made.values():
            call()
        for (name, by), each in take_turns(made, 3, 0.005 if session.dry else 0.05).items():
            per = max(2, count // 8) if by.startswith("torch") else count
            macs = measure.macs(RULES[name], nets.mlp(widths), shape, num_classes=CLASSES, batch=batch)
            cell: JSON = {"batch": batch, "rule": name, "by": by, "ms_per_step": spread(each, per / 1e3), "macs": macs}
            out["cells"].append(cell)
        session.keep(out)
        if session.left() < 30 and not session.dry:
            out["ended"] = "the time was up"
            return


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


JOBS = {
    "ceilings": Job(ceilings, 35, "what the card reaches"),
    "energy": Job(energy, 150, "MF and BP at matched passes, joules in turns"),
    "own": Job(own_convergence, 100, "MF and BP at own convergence, joules"),
    "tests": Job(device_tests, 90, "device tests"),
    "seeds": Job(seeds, 60, "the price of a seed"),
    "steps": Job(steps, 90, "steps of every rule, products alone, PyTorch"),
}


def read(path: Path) -> JSON:
    """A job's file.

    Raises:
        UsageError: it cannot be read, or is damaged.
    """
    try:
        content = json.loads(path.read_text())
        _ = content["found"], content["environment"]["device"], content["dry_run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged; remove it, and its job runs again") from error
    return content


def run_job(session: Session, name: str) -> str:
    """Run one job and write its JSON; returns what became of it."""
    job, path = JOBS[name], session.options.results / f"{name}.json"
    if path.exists():
        known = read(path)
        same = known["environment"]["device"] == session.environment["device"]
        if known.get("finished") and same and known.get("configuration") == session.configuration:
            return "measured before, skipped"
    if session.left() < (0 if session.dry else 0.6 * job.seconds):
        return f"not begun: {session.left():.0f} s were left, and it takes some {job.seconds:.0f} s"
    out: JSON = {}
    head = {
        "job": name,
        "what": job.what,
        "finished": False,
        "dry_run": session.dry,
        "command": session.options.command,
    }
    head |= {"configuration": session.configuration, "environment": session.environment}

    def keep(found: JSON, **more: Any) -> None:
        results.write_json(path, head | more | {"found": found})

    session.keep = keep
    began = time.monotonic()
    try:
        with jax.default_matmul_precision("highest"):
            job.run(session, out)
    except Exception as error:  # the next one starts
        keep(out, failed=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return f"failed: {type(error).__name__}: {error}"[:300]
    keep(out, finished="ended" not in out, seconds=time.monotonic() - began)
    return f"done in {time.monotonic() - began:.0f} s"


def tables(folder: Path) -> str:
    """Markdown of every JSON in a folder."""
    parts = []
    for name in JOBS:
        path = folder / f"{name}.json"
        if not path.exists():
            parts.append(f"**{name}**: not measured.\n")
            continue
        content = read(path)
        found, device = content["found"], content["environment"]["device"]
        title = f"**{name}** ({JOBS[name].what}; {device}{', dry run' if content['dry_run'] else ''})"
        parts.append(f"{title}{': ' + content['failed'] if 'failed' in content else ''}\n")
        parts.append(TABLES[name](found) if found else "")
    return "\n".join(parts)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _windows_table(found: JSON) -> str:
    rows = []
    for arm, rule in itertools.product(("resident", "host"), ("mf", "bp")):
        own = [w for w in found.get("windows", ()) if (w["arm"], w["rule"]) == (arm, rule)]
        values = lambda name, own=own: [w[name] for w in own if w[name] is not None]
        rows.append([arm, rule.upper(), str(len(own)), *(report.mean_sd(values(n), ".4g") for n in ENERGY)])
    lines = [f"idle {number(found.get('idle_watts'))} W"]
    for name, own in found.get("ratios", {}).items():
        lines.append(f"{name}, MF over BP: {own['ratio']:.4f} [{own['low']:.4f}, {own['high']:.4f}], n = {own['n']}")
    return report.markdown_table(["data", "rule", "n", *ENERGY], rows) + "\n" + "; ".join(lines) + "\n"


ENERGY = ("seconds_per_pass", "joules_per_pass", "watts")


def _runs_table(found: JSON) -> str:
    rows = []
    for rule in ("mf", "bp"):
        own = [run for run in found.get("runs", ()) if run["rule"] == rule]
        columns = ("epochs", "seconds", "joules", "test_accuracy")
        values = [[run[name] for run in own if run[name] is not None] for name in columns]
        rows.append([rule.upper(), str(len(own)), *(report.mean_sd(v, ".5g") for v in values)])
    return report.markdown_table(["rule", "n", "epochs", "s", "J", "test accuracy"], rows)


def _seeds_table(found: JSON) -> str:
    rows = []
    for rule in ("mf", "bp"):
        points = found.get(rule, ())
        for point in points:
            ms, first = point["ms_per_step"]["median"], points[0]["ms_per_step"]["median"]
            added = (ms - first) / (point["seeds"] - 1) / first if point["seeds"] > 1 else None
            rows.append([rule.upper(), str(point["seeds"]), number(ms), number(added)])
    return report.markdown_table(["rule", "seeds", "ms/step", "added seed over the first"], rows)


def _steps_table(found: JSON) -> str:
    rows = [
        [
            str(c["batch"]),
            c["rule"].upper(),
            c["by"],
            number(c["ms_per_step"]["median"]) if "ms_per_step" in c else c["failed"],
        ]
        for c in found.get("cells", ())
    ]
    return report.markdown_table(["batch", "rule", "by", "ms/step"], rows)


TABLES: dict[str, Callable[[JSON], str]] = {
    "tests": lambda found: f"{found.get('last', '')}\n",
    "ceilings": lambda found: report.markdown_table(
        ["what", "rate"],
        [[k, ", ".join(f"{number(v)} {unit}" for unit, v in own.items())] for k, own in found.items() if k != "failed"],
    ),
    "energy": _windows_table,
    "own": _runs_table,
    "seeds": _seeds_table,
    "steps": _steps_table,
}


CONFIGURATION = ("pairs", "window", "seeds")
"""Options that change what a job measures."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked."""
    kind = argparse.ArgumentDefaultsHelpFormatter
    parser = Parser(description=(__doc__ or "").partition("\n")[0], formatter_class=kind, allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=Path("gpu-results"), help="folder for the jobs' JSON files")
    parser.add_argument("--minutes", type=float, default=7.5, help="time for everything")
    parser.add_argument("--data", type=Path, help="folder with mnist.npz")
    parser.add_argument(
        "--jobs", nargs="+", choices=list(JOBS), default=list(JOBS), help="what to measure, in this order"
    )
    parser.add_argument("--pairs", type=int, default=10, help="pairs of energy windows")
    parser.add_argument(
        "--window", type=float, default=5.5, help="seconds of an energy window; the cross-check by samples needs 5"
    )
    parser.add_argument("--seeds", type=int, default=10, help="runs of each rule at own convergence")
    parser.add_argument(
        "--dry-run", action="store_true", help="toy size on a CPU; shows that it runs, measures nothing"
    )
    parser.add_argument("--report", type=Path, help="print the tables of this folder and end")
    options = parser.parse_args(arguments)
    for name in ("minutes", "window", "pairs", "seeds"):
        if not 0 < getattr(options, name) < math.inf:
            parser.error(f"--{name} must be above 0; got {getattr(options, name)}")
    for name in ("data", "report"):
        folder = getattr(options, name)
        if folder is not None and not folder.is_dir():
            parser.error(f"--{name} {folder} is no folder")
    words = [f"--{name} {getattr(options, name):g}" for name in ("minutes", *CONFIGURATION)]
    words += ["--data DIR"] * (options.data is not None) + ["--dry-run"] * options.dry_run
    options.command = " ".join(["python benchmarks/gpu_jobs.py", *words])
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the jobs and print the tables; 3 if a job failed."""
    options = parse(arguments)
    if options.report is not None:
        try:
            print(tables(options.report))
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    warnings.simplefilter("ignore", ExpansionWarning)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the tests' processes share the memory
    try:
        options.results.mkdir(parents=True, exist_ok=True)
        session = Session(options)
        if not session.on_gpu and not session.dry:
            raise UsageError("JAX sees no GPU; --dry-run shows on a CPU that the jobs run")
        failed = 0
        for name in options.jobs:
            session.say(f"{name}: {JOBS[name].what}")
            outcome = run_job(session, name)
            failed += outcome.startswith("failed")
            session.say(f"{name}: {outcome}")
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n" + tables(options.results))
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
