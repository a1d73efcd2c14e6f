"""Networks as tuples of Flax Linen blocks, one block per hidden layer. The class readout belongs to the rule.

Blocks are value-hashable, so a freshly built equal network does not compile anew. Flax is imported in this file alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from .base import Net, UsageError

he_uniform = nn.initializers.he_uniform()
"""Uniform on +-sqrt(6 / fan_in), biases 0: the start values of the public code behind arXiv 2509.19063.

That code calls PyTorch's ``kaiming_uniform_(W, a=sqrt(5), nonlinearity="relu")``. With ``nonlinearity="relu"`` PyTorch
ignores ``a``, so the bound is sqrt(6 / fan_in) and not the 1 / sqrt(fan_in) that ``a=sqrt(5)`` suggests.
"""


class Dense(nn.Module):
    """``activation(flatten(x) W + b)``: inputs (batch, *features) to (batch, width)."""

    width: int
    activation: Callable[[Array], Array] = jax.nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "batch *features"]) -> Float[Array, "batch width"]:
        x = x.reshape(x.shape[0], -1)
        return self.activation(nn.Dense(self.width, kernel_init=he_uniform)(x))


class Conv(nn.Module):
    """3x3 convolution (stride 1, same size, bias), activation, 2x2 average pooling.

    Inputs (batch, height, width, channels) to (batch, height // 2, width // 2, channels).
    """

    channels: int
    activation: Callable[[Array], Array] = jax.nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch half_h half_w out"]:
        x = nn.Conv(self.channels, (3, 3), padding=1, kernel_init=he_uniform)(x)
        return nn.avg_pool(self.activation(x), (2, 2), strides=(2, 2))


class Identity(nn.Module):
    """No parameters, output equals input: the block of a readout that reads the raw input."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return x


def mlp(widths: Sequence[int]) -> Net:
    """Fully connected ReLU blocks, one per entry of ``widths``; images are flattened by the first block.

    Raises:
        UsageError: no width, or a width below 1.
    """
    return tuple(Dense(width) for width in _positive(widths, "width"))


def cnn(channels: Sequence[int]) -> Net:
    """Convolution blocks (3x3, ReLU, 2x2 average pooling), one per entry of ``channels``.

    Raises:
        UsageError: no channel count, or one below 1.
    """
    return tuple(Conv(count) for count in _positive(channels, "channel count"))


def _positive(sizes: Sequence[int], what: str) -> Sequence[int]:
    if len(sizes) == 0 or min(sizes) < 1:
        raise UsageError(f"a network needs at least one {what}, each at least 1; got {tuple(sizes)}")
    return sizes


def init(key: Array, x: Float[Array, "batch *features"], net: Net) -> tuple[tuple[Any, ...], tuple[Array, ...]]:
    """Parameters of every block and the activation after it, for example inputs ``x``.

    Block i (from 1) draws from ``fold_in(key, i)`` alone, so two rules with one key start from equal blocks.

    Raises:
        UsageError: a block cannot take the shape it is given, or leaves nothing of it.
    """
    params, activations = [], []
    for i, block in enumerate(net, start=1):
        if isinstance(block, Conv) and (x.ndim != 4 or min(x.shape[1:3]) < 2):
            raise UsageError(
                f"block {i} is a convolution with 2x2 pooling and needs images (batch, height, width, channels) of at "
                f"least 2x2; it is given {x.shape}: use fewer blocks, larger images or an mlp"
            )
        params.append(block.init(jax.random.fold_in(key, i), x))
        x = block.apply(params[-1], x)
        activations.append(x)
    return tuple(params), tuple(activations)
