"""What rules put on top of the hidden layers: one output layer of class scores, or one class readout per layer."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..base import Net, check_classes, flat, predicting
from ..errors import UsageError
from .builders import init
from .builders import outputs as activations_of
from .starts import Initializer


class Params(NamedTuple):
    """``blocks`` holds W_l and b_l of the hidden layers; ``W`` (n_L, classes) and ``b`` (classes,) the output layer.

    ``b`` is None where the output layer has no bias.
    """

    blocks: tuple[Any, ...]
    W: Float[Array, "n classes"]
    b: Float[Array, " classes"] | None


def draw(key: Array, x: Array, net: Net, num_classes: int, readout_init: Initializer, readout_bias: bool) -> Params:
    """Parameters of the blocks and of an output layer, for the rules that send its error to the layers below.

    Raises:
        UsageError: fewer than two classes, inputs the network cannot take, or blocks with statistics.
    """
    check_classes(num_classes)
    block_key, readout_key = jax.random.split(key)
    blocks, activations = hidden(block_key, x, net)
    return Params(blocks, *layer(readout_key, activations[-1], num_classes, readout_init, readout_bias))


def hidden(block_key: Array, x: Array, net: Net) -> tuple[tuple[Any, ...], tuple[Array, ...]]:
    """Parameters of the blocks and their activations for example inputs, for rules whose linear parts stand alone.

    Raises:
        UsageError: inputs the network cannot take, or blocks with statistics.
    """
    blocks, statistics, activations = init(block_key, x, net)
    for number, known in enumerate(statistics, start=1):
        if known:
            raise UsageError(
                f"block {number} has {', '.join(known)} beside its parameters, and this rule's linear parts have none; "
                "leave running statistics out, or use bp, mf, ff, cwc or cafo"
            )
    return blocks, activations


def layer(
    readout_key: Array, a: Array, num_classes: int, readout_init: Initializer, readout_bias: bool
) -> tuple[Array, Array | None]:
    """W and b of an output layer, for example activations a_L."""
    W = readout_init(readout_key, (a[0].size, num_classes), a.dtype)
    return W, jnp.zeros(num_classes, a.dtype) if readout_bias else None


def class_readouts(
    readout_key: Array, activations: tuple[Array, ...], num_classes: int, first: int = 1
) -> tuple[Array, ...]:
    """M_first, M_first+1, ... for example activations, every M_i uniform on +-1/sqrt(n_i); of MF, and of BP with them.

    Each has a random stream of its own, so BP with readouts draws the same as MF.
    """
    readouts = []
    for i, a in enumerate(activations, start=first):
        bound = flat(a).shape[1] ** -0.5
        M = jax.random.uniform(
            jax.random.fold_in(readout_key, i), (num_classes, flat(a).shape[1]), a.dtype, -bound, bound
        )
        readouts.append(M)
    return tuple(readouts)


def readable(a: Float[Array, "batch *features"], *, squares: bool = False, pool: int = 0) -> Float[Array, "batch n"]:
    """What a class readout reads of a layer's output, one vector per sample.

    Args:
        a: activations; those of shape (batch, rows, columns, channels) can be pooled.
        squares: read squares in the place of activations.
        pool: p, for windows in p rows and p columns of means, or of sums where it is squares that are read; 0 pools
            nothing. Of R rows window i has those from floor(i R / p) to ceil((i + 1) R / p); fewer than p rows have a
            window each.
    """
    a = a * a if squares else a
    if pool and a.ndim == 4:
        for axis in (1, 2):
            a = _windows(a, axis, min(pool, a.shape[axis]), jnp.sum if squares else jnp.mean)
    return flat(a)


def _windows(a: Array, axis: int, count: int, of: Callable[..., Array]) -> Array:
    size = a.shape[axis]
    if size % count == 0:
        return of(a.reshape(*a.shape[:axis], count, size // count, *a.shape[axis + 1 :]), axis=axis + 1)
    bounds = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
    return jnp.stack([of(jax.lax.slice_in_dim(a, *bound, axis=axis), axis=axis) for bound in bounds], axis=axis)


def length_read(shape: tuple[int, ...], pool: int) -> int:
    """The length of `readable` of a sample's output of this shape."""
    rows = [min(pool, size) for size in shape[:2]] if pool and len(shape) == 3 else shape[:2]
    return math.prod((*rows, *shape[2:]))


def read(params: Any, a: Float[Array, "batch *features"]) -> Float[Array, "batch classes"]:
    """The output layer: s = a_L W + b, of `Params` or of any other parameters with these two fields."""
    s = flat(a) @ params.W
    return s if params.b is None else s + params.b[None, :]


def scores(params: Any, x: Float[Array, "batch *features"], net: Net) -> Float[Array, "batch classes"]:
    """The output s of the whole network."""
    return read(params, activations(params, x, net)[-1])


def activations(params: Any, x: Float[Array, "batch *features"], net: Net) -> tuple[Float[Array, "batch *_"], ...]:
    """The outputs a_1..a_L of the hidden layers."""
    return activations_of(net, params.blocks, (), x)[0]


@predicting
def outputs(state: Any, x: Float[Array, "batch *features"], *, net: Net) -> tuple[Float[Array, "batch *_"], ...]:
    """The outputs of the hidden layers, by the state's parameters that predict."""
    return activations(state.params, x, net)
