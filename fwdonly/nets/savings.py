"""The same gradient with less memory: outputs that are computed again, and batches that are taken in chunks."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..base import Batch, Net, Statistics, after, kept
from .builders import steps

Remat = Literal["none", "block", "sqrt"]


def segments(count: int, remat: str) -> list[range]:
    """Positions of ``count`` blocks in segments of one, or with "sqrt" of ceil(sqrt(count)); "none": one for all."""
    length = {"none": count, "block": 1}.get(remat, math.ceil(math.sqrt(count)))
    return [range(first, min(first + length, count)) for first in range(0, count, length)]


def recomputed(
    net: Net,
    blocks: tuple[Any, ...],
    statistics: Statistics,
    x: Float[Array, "batch *features"],
    key: Array,
    remat: str,
) -> tuple[Float[Array, "batch *_"], Statistics]:
    """a_L and the statistics after it, where the backward pass keeps the inputs of segments and nothing within them.

    The last segment is kept whole: the backward pass begins with it. Noise of block l is that of ``fold_in(key, l)``.
    Chen et al., *Training deep nets with sublinear memory cost*, arXiv 1604.06174.
    """
    a, moved = x, []
    *others, last = segments(len(net), remat)
    for at in [*others, last]:
        run = _segment(net[at.start : at.stop], at.start + 1)
        a, known = (run if at is last else _forgetful(run))(
            blocks[at.start : at.stop], statistics[at.start : at.stop], a, key
        )
        moved += known
    return a, kept(moved)


def _segment(net: Net, first: int) -> Callable[..., tuple[Array, tuple[Any, ...]]]:
    """Some blocks in a row, the first of them number ``first``."""

    def run(blocks: Any, statistics: Any, a: Array, key: Array) -> tuple[Array, tuple[Any, ...]]:
        activations, moved = zip(*steps(net, blocks, statistics, a, key, first), strict=True)
        return activations[-1], moved

    return run


def _forgetful(run: Callable[..., Any]) -> Callable[..., Any]:
    """``run`` with a backward pass that begins by running it again.

    XLA on a CPU (jaxlib 0.10.2) drops the barriers of `jax.checkpoint` and then merges both runs, which saves nothing.
    `fwdonly.base.after` is a dependence that it must respect.
    """

    def backward(held: tuple[Any, ...], errors: Any) -> tuple[Any, ...]:
        blocks, statistics, a, key = held
        a = after(a, errors[0])
        error_of = jax.vjp(lambda blocks, a: run(blocks, statistics, a, key), blocks, a)[1]
        on_blocks, on_a = error_of(errors)
        return on_blocks, None, on_a, None

    forgetful = jax.custom_vjp(run)
    forgetful.defvjp(lambda *args: (run(*args), args), backward)
    return forgetful


def accumulated(of_batch: Callable[[Batch, Array], Any], batch: Batch, key: Array, chunks: int) -> Any:
    """``of_batch(batch, key)``, a tree of means over samples, as the mean over chunks taken one after another.

    A chunk has ceil(B / chunks) samples, so that there may be fewer of them; the last one has the rest. Each counts by
    its share of the samples. Noise of chunk c is that of ``fold_in(key, c)``.
    """
    samples = len(batch.y)
    size = -(-samples // chunks)
    whole, rest = divmod(samples, size)

    def add(total: Any, numbered: tuple[Array, Batch]) -> tuple[Any, None]:
        number, chunk = numbered
        share = len(chunk.y) / samples
        outcome = of_batch(chunk, jax.random.fold_in(key, number))
        return jax.tree.map(lambda t, a: t + share * a, total, outcome), None

    def part(first: int, shape: tuple[int, ...]) -> Batch:
        length = math.prod(shape)
        return jax.tree.map(lambda a: a[first : first + length].reshape(*shape, *a.shape[1:]), batch)

    like = jax.eval_shape(of_batch, part(0, (size,)), key)
    total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    total, _ = jax.lax.scan(add, total, (jnp.arange(whole), part(0, (whole, size))))
    return add(total, (jnp.asarray(whole), part(whole * size, (rest,))))[0] if rest else total
