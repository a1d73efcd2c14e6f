"""Training steps per second and memory of every rule, beside the machine's ceiling and eager PyTorch.

Each cell is one network, batch size, optimizer and rule: `update` in a compiled scan with donated state, on random
inputs that lie ready on the device as float32. `fwdonly.fit` adds to that the gather of a batch, its normalisation and
the sums of the metrics; `experiments/README.md` has the time of a step there. Compilation and warm-up are not timed.
The contenders of a cell take turns, round after round, so that a drift of the machine hits all alike; reported is the
median round, with the spread.
"""

import dataclasses
import functools
import importlib
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from fwdonly import RULES, Batch, nets, report
from fwdonly.base import LearningRule

NETS = {"784-1000-1000": ((28, 28, 1), (1000, 1000)), "3072-2000-2000-2000": ((32, 32, 3), (2000, 2000, 2000))}
CLASSES, LEARNING_RATE = 10, 1e-3
OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure training throughput and memory; prints a table and writes JSON."""

    nets: tuple[Literal["784-1000-1000", "3072-2000-2000-2000"], ...] = ("784-1000-1000", "3072-2000-2000-2000")
    """Networks, by their widths."""
    batches: tuple[int, ...] = (128, 1024)
    """Batch sizes."""
    optimizers: tuple[Literal["sgd", "adam"], ...] = ("sgd", "adam")
    """Optimizers."""
    rules: tuple[str, ...] = ("mf", "bp")
    """Rules of the registry."""
    rounds: int = 7
    """Timed rounds per cell; the contenders take turns in each."""
    seconds: float = 1.0
    """Length of one timed window, at least."""
    torch: bool = True
    """Also time the same mathematics in eager PyTorch, where it is installed (extra rivals)."""
    memory: bool = True
    """Also print the temporary memory of one compiled step, 5 and 20 layers of 1000, batch 4096, Adam."""
    output: Path | None = None
    """JSON file to write."""
    smoke: bool = False
    """A run of seconds that shows that everything works and measures nothing."""


def multiply_accumulates(rule: str, widths: tuple[int, ...]) -> int:
    """Multiply-accumulates of one training step per sample (matrix products only), from the shapes.

    BP: forward, weight gradient and, above the first layer, input gradient of every layer. MF: forward and weight
    gradient of every hidden layer and the three products with its readout.
    """
    hidden = [a * b for a, b in itertools.pairwise(widths)]
    if rule == "bp":
        return 3 * (sum(hidden) + widths[-1] * CLASSES) - hidden[0]
    return 2 * sum(hidden) + 3 * CLASSES * sum(widths[1:])


def ceiling(rounds: int, seconds: float, size: int = 2048) -> list[float]:
    """GFLOP/s of a float32 product of two square matrices, the highest rate this machine gives a compiled program."""
    a, b = jnp.asarray(np.random.default_rng(0).standard_normal((2, size, size)), jnp.float32)
    product = jax.jit(jnp.matmul)
    return [2e-9 * size**3 / timed(lambda: product(a, b).block_until_ready(), seconds) for _ in range(rounds)]


def torch_ceiling(seconds: float, size: int = 2048) -> float | None:
    """The same product in PyTorch, whose library may reach another rate on the same machine; None without it."""
    torch = _torch()
    if torch is None:
        return None
    a, b = torch.randn(2, size, size)
    return 2e-9 * size**3 / timed(lambda: a @ b, seconds)


def timed(call: Callable[[], Any], seconds: float) -> float:
    """Seconds per call, over a window of at least ``seconds``; ``call`` must wait for its result."""
    call()
    calls, begin = 0, time.perf_counter()
    while (gone := time.perf_counter() - begin) < seconds:
        call()
        calls += 1
    return gone / calls


def jax_steps(rule: LearningRule, shape: tuple[int, ...], batch: int, count: int) -> Callable[[], None]:
    """A call that trains ``count`` steps in one compiled program with donated state, and waits for the end."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((4 * batch, *shape)), jnp.float32)
    y = jnp.asarray(rng.integers(0, CLASSES, 4 * batch), jnp.int32)
    state = jax.jit(rule.init)(jax.random.key(0), x[:batch])

    @functools.partial(jax.jit, donate_argnums=0)
    def chunk(state: Any, x: Any, y: Any) -> Any:
        def step(state: Any, i: Any) -> Any:
            take = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=i % 4 * batch, slice_size=batch)
            state, metrics = rule.update(state, Batch(take(x), take(y)), jax.random.key(0))
            return state, metrics["loss"]

        return jax.lax.scan(step, state, jnp.arange(count))

    def call() -> None:
        nonlocal state
        state, loss = chunk(state, x, y)
        jax.block_until_ready((state, loss))

    call()
    return call


def torch_steps(rule: str, widths: tuple[int, ...], batch: int, optimizer: str, count: int) -> Callable[[], None]:
    """The same ``count`` steps in eager PyTorch: detached hand-overs and one loss per layer for MF, one loss for BP."""
    torch = _torch()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, batch, widths[0], generator=generator)
    y = torch.randint(0, CLASSES, (4, batch), generator=generator)
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    outputs = [torch.nn.Linear(n, CLASSES, bias=False) for n in widths[1:]] if rule == "mf" else []
    outputs = outputs or [torch.nn.Linear(widths[-1], CLASSES)]
    parameters = [p for module in [*layers, *outputs] for p in module.parameters()]
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    opt = kind(parameters, lr=LEARNING_RATE)
    loss_of = torch.nn.functional.cross_entropy

    def call() -> None:
        for i in range(count):
            a, label = x[i % 4], y[i % 4]
            opt.zero_grad(set_to_none=True)
            if rule == "mf":
                for layer, readout in zip(layers, outputs, strict=True):
                    a = torch.relu(layer(a))
                    loss_of(readout(a), label).backward()
                    a = a.detach()
            else:
                for layer in layers:
                    a = torch.relu(layer(a))
                loss_of(outputs[0](a), label).backward()
            opt.step()

    call()
    return call


def memory() -> list[dict[str, Any]]:
    """Temporary bytes of one compiled training step with donated state; layers of 1000, batch 4096, Adam."""
    rows = []
    for depth in (5, 20):
        for name in ("mf", "bp"):
            rule = RULES[name].rule(nets.mlp([1000] * depth), optax.adam(LEARNING_RATE), num_classes=CLASSES)
            batch = jax.eval_shape(lambda: Batch(jnp.zeros((4096, 784)), jnp.zeros(4096, jnp.int32)))
            state = jax.eval_shape(rule.init, jax.random.key(0), batch.x)
            step = jax.jit(rule.update, donate_argnums=0)
            analysis: Any = step.lower(state, batch, jax.random.key(0)).compile().memory_analysis()
            rows.append({"layers": depth, "rule": name, "temporary_mb": analysis.temp_size_in_bytes / 1e6})
    return rows


def measure(options: Options) -> list[dict[str, Any]]:
    """Every cell, one after another."""
    torch_there = options.torch and _torch() is not None
    rows = []
    for net_name in options.nets:
        shape, hidden = NETS[net_name]
        widths = (int(np.prod(shape)), *hidden)
        for batch in options.batches:
            for optimizer in options.optimizers:
                contenders: dict[tuple[str, str], Callable[[], None]] = {}
                count = 2 if options.smoke else max(4, int(2e10 / (2 * batch * multiply_accumulates("bp", widths))))
                for name in options.rules:
                    tx = OPTIMIZERS[optimizer](LEARNING_RATE)
                    rule = RULES[name].rule(nets.mlp(hidden), tx, num_classes=CLASSES)
                    contenders[name, "fwdonly"] = jax_steps(rule, shape, batch, count)
                    if torch_there:
                        contenders[name, "torch"] = torch_steps(name, widths, batch, optimizer, count)
                peaks, times = [], {contender: [] for contender in contenders}
                for _ in range(options.rounds):
                    peaks += ceiling(1, options.seconds / 2)
                    for contender, call in contenders.items():
                        times[contender].append(timed(call, options.seconds) / count)
                peak = statistics.median(peaks)
                for (name, library), seconds in times.items():
                    macs = multiply_accumulates(name, widths)
                    step = statistics.median(seconds)
                    rate = 2e-9 * macs * batch / step
                    cell = {"net": net_name, "batch": batch, "optimizer": optimizer, "rule": name, "library": library}
                    cell |= {"ms_per_step": 1e3 * step, "ms_min": 1e3 * min(seconds), "ms_max": 1e3 * max(seconds)}
                    cell |= {"steps_per_second": 1 / step, "macs_per_sample": macs, "gflops": rate}
                    rows.append(cell | {"ceiling_gflops": peak, "share_of_ceiling": rate / peak})
                    print(f"  {net_name} batch {batch} {optimizer} {name} {library}: {1e3 * step:.2f} ms", flush=True)
    return rows


def ratios(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Per cell MF against BP and both against PyTorch, from the medians."""
    step = {tuple(r[k] for k in ("net", "batch", "optimizer", "rule", "library")): r["ms_per_step"] for r in rows}
    lines = []
    for cell in dict.fromkeys(key[:3] for key in step):
        pairs = [
            (("mf", "fwdonly"), ("bp", "fwdonly")),
            (("mf", "fwdonly"), ("mf", "torch")),
            (("bp", "fwdonly"), ("bp", "torch")),
        ]
        found = [
            f"{step[cell + a] / step[cell + b]:.2f}" if cell + a in step and cell + b in step else "-" for a, b in pairs
        ]
        lines.append([cell[0], str(cell[1]), cell[2], *found])
    return lines


def _torch() -> Any:
    """PyTorch where it is installed, otherwise None."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        return None


def main() -> int:
    """Measure, print and write."""
    options = tyro.cli(Options)
    unknown = sorted(set(options.rules) - set(RULES))
    if unknown:
        print(f"error: unknown rule {unknown[0]}; choose from {', '.join(RULES)}", file=sys.stderr)
        return 2
    if options.rounds < 1 or min(options.batches, default=0) < 1 or not options.seconds > 0:
        print("error: rounds, batches and seconds must be positive", file=sys.stderr)
        return 2
    if options.output:
        try:
            options.output.touch()
        except OSError as error:
            print(f"error: cannot write {options.output}: {error.strerror}; give another --output", file=sys.stderr)
            return 2
    if options.smoke:
        options = dataclasses.replace(
            options, rounds=1, seconds=0.01, nets=("784-1000-1000",), batches=(128,), optimizers=("sgd",)
        )
    rows = measure(options)
    header = ["net", "batch", "optimizer", "rule", "library", "ms/step", "min-max", "steps/s", "GFLOP/s", "of ceiling"]
    lines = [
        [
            *(r["net"], str(r["batch"]), r["optimizer"], r["rule"], r["library"], f"{r['ms_per_step']:.2f}"),
            *(f"{r['ms_min']:.2f}-{r['ms_max']:.2f}", f"{r['steps_per_second']:.1f}", f"{r['gflops']:.0f}"),
            f"{100 * r['share_of_ceiling']:.0f} %",
        ]
        for r in rows
    ]
    print("\n" + report.markdown(header, lines))
    print(report.markdown(["net", "batch", "optimizer", "MF / BP", "MF / torch MF", "BP / torch BP"], ratios(rows)))
    rate = torch_ceiling(options.seconds) if options.torch else None
    if rate is not None:
        print(f"2048 x 2048 product: {rows[-1]['ceiling_gflops']:.0f} GFLOP/s compiled, {rate:.0f} in PyTorch\n")
    memories = memory() if options.memory and not options.smoke else []
    if memories:
        by = {(m["layers"], m["rule"]): m["temporary_mb"] for m in memories}
        table = [
            [str(n), f"{by[n, 'mf']:.0f}", f"{by[n, 'bp']:.0f}", f"{by[n, 'mf'] / by[n, 'bp']:.2f}"] for n in (5, 20)
        ]
        print(report.markdown(["layers of 1000, batch 4096, Adam", "MF temporary MB", "BP", "MF / BP"], table))
    if options.output:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(options).items()}
        content: dict[str, Any] = {
            "options": settings,
            "environment": report.environment() | {"torch": getattr(_torch(), "__version__", None)},
        }
        content |= {"torch_ceiling_gflops": rate, "throughput": rows, "memory": memories}
        report.write_json(options.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
