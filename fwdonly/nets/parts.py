"""The parts of a block, for rules that carry errors themselves: h = activation(linear(a)), and pooled(h) is handed on.

Nothing here asks for automatic differentiation as long as blocks are dense.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..base import Net
from ..errors import UsageError, fitting
from .blocks import Conv, Dense, pooled
from .starts import identity


@dataclasses.dataclass(frozen=True)
class Affine:
    """A block of two parts: any affine module, such as ``flax.linen.Conv(8, (3, 3))``, and an activation behind it.

    Attributes:
        module: a `fwdonly.base.Block` without statistics and noise, whose output is affine in its inputs and linear in
            its parameters.
        activation: of every element by itself.
    """

    module: Any
    activation: Callable[[Array], Array]

    def init(self, rngs: Any, x: Float[Array, "batch *in"]) -> Any:
        """The module's variables."""
        return self.module.init(rngs, x)

    def apply(self, variables: Any, x: Float[Array, "batch *in"]) -> Float[Array, "batch *out"]:
        """Both parts, one after the other."""
        return self.activation(self.module.apply(variables, x))

    def linear(self, variables: Any, x: Float[Array, "batch *in"]) -> Float[Array, "batch *out"]:
        """The affine part."""
        return self.module.apply(variables, x)


def check_parts(net: Net) -> None:
    """Refuse networks that have no layer, or one whose parts are not known.

    The parts of `Dense` and `Conv` are known, and those of any block that declares them by two methods:
    ``linear(variables, x)``, affine in x and linear in the variables, and ``activation(a)``, of every element by
    itself, so that ``apply(variables, x)`` is ``activation(linear(variables, x))``. `Affine` makes such a block of a
    module and an activation.

    Raises:
        UsageError: one line that names the layer.
    """
    check_net(net)
    for number, block in enumerate(net, start=1):
        if isinstance(block, Dense | Conv):
            if block.norm != "none":
                raise UsageError(
                    f"block {number} normalises between its linear part and its activation, and this rule sends errors "
                    "through the two alone; leave norm out, or use bp, mf, ff, cwc or cafo"
                )
            if block.dropout:
                raise UsageError(
                    f"block {number} drops activities, and this rule needs one and the same network in all its passes; "
                    "leave dropout out of the network (pepita and foton have an option dropout of their own)"
                )
        elif not (callable(getattr(block, "linear", None)) and callable(getattr(block, "activation", None))):
            raise UsageError(
                f"block {number} is a {type(block).__name__}; this rule treats its linear part and its activation "
                "apart: use fwdonly.nets.Dense or Conv, fwdonly.nets.Affine(module, activation), or give it the "
                "methods linear(variables, x) and activation(a)"
            )


def is_plain(block: Any) -> bool:
    """Whether a block is `Dense` or `Conv` without normalisation and dropout."""
    return isinstance(block, Dense | Conv) and block.norm == "none" and not block.dropout


class _Linear(NamedTuple):
    """The affine part of a block: of a Linen module ``module``, or as the block declares it."""

    block: Any
    bias: bool
    module: Any = None

    def apply(self, weights: Any, a: Array) -> Array:
        with fitting(f"a {type(self.block).__name__}", a.shape):
            if self.module is not None:
                return self.module.apply(weights, a)
            out = self.block.linear(weights, a)
            return out if self.bias else out - self.block.linear(weights, jnp.zeros_like(a[:1]))


def linear(block: Any, *, bias: bool = True) -> _Linear:
    """The block's affine map alone, with the same parameters: no activation, no pooling, and no bias where told so."""
    if not isinstance(block, Dense | Conv):
        return _Linear(block, bias)
    changes: dict[str, Any] = {"activation": identity, "norm": "none", "dropout": 0.0}
    changes |= {} if bias else {"bias": "none"}
    return _Linear(block, bias, block.clone(**changes | ({"pool": "none"} if isinstance(block, Conv) else {})))


def straight(block: Dense | Conv) -> Any:
    """The block with the same outputs, whose activation passes gradients on as they are, also where a unit is off."""
    return block.clone(activation=lambda z: z + jax.lax.stop_gradient(block.activation(z) - z))


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


def check_net(net: Any) -> None:
    """Refuse what is no tuple of blocks.

    Raises:
        UsageError: no tuple, no block in it, or something that is no block.
    """
    if adapter := _adapter(net):
        raise UsageError(f"a network is a tuple of blocks; got one {type(net).__name__}: write ({adapter},)")
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
        if adapter := _adapter(block):
            raise UsageError(f"block {number} is a {type(block).__name__}, which has no apply; write {adapter}")
        if not (hasattr(block, "init") and hasattr(block, "apply")):
            raise UsageError(f"block {number} is {block!r}; a block has init and apply, as every Flax Linen module")


def _adapter(module: Any) -> str:
    """The call that makes a block of another library's module; empty for anything else."""
    libraries = {kind.__module__.partition(".")[0]: kind for kind in type(module).__mro__}
    if "equinox" in libraries:
        return "fwdonly.nets.from_equinox(module)"
    if "flax" in libraries and ".nnx" in libraries["flax"].__module__:
        return "fwdonly.nets.from_nnx(module)"
    return ""
