"""Training steps per second of every rule, beside the machine's ceiling and eager PyTorch.

Each cell is one network, batch size, optimizer and rule: `update` in a compiled scan with donated state, on random
inputs that lie ready on the device as float32. `fwdonly.fit` adds to that the gather of a batch, its normalisation and
the sums of the metrics; `experiments/README.md` has the time of a step there. Compilation and warm-up are not timed.
The contenders of a cell take turns, round after round, so that a drift of the machine hits all alike; reported is the
median round, with the spread. A section of its own times a head of `fwdonly.cafo` on kept features and on features that
are computed anew with every batch.
"""

import dataclasses
import functools
import importlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from _shared import (
    CLASSES,
    LEARNING_RATE,
    NETS,
    Contenders,
    jax_steps,
    multiply_accumulates,
    take_turns,
    timed,
    torch_module,
    torch_optimizer,
    torch_steps,
    transformation,
)

from fwdonly import RULES, Batch, cafo, nets, report, results
from fwdonly.base import LearningRule

PRODUCT = 2048
"""Rows and columns of the matrices whose product is the ceiling."""
HEAD_BATCH, HEAD_RATE, EXAMPLES, ROWS = 128, 0.01, 1024, 500
"""Heads on kept features: mini-batch, rate of full-batch descent, images of the statistics and of one features call."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure training throughput; prints a table and writes JSON."""

    nets: tuple[Literal["784-1000-1000", "784-1000-1000-1000", "3072-2000-2000-2000"], ...] = (
        "784-1000-1000",
        "784-1000-1000-1000",
        "3072-2000-2000-2000",
    )
    """Networks, by their widths."""
    batches: tuple[int, ...] = (128, 1024)
    """Batch sizes."""
    optimizers: tuple[Literal["sgd", "adam", "reference"], ...] = ("sgd", "adam", "reference")
    """Optimizers; "reference" is the Matlab's of Forward-Forward, for the rule "ff" alone."""
    rules: tuple[Literal["mf", "bp", "ff"], ...] = ("mf", "bp", "ff")
    """Learning rules."""
    rounds: int = 7
    """Timed rounds per cell; the contenders take turns in each."""
    seconds: float = 1.0
    """Length of one timed window, at least."""
    torch: bool = True
    """Also time the same mathematics in eager PyTorch, where it is installed (extra rivals)."""
    heads: bool = True
    """Also time the third head of Cascaded-Forward on kept features and on features computed anew."""
    images: int = 2000
    """Training images of that section; their kept features take 18 kB per image."""
    output: Path | None = None
    """JSON file to write."""
    smoke: bool = False
    """A run of seconds that shows that everything works and measures nothing."""


def ceiling() -> Callable[[], Any]:
    """A float32 product of two square matrices, the highest rate this machine gives a compiled program."""
    a, b = jnp.asarray(np.random.default_rng(0).standard_normal((2, PRODUCT, PRODUCT)), jnp.float32)
    product = jax.jit(jnp.matmul)
    return lambda: product(a, b).block_until_ready()


def torch_ceiling(seconds: float) -> float | None:
    """GFLOP/s of the same product in PyTorch, whose library may reach another rate; None without it."""
    torch = torch_module()
    if torch is None:
        return None
    a, b = torch.randn(2, PRODUCT, PRODUCT)
    return 2e-9 * PRODUCT**3 / timed(lambda: a @ b, seconds)


def time_rules(options: Options) -> list[dict[str, Any]]:
    """Every cell, one after another."""
    torch_there = options.torch and torch_module() is not None
    rows = []
    for net_name in options.nets:
        shape, hidden = NETS[net_name]
        widths = (int(np.prod(shape)), *hidden)
        for batch in options.batches:
            for optimizer in options.optimizers:
                contenders: Contenders = {}
                count = 2 if options.smoke else max(4, int(2e10 / (2 * batch * multiply_accumulates("bp", widths))))
                for name in options.rules:
                    if optimizer == "reference" and name != "ff":
                        continue
                    rule = RULES[name].rule(nets.mlp(hidden), transformation(name, optimizer), num_classes=CLASSES)
                    contenders[name, "fwdonly"] = jax_steps(rule, shape, batch, count)
                    if torch_there:
                        contenders[name, "torch"] = torch_steps(name, widths, batch, optimizer, count)
                if not contenders:
                    continue
                times = take_turns({("product", ""): ceiling()} | contenders, options.rounds, options.seconds)
                peak = 2e-9 * PRODUCT**3 / statistics.median(times.pop(("product", "")))
                for (name, library), calls in times.items():
                    seconds = [call / count for call in calls]
                    macs = multiply_accumulates(name, widths)
                    step = statistics.median(seconds)
                    rate = 2e-9 * macs * batch / step
                    cell: dict[str, Any] = {"net": net_name, "batch": batch, "optimizer": optimizer}
                    cell |= {"rule": name, "library": library}
                    cell |= {"ms_per_step": 1e3 * step, "ms_min": 1e3 * min(seconds), "ms_max": 1e3 * max(seconds)}
                    cell |= {"steps_per_second": 1 / step, "macs_per_sample": macs, "gflops": rate}
                    rows.append(cell | {"ceiling_gflops": peak, "share_of_ceiling": rate / peak})
                    print(f"  {net_name} batch {batch} {optimizer} {name} {library}: {1e3 * step:.2f} ms", flush=True)
    return rows


RATIOS = {
    "MF / BP": (("mf", "fwdonly"), ("bp", "fwdonly")),
    "MF / torch MF": (("mf", "fwdonly"), ("mf", "torch")),
    "BP / torch BP": (("bp", "fwdonly"), ("bp", "torch")),
    "FF / torch FF": (("ff", "fwdonly"), ("ff", "torch")),
}


def ratios(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The `RATIOS` of every cell, from the medians."""
    step = {tuple(r[k] for k in ("net", "batch", "optimizer", "rule", "library")): r["ms_per_step"] for r in rows}
    return [
        [cell[0], str(cell[1]), cell[2], *(_ratio(step.get(cell + a), step.get(cell + b)) for a, b in RATIOS.values())]
        for cell in dict.fromkeys(key[:3] for key in step)
    ]


def _ratio(a: float | None, b: float | None) -> str:
    return "-" if a is None or b is None else f"{a / b:.2f}"


HEAD_WORK = {
    "features": "features of all images, once",
    "kept": "epoch of the third head, kept features",
    "anew": "epoch of the third head, features computed anew",
    "full": "full-batch step, kept features",
}


def cached_heads(options: Options) -> list[dict[str, Any]]:
    """The third head of the paper's network, trained on kept features and on features computed with every batch."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((options.images, 28, 28, 1), np.float32)
    y = rng.integers(0, CLASSES, options.images).astype(np.int32)
    net = nets.cnn((32, 128, 512), pool="max", kernel_init=nets.torch_uniform, bias="uniform")
    by_batch, whole = (
        cafo.stages(net, tx, num_classes=CLASSES)[2] for tx in (optax.adam(LEARNING_RATE), optax.sgd(HEAD_RATE))
    )
    state = jax.jit(by_batch.init)(jax.random.key(0), x[:EXAMPLES])
    full_steps = 1 if options.smoke else 5
    contenders = {(work, "fwdonly"): call for work, call in jax_heads(by_batch, whole, x, y, full_steps).items()}
    if options.torch and torch_module() is not None:
        contenders |= {(work, "torch"): call for work, call in torch_heads(state, x, y, full_steps).items()}
    rows = []
    for (work, library), calls in take_turns(contenders, options.rounds, options.seconds).items():
        ms = [1e3 * call / (full_steps if work == "full" else 1) for call in calls]
        row = {"work": work, "library": library, "images": options.images, "features": len(state.params.heads[2].V)}
        rows.append(row | {"ms": statistics.median(ms), "ms_min": min(ms), "ms_max": max(ms)})
    return rows


def jax_heads(
    by_batch: LearningRule, whole: LearningRule, x: Any, y: Any, full_steps: int
) -> dict[str, Callable[[], Any]]:
    """Calls by the names of `HEAD_WORK`, as `fwdonly.fit` does them, that wait for their end."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    steps = len(x) // HEAD_BATCH
    assert by_batch.frozen is not None and whole.frozen is not None
    compute, state = jax.jit(by_batch.frozen.features), jax.jit(by_batch.init)(jax.random.key(0), x[:EXAMPLES])

    def features() -> Any:
        parts = [compute(state, x[i : i + ROWS]) for i in range(0, len(x), ROWS)]
        return jax.block_until_ready(jax.tree.map(lambda *a: jnp.concatenate(a), *parts))

    kept = features()

    def training(rule: LearningRule, update: Any, inputs: Any, minibatches: bool) -> Callable[[], Any]:
        @functools.partial(jax.jit, donate_argnums=0)
        def chunk(carry: Any, inputs: Any, y: Any) -> Any:
            state, key = carry
            key, order_key = jax.random.split(key)

            def step(state: Any, at: Any) -> Any:
                batch = Batch(inputs, y) if at is None else Batch(jax.tree.map(lambda a: a[at], inputs), y[at])
                state, metrics = update(state, batch, key)
                return state, metrics["loss"]

            if not minibatches:
                order, length = None, full_steps
            else:
                order, length = jax.random.permutation(order_key, len(y))[: steps * HEAD_BATCH], steps
                order = order.reshape(steps, HEAD_BATCH)
            state, loss = jax.lax.scan(step, state, order, length)
            return (state, key), loss

        carry = jax.jit(rule.init)(jax.random.key(0), x[:EXAMPLES]), jax.random.key(1)

        def call() -> None:
            nonlocal carry
            carry, loss = chunk(carry, inputs, y)
            jax.block_until_ready((carry, loss))

        call()
        return call

    return {
        "features": features,
        "kept": training(by_batch, by_batch.frozen.update, kept, True),
        "anew": training(by_batch, by_batch.update, x, True),
        "full": training(whole, whole.frozen.update, kept, False),
    }


def torch_heads(state: Any, x: Any, y: Any, full_steps: int) -> dict[str, Callable[[], Any]]:
    """The same in eager PyTorch, from the same blocks, as fast as eager operations allow.

    No automatic differentiation, the gradient is F^T (softmax(F V) - Y) / B; channels last, the faster layout here.
    """
    torch, functional = torch_module(), importlib.import_module("torch.nn.functional")
    images = torch.tensor(x).permute(0, 3, 1, 2)
    Y = functional.one_hot(torch.tensor(y).long(), CLASSES).float()
    blocks = []
    for own, known in zip(state.params.blocks, state.statistics, strict=True):
        conv = own["params"]["block"]["params"]["Conv_0"]
        moments = known["statistics"]["mean"], known["statistics"]["var"]
        kernel, bias, mean, var = (torch.tensor(np.asarray(a)) for a in (conv["kernel"], conv["bias"], *moments))
        kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        blocks.append((kernel, bias, mean, var))

    def extract(h: Any) -> Any:
        for kernel, bias, mean, var in blocks:
            h = functional.max_pool2d(functional.conv2d(h, kernel, bias, padding=1).relu_(), 2)
            h = functional.batch_norm(h, mean, var, training=False, eps=cafo.Options().eps)
        return h.permute(0, 2, 3, 1).flatten(1)

    @torch.no_grad()
    def features() -> Any:
        return torch.cat([extract(part) for part in images.split(ROWS)])

    kept = features()

    def training(inputs: Any, make: Callable[[Any], Any]) -> Callable[[], Any]:
        V = torch.ones(kept.shape[1], CLASSES)
        opt = torch_optimizer("adam", [V])

        @torch.no_grad()
        def call() -> None:
            for at in torch.randperm(len(Y))[: len(Y) // HEAD_BATCH * HEAD_BATCH].split(HEAD_BATCH):
                F = make(inputs[at])
                V.grad = F.T @ ((F @ V).softmax(1) - Y[at]).div_(HEAD_BATCH)
                opt.step()

        call()
        return call

    V = torch.ones(kept.shape[1], CLASSES)

    @torch.no_grad()
    def full() -> None:
        for _ in range(full_steps):
            V.addmm_(kept.T, (kept @ V).softmax(1) - Y, alpha=-HEAD_RATE / len(Y))

    return {"features": features, "kept": training(kept, lambda F: F), "anew": training(images, extract), "full": full}


def head_lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    """A line per work, and how much more an epoch takes on features computed anew than on kept ones."""
    ms = {(row["work"], row["library"]): row["ms"] for row in rows}
    spread = {(r["work"], r["library"]): f"{r['ms']:.2f} ({r['ms_min']:.2f}-{r['ms_max']:.2f})" for r in rows}
    libraries, lines = ("fwdonly", "torch"), []
    for work, name in HEAD_WORK.items():
        found = [spread.get((work, library), "-") for library in libraries]
        lines.append([name, *found, _ratio(ms.get((work, "fwdonly")), ms.get((work, "torch")))])
    anew = [_ratio(ms.get(("anew", library)), ms.get(("kept", library))) for library in libraries]
    return [*lines, ["epoch, computed anew / kept", *anew, ""]]


def main() -> int:
    """Measure, print and write."""
    options = tyro.cli(Options)
    if options.rounds < 1 or min(options.batches, default=0) < 1 or not options.seconds > 0:
        print("error: rounds, batches and seconds must be positive", file=sys.stderr)
        return 2
    if options.images < HEAD_BATCH:
        print(f"error: images must be at least {HEAD_BATCH}, one mini-batch of the heads", file=sys.stderr)
        return 2
    if options.output:
        try:
            options.output.touch()
        except OSError as error:
            print(f"error: cannot write {options.output}: {error.strerror}; give another --output", file=sys.stderr)
            return 2
    if options.smoke:
        small = {"nets": ("784-1000-1000-1000",), "batches": (100,), "optimizers": ("sgd", "reference"), "images": 256}
        options = dataclasses.replace(options, rounds=1, seconds=0.01, **small)
    rows = time_rules(options)
    header = ["net", "batch", "optimizer", "rule", "library", "ms/step", "min-max", "steps/s", "GFLOP/s", "of ceiling"]
    lines = [
        [
            *(r["net"], str(r["batch"]), r["optimizer"], r["rule"], r["library"], f"{r['ms_per_step']:.2f}"),
            *(f"{r['ms_min']:.2f}-{r['ms_max']:.2f}", f"{r['steps_per_second']:.1f}", f"{r['gflops']:.0f}"),
            f"{100 * r['share_of_ceiling']:.0f} %",
        ]
        for r in rows
    ]
    print("\n" + report.markdown_table(header, lines))
    print(report.markdown_table(["net", "batch", "optimizer", *RATIOS], ratios(rows)))
    rate = torch_ceiling(options.seconds) if options.torch else None
    if rate is not None and rows:
        print(
            f"{PRODUCT} x {PRODUCT} product: {rows[-1]['ceiling_gflops']:.0f} GFLOP/s compiled, {rate:.0f} in PyTorch\n"
        )
    heads = cached_heads(options) if options.heads else []
    if heads:
        header = [f"CaFo, {options.images} images, ms (min-max)", "fwdonly", "torch", "fwdonly / torch"]
        print(report.markdown_table(header, head_lines(heads)))
    if options.output:
        settings = {name: value for name, value in dataclasses.asdict(options).items() if name != "output"}
        content: dict[str, Any] = {
            "options": settings,
            "environment": results.environment() | {"torch": getattr(torch_module(), "__version__", None)},
        }
        content |= {"torch_ceiling_gflops": rate, "throughput": rows, "cached_heads": heads}
        results.write_json(options.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
