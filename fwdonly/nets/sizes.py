"""How large the hidden layers are, from shapes alone: what rules count their multiply-accumulates by."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..base import Net
from ..errors import UsageError
from .blocks import Conv, Dense
from .parts import check_net, linear


class LayerSize(NamedTuple):
    """Sizes of one block: multiply-accumulates per sample, its matrix (rows, columns), values per sample on the way.

    ``inputs`` go in, ``h`` come out before pooling and ``n`` after it, in the shape ``out``.
    """

    macs: int
    matrix: tuple[int, int]
    inputs: int
    h: int
    n: int
    out: tuple[int, ...]


def is_sized(net: Net) -> bool:
    """Whether `layer_sizes` knows all blocks of a network."""
    return all(isinstance(block, Dense | Conv) for block in net)


def layer_sizes(net: Net, shape: tuple[int, ...]) -> tuple[LayerSize, ...]:
    """Sizes of every block, for one input of ``shape``.

    Raises:
        UsageError: no block, or one that is neither `Dense` nor `Conv`.
    """
    sizes, a = [], jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    check_net(net)
    for number, block in enumerate(net, start=1):
        if not isinstance(block, Dense | Conv):
            raise UsageError(
                f"block {number} is a {type(block).__name__}; products are counted of fwdonly.nets.Dense and Conv"
            )
        weights = jax.eval_shape(block.init, jax.random.key(0), a)
        kernel = _kernel(weights)
        h = jax.eval_shape(linear(block).apply, weights, a)
        matrix = (math.prod(kernel.shape[:-1]), kernel.shape[-1])
        positions = h.size // kernel.shape[-1]
        after = jax.eval_shape(block.apply, weights, a)
        sizes.append(LayerSize(matrix[0] * matrix[1] * positions, matrix, a.size, h.size, after.size, after.shape[1:]))
        a = after
    return tuple(sizes)


def _kernel(weights: Any) -> Any:
    return next(leaf for leaf in jax.tree.leaves(weights["params"]) if leaf.ndim > 1)
