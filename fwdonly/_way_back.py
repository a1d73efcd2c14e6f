"""The way of errors back through the parts of a network: by its weights, or by anything of their shape."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import nets
from .base import Net

Params = nets.output.Params
Law = Literal["uniform", "kaiming", "xavier"]
Tapes = tuple[list[Array], list[Array], list[Array]]
"""What every layer and the readout are given (h_0, h_1 pooled, ...), every a_l, and every h_l before pooling."""


def forward(params: Params, x: Float[Array, "batch *features"], net: Net) -> Tapes:
    """One pass through the hidden layers."""
    below, a, h = [x], [], []
    for block, weights in zip(net, params.blocks, strict=True):
        a.append(nets.linear(block).apply(weights, below[-1]))
        h.append(block.activation(a[-1]))
        below.append(nets.pooled(block, h[-1]))
    return below, a, h


def times_slope(block: Any, sent: Array, a: Array) -> Array:
    """send_l * phi'(a_l)."""
    return jax.vjp(block.activation, a)[1](sent)[0]


def layered(
    net: Net, B: Params, e: Float[Array, "batch classes"], tapes: Tapes, seen: Callable[[Array], Array]
) -> list[Array]:
    """delta_l of every hidden layer, sent from layer to layer: delta_l = seen(delta_{l+1} B_{l+1}^T) * phi'(a_l)."""
    below, a, h = tapes
    deltas, sent = [], seen((e @ B.W.T).reshape(below[-1].shape))
    for block, B_l, below_l, a_l, h_l in list(zip(net, B.blocks, below, a, h, strict=False))[::-1]:
        delta = times_slope(block, _through_pooling(block, h_l, sent), a_l)
        deltas.insert(0, delta)
        sent = seen(nets.send_back(block, B_l, delta, below_l.shape[1:]))  # the lowest one is not used
    return deltas


def products(net: Net, params: Params, below: Sequence[Array]) -> tuple[Float[Array, "classes *features"], ...]:
    """W_L^T ... W_{l+1}^T of every hidden layer l, at its map before pooling, without slopes.

    Maximum pooling is no linear map; its transpose is taken at equal activities.
    """
    rows, out = params.W.T.reshape(-1, *below[-1].shape[1:]), []
    for block, weights, below_l in list(zip(net, params.blocks, below, strict=False))[::-1]:
        out.insert(0, nets.unpooled(block, weights, rows, below_l.shape[1:]))
        rows = nets.send_back(block, weights, out[0], below_l.shape[1:])
    return tuple(out)


def _through_pooling(block: Any, h: Array, sent: Array) -> Array:
    """An error of the pooled map, at the map."""
    return jax.vjp(partial(nets.pooled, block), h)[1](sent)[0]


class UnboundedWarning(UserWarning):
    """A signal that never becomes 0 meets an activation without bounds: weights and activities grow with every step."""


def warn_of_growth(net: Net, mode: str) -> None:
    """Warns of a layer whose activation has no bound, in a ``mode`` whose signal never becomes 0."""
    for number, block in enumerate(net, start=1):
        with jax.ensure_compile_time_eval():
            reach = max(abs(float(block.activation(jnp.float32(a)))) for a in (-1e4, 1e4))
        if reach > 100:
            warnings.warn(
                f"mode={mode!r} sends layer {number} a signal that never becomes 0, and the layer's activation "
                "has no bound: activities grow with every step; use activation=tanh",
                UnboundedWarning,
                stacklevel=3,
            )
            return


def direct(key: Array, num_classes: int, h: Any, law: Law) -> Array:
    """B_l at a map of n_l units, of which ``h`` has a batch."""
    n = h.size // h.shape[0]
    bounds = {"uniform": n**-0.5, "kaiming": (6 / n) ** 0.5, "xavier": (6 / (n + num_classes)) ** 0.5}
    bound = bounds[law]
    return jax.random.uniform(key, (num_classes, *h.shape[1:]), h.dtype, -bound, bound)
