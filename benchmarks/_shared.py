"""What the benchmarks share: networks, programs of training steps, eager PyTorch beside them, and the clock.

Nothing here needs more than JAX, Flax, optax and NumPy (PyTorch where it is asked for), so that `gpu_jobs.py` runs on
machines that have no tyro.
"""

import argparse
import contextlib
import functools
import importlib
import itertools
import time
from collections.abc import Callable, Generator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fwdonly import RULES, Batch, ff, measure, nets
from fwdonly.base import LearningRule, Net
from fwdonly.files import without_folders

CLASSES, LEARNING_RATE = 10, 1e-3
NETS = {
    "784-1000-1000": ((28, 28, 1), (1000, 1000)),
    "784-1000-1000-1000": ((28, 28, 1), (1000, 1000, 1000)),
    "3072-2000-2000-2000": ((32, 32, 3), (2000, 2000, 2000)),
}


def multiply_accumulates(rule: str, widths: tuple[int, ...]) -> float | int:
    """Multiply-accumulates of one training step per sample (matrix products only)."""
    return measure.macs(RULES[rule], nets.mlp(widths[1:]), widths[:1], num_classes=CLASSES, batch=1)


Contenders = dict[tuple[str, str], Callable[[], Any]]
"""Calls that wait for their end, by what they do and the library that does it."""


def take_turns(contenders: Contenders, rounds: int, seconds: float) -> dict[tuple[str, str], list[float]]:
    """Seconds per call of every contender in every round, over windows of at least ``seconds``."""
    times: dict[tuple[str, str], list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            times[name].append(timed(call, seconds))
    return times


def timed(call: Callable[[], Any], seconds: float) -> float:
    """Seconds per call, over a window of at least ``seconds``; ``call`` must wait for its result."""
    call()
    calls, begin = 0, time.perf_counter()
    while (gone := time.perf_counter() - begin) < seconds:
        call()
        calls += 1
    return gone / calls


def transformation(rule: str, optimizer: str) -> optax.GradientTransformation:
    """The optimizer of a cell; FF has one each for weights, biases and head."""
    if optimizer == "reference":
        return ff.reference(500, 60)
    tx = {"sgd": optax.sgd, "adam": optax.adam}[optimizer](LEARNING_RATE)
    return ff.separate(tx, tx, tx) if rule == "ff" else tx


def built(rule: str, net: Net, optimizer: str) -> LearningRule:
    """The rule on a network, as a comparison needs it."""
    if rule == "foton":  # orthonormal from the start, without biases
        net = tuple(block.clone(kernel_init=nets.orthogonal, bias="none") for block in net)
    return RULES[rule].rule(net, transformation(rule, optimizer), num_classes=CLASSES)


def jax_steps(rule: LearningRule, shape: tuple[int, ...], batch: int, count: int) -> Callable[[], None]:
    """A call that trains ``count`` steps in one compiled program with donated state, and waits for the end.

    The program is compiled here, under the matrix-product precision that holds here, and not when it is called.
    """
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

    compiled = chunk.lower(state, x, y).compile()

    def call() -> None:
        nonlocal state
        state, loss = compiled(state, x, y)
        jax.block_until_ready((state, loss))

    return call


class Swept:
    """Training steps of several runs, as in a sweep: every run has batches and a state of its own.

    ``how``: "vmap" trains them at once, "map" one after another.

    Pixels are random: what a board draws depends on the numbers it multiplies, and these are the same for every rule.
    """

    def __init__(
        self, rule: LearningRule, shape: tuple[int, ...], batch: int, runs: int, batches: int, how: str = "vmap"
    ) -> None:
        self.rule, self.batches, self.how = rule, batches, how
        self.x = jax.random.uniform(jax.random.key(1), (batches, batch, *shape))
        self.y = jax.random.randint(jax.random.key(2), (batches, batch), 0, CLASSES)
        keys = jax.random.split(jax.random.key(0), runs)
        self.states = jax.jit(jax.vmap(rule.init, in_axes=(0, None)))(keys, self.x[0])
        self.starts = jnp.arange(runs)

    def _steps(self, state: Any, start: Any, x: Any, y: Any, count: int) -> tuple[Any, Any]:
        def one(state: Any, number: Any) -> tuple[Any, Any]:
            at, key = (start + number) % self.batches, jax.random.fold_in(jax.random.key(3), number)
            state, metrics = self.rule.update(state, Batch(x[at], y[at]), key)
            return state, metrics["loss"]

        state, losses = jax.lax.scan(one, state, jnp.arange(count))
        return state, losses.mean()

    def compiled(self, count: int) -> tuple[Callable[[], Any], float]:
        """A call of ``count`` steps that returns the runs' losses and does not wait, and the seconds of compiling."""

        def run(states: Any, starts: Any, x: Any, y: Any) -> Any:
            each = lambda state, start: self._steps(state, start, x, y, count)
            if self.how == "map":
                return jax.lax.map(lambda own: each(*own), (states, starts))
            return jax.vmap(each)(states, starts)

        began = time.perf_counter()
        made = jax.jit(run, donate_argnums=0).lower(self.states, self.starts, self.x, self.y).compile()
        seconds = time.perf_counter() - began

        def call() -> Any:
            self.states, losses = made(self.states, self.starts, self.x, self.y)
            return losses

        return call, seconds


def torch_steps(
    rule: str,
    widths: tuple[int, ...],
    batch: int,
    optimizer: str,
    count: int,
    device: str = "cpu",
    compiled: bool = False,
) -> Callable[[], None]:
    """The same ``count`` steps in PyTorch, eager or by `torch.compile`; a call that waits for their end."""
    torch = torch_module()
    x, y = torch_batches(widths, batch, device)
    with torch.device(device):
        step = torch_ff(widths, optimizer) if rule == "ff" else torch_gradient(rule, widths, optimizer)
    if compiled:
        step = torch.compile(step)

    def call() -> None:
        for i in range(count):
            step(x[i % 4], y[i % 4])
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def torch_graphed(
    rule: str, widths: tuple[int, ...], batch: int, optimizer: str, count: int, device: str
) -> Callable[[], None]:
    """The same ``count`` steps, each the replay of one CUDA graph: no launch costs the host anything."""
    torch = torch_module()
    x, y = torch_batches(widths, batch, device)
    with torch.device(device):
        step = torch_gradient(rule, widths, optimizer, capturable=True)
    given = x[0].clone(), y[0].clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # PyTorch asks for some steps before the capture, on another stream
        for _ in range(3):
            step(*given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*given)

    def call() -> None:
        for i in range(count):
            given[0].copy_(x[i % 4])
            given[1].copy_(y[i % 4])
            graph.replay()
        torch.cuda.synchronize()

    return call


def torch_batches(widths: tuple[int, ...], batch: int, device: str) -> tuple[Any, Any]:
    """Four random batches."""
    torch = torch_module()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, batch, widths[0], generator=generator).to(device)
    return x, torch.randint(0, CLASSES, (4, batch), generator=generator).to(device)


def torch_optimizer(optimizer: str, parameters: Any, capturable: bool = False) -> Any:
    """PyTorch's own; ``capturable``: its step can be part of a CUDA graph."""
    kind = {"sgd": torch_module().optim.SGD, "adam": torch_module().optim.Adam}[optimizer]
    return kind(parameters, lr=LEARNING_RATE, **({"capturable": True} if capturable and optimizer == "adam" else {}))


def torch_gradient(
    rule: str, widths: tuple[int, ...], optimizer: str, capturable: bool = False
) -> Callable[[Any, Any], None]:
    """A step of MF, detached hand-overs and one loss per layer, or of BP, one loss."""
    torch = torch_module()
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    outputs = [torch.nn.Linear(n, CLASSES, bias=False) for n in widths[1:]] if rule == "mf" else []
    outputs = outputs or [torch.nn.Linear(widths[-1], CLASSES)]
    parameters = [p for module in [*layers, *outputs] for p in module.parameters()]
    opt = torch_optimizer(optimizer, parameters, capturable)
    loss_of = torch.nn.functional.cross_entropy

    def step(a: Any, label: Any) -> None:
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

    return step


def torch_ff(widths: tuple[int, ...], optimizer: str) -> Callable[[Any, Any], None]:
    """A step of FF in closed form, as fast as eager operations allow: no automatic differentiation and no loss value.

    Positive and negative samples pass side by side, the length of s_l serves goodness and normalisation, and the
    smoothing of the gradient rides on its product. The gain is 1, that of the reference schedule's first 15,000 steps.
    """
    torch = torch_module()
    W = [torch.randn(a, b) / a**0.5 for a, b in itertools.pairwise(widths)]
    b = [torch.zeros(1, n) for n in widths[1:]]
    U = [torch.zeros(n, CLASSES) for n in widths[2:]]
    m = [torch.full((n,), 0.5) for n in widths[1:]]
    v = {p: torch.zeros_like(p) for p in [*W, *b, *U]}
    opt = None if optimizer == "reference" else torch_optimizer(optimizer, v)

    def ascend(p: Any, n: Any, d: Any, count: int, rate: float, decay: float) -> None:
        """Smoothed ascent along n^T d / count, or that gradient's descent form for PyTorch's optimizer."""
        if opt is None:
            v[p].addmm_(n.T, d, beta=0.9, alpha=0.1 / count)
            p.mul_(1 - rate * decay).add_(v[p], alpha=rate)
        else:
            p.grad = (n.T @ d).mul_(-1 / count)

    def normalised(s: Any) -> tuple[Any, Any]:
        """rms(s) and the sum of squares."""
        length = torch.linalg.vector_norm(s, dim=1, keepdim=True)
        return s / (1e-30 + length / s.shape[1] ** 0.5), length.square()

    @torch.no_grad()
    def step(x: Any, y: Any) -> None:
        count = len(x)
        neutral = x.clone()
        neutral[:, :CLASSES] = 1 / CLASSES
        n, _ = normalised(neutral)
        activities = []
        for W_l, b_l in zip(W, b, strict=True):
            n, _ = normalised(torch.addmm(b_l, n, W_l).relu_())
            activities.append(n)
        q_in = sum(n @ U_l for n, U_l in zip(activities[1:], U, strict=True))
        y_neg = torch.multinomial(q_in.scatter(1, y[:, None], -torch.inf).softmax(1), 1)[:, 0]
        error = torch.nn.functional.one_hot(y, CLASSES) - q_in.softmax(1)
        for n, U_l in zip(activities[1:], U, strict=True):
            ascend(U_l, n, error, count, 0.1, 0.003)

        both = torch.cat([x, x])
        both[:, :CLASSES] = torch.nn.functional.one_hot(torch.cat([y, y_neg]), CLASSES)
        n, _ = normalised(both)
        ones = x.new_ones(2 * count, 1)
        positive = torch.cat([ones[:count], x.new_zeros(count, 1)])
        for W_l, b_l, m_l in zip(W, b, m, strict=True):
            s = torch.addmm(b_l, n, W_l).relu_()
            after, g = normalised(s)
            d = s * (positive - torch.sigmoid(g - s.shape[1]))
            m_l.lerp_(s[:count].mean(0), 0.1)
            d[:count] += 0.03 * (m_l.mean() - m_l)
            ascend(W_l, n, d, count, 0.01, 0.001)
            ascend(b_l, ones, d, count, 0.01, 0.0)
            n = after
        if opt is not None:
            opt.step()

    return step


class Budget:
    """The seconds of a section, and whether one more piece fits: as long as the slowest one so far, at least."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.now, self.slowest = seconds, now, 0.0
        self.end = now() + seconds

    def left(self) -> float:
        return self.end - self.now()

    def lacks(self, needed: float = 0.0) -> str | None:
        """Why a piece does not fit, if it does not."""
        needed, left = max(needed, self.slowest), max(self.left(), 0.0)
        if left > needed:
            return None
        return f"no time: {left:.0f} of the section's {self.seconds:.0f} s were left, and it may take {needed:.0f} s"

    @contextlib.contextmanager
    def piece(self) -> Generator[None]:
        began = self.now()
        yield
        self.slowest = max(self.slowest, self.now() - began)


def portable(content: Any) -> Any:
    """The content of a JSON file without folders of this machine, which what other programs print may hold."""
    if isinstance(content, dict):
        return {name: portable(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [portable(value) for value in content]
    return without_folders(content) if isinstance(content, str) else content


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


def torch_module() -> Any:
    """PyTorch where it is installed, otherwise None."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        return None
