"""The parts of a block, for rules that carry errors themselves: h = activation(linear(a)), and pooled(h) is handed on.

Nothing here asks for automatic differentiation as long as blocks are dense.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..base import Net
from ..errors import UsageError
from .blocks import Conv, Dense, pooled
from .starts import identity


def check_parts(net: Net) -> None:
    """Refuse networks that have no layer, or one whose parts are not known here.

    Raises:
        UsageError: one line that names the layer.
    """
    check_net(net)
    for number, block in enumerate(net, start=1):
        if not isinstance(block, Dense | Conv):
            raise UsageError(
                f"block {number} is a {type(block).__name__}; this rule treats its linear part and its activation "
                "apart and needs fwdonly.nets.Dense or Conv"
            )


def linear(block: Any, *, bias: bool = True) -> Any:
    """The block's affine map alone, with the same parameters: no activation, no pooling, and no bias where told so."""
    changes: dict[str, Any] = {"activation": identity} | ({} if bias else {"bias": "none"})
    return block.clone(**changes | ({"pool": "none"} if isinstance(block, Conv) else {}))


def weight_gradient(block: Any, weights: Any, a: Float[Array, "batch *in"], delta: Float[Array, "batch *out"]) -> Any:
    """The gradient of sum(delta * linear(a)) with respect to the block's parameters: a^T delta, summed over samples."""
    if isinstance(block, Dense):
        gradient = {"kernel": a.reshape(a.shape[0], -1).T @ delta}
        return {"params": {"Dense_0": gradient | ({} if block.bias == "none" else {"bias": delta.sum(0)})}}
    return jax.vjp(lambda weights: linear(block).apply(weights, a), weights)[1](delta)[0]


def unpooled(block: Any, weights: Any, rows: Float[Array, "batch *out"], shape: tuple[int, ...]) -> Array:
    """``rows`` sent through the transpose of the block's pooling, if it is linear. ``shape``: a sample at its input."""
    if not isinstance(block, Conv) or block.pool == "none":
        return rows
    below = jax.ShapeDtypeStruct((rows.shape[0], *shape), rows.dtype)
    h = jax.eval_shape(linear(block).apply, weights, below)
    return jax.vjp(partial(pooled, block), jnp.zeros(h.shape, h.dtype))[1](rows)[0]


def send_back(block: Any, weights: Any, delta: Float[Array, "batch *out"], shape: tuple[int, ...]) -> Array:
    """``delta`` sent through the transpose of the block's linear map. ``shape``: a sample at its input."""
    if isinstance(block, Dense):
        return (delta @ weights["params"]["Dense_0"]["kernel"].T).reshape(-1, *shape)
    a = jnp.zeros((delta.shape[0], *shape), delta.dtype)
    return jax.vjp(lambda a: linear(block).apply(weights, a), a)[1](delta)[0]


def moments(x: Float[Array, "*batch channels"]) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
    """Mean and biased variance of every channel."""
    axes = tuple(range(x.ndim - 1))
    return x.mean(axes), x.var(axes)


def batch_norm(
    x: Float[Array, "*batch channels"],
    mean: Float[Array, " channels"],
    var: Float[Array, " channels"],
    eps: float,
    scale: Float[Array, " channels"] | float = 1.0,
    shift: Float[Array, " channels"] | float = 0.0,
) -> Float[Array, "*batch channels"]:
    """``(x - mean) / sqrt(var + eps) * scale + shift`` per channel, the statistics as given."""
    factor = scale / jnp.sqrt(var + eps)
    lead = (1,) * (x.ndim - 1)
    return x * factor.reshape(*lead, -1) + (shift - mean * factor).reshape(*lead, -1)


def check_net(net: Net) -> None:
    """Refuse what is no tuple of blocks.

    Raises:
        UsageError: no tuple, no block in it, or something that is no block.
    """
    if hasattr(net, "apply"):
        raise UsageError(f"a network is a tuple of blocks; got one {type(net).__name__}: write (block,)")
    if not isinstance(net, tuple):
        raise UsageError(
            f"a network is a tuple of blocks, such as fwdonly.nets.mlp([1000]); got a {type(net).__name__}"
        )
    if not net:
        raise UsageError("the network has no hidden layer; give it at least one, such as fwdonly.nets.mlp([1000])")
    for number, block in enumerate(net, start=1):
        if isinstance(block, type):
            raise UsageError(f"block {number} is the class {block.__name__}; give an object of it")
        if not (hasattr(block, "init") and hasattr(block, "apply")):
            raise UsageError(f"block {number} is {block!r}; a block has init and apply, as every Flax Linen module")
