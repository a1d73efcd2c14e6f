"""Networks as tuples of Flax Linen blocks, one block per hidden layer. The class readout belongs to the rule.

Blocks are value-hashable, so a freshly built equal network does not compile anew. Flax is imported in this file alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .base import Net, UsageError

he_uniform = nn.initializers.he_uniform()
"""Uniform on +-sqrt(6 / fan_in), biases 0: the start values of the public code behind arXiv 2509.19063.

That code calls PyTorch's ``kaiming_uniform_(W, a=sqrt(5), nonlinearity="relu")``. With ``nonlinearity="relu"`` PyTorch
ignores ``a``, so the bound is sqrt(6 / fan_in) and not the 1 / sqrt(fan_in) that ``a=sqrt(5)`` suggests.
"""

normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
"""N(0, 1 / fan_in), biases 0: the start values of Hinton's Forward-Forward Matlab."""

normal_fan_out = nn.initializers.variance_scaling(1.0, "fan_out", "normal")
"""N(0, 1 / fan_out), biases 0: the start values of Forward-Forward in arXiv 2509.19063."""

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform on +-1/sqrt(fan_in), PyTorch's default."""

Initializer = Callable[..., Array]


class Dense(nn.Module):
    """``activation(flatten(x) W + b)``: inputs (batch, *features) to (batch, width)."""

    width: int
    activation: Callable[[Array], Array] = jax.nn.relu
    kernel_init: Initializer = he_uniform

    @nn.compact
    def __call__(self, x: Float[Array, "batch *features"]) -> Float[Array, "batch width"]:
        x = x.reshape(x.shape[0], -1)
        return self.activation(nn.Dense(self.width, kernel_init=self.kernel_init)(x))


class Conv(nn.Module):
    """3x3 convolution (stride 1, same size), activation, 2x2 pooling.

    Inputs (batch, height, width, channels) to (batch, height // 2, width // 2, channels), or of the same height and
    width where ``pool`` is "none". ``bias`` starts at 0, or is drawn as PyTorch does, uniform on +-1/sqrt(fan_in);
    "none" has none. ``groups`` splits input and output channels into groups that do not see each other.
    """

    channels: int
    activation: Callable[[Array], Array] = jax.nn.relu
    kernel_init: Initializer = he_uniform
    pool: Literal["average", "max", "none"] = "average"
    bias: Literal["zero", "uniform", "none"] = "zero"
    groups: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch out_h out_w out"]:
        for name, known in (("pool", ("average", "max", "none")), ("bias", ("zero", "uniform", "none"))):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is one of {', '.join(known)}; got {getattr(self, name)!r}")
        bound = (9 * x.shape[-1] / self.groups) ** -0.5
        x = nn.Conv(
            self.channels,
            (3, 3),
            padding=1,
            kernel_init=self.kernel_init,
            bias_init=_uniform(bound) if self.bias == "uniform" else nn.initializers.zeros,
            use_bias=self.bias != "none",
            conv_general_dilated=partial(_as_product, self.groups) if jax.default_backend() == "cpu" else None,
            feature_group_count=self.groups,
        )(x)
        x = self.activation(x)
        if self.pool == "none":
            return x
        return {"average": nn.avg_pool, "max": nn.max_pool}[self.pool](x, (2, 2), strides=(2, 2))


def _as_product(groups: int, x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """The 3x3 convolution of `Conv` as a matrix product over the nine shifted images side by side.

    On CPU and within a loop, XLA (jaxlib 0.10.2) compiles the kernel's gradient of its own convolution into a program
    some fifty times slower: four steps of Cascaded-Forward's blocks in a scan took 36.5 s, and 0.67 s with this.
    """
    height, width, channels = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    if groups == 1:
        return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
    parts = jnp.stack(shifted, axis=3).reshape(*x.shape[:3], 9, groups, channels // groups)
    weights = kernel.reshape(9, channels // groups, groups, -1)
    return jnp.einsum("bhwkgc,kcgo->bhwgo", parts, weights).reshape(*x.shape[:3], -1)


def _uniform(bound: float) -> Initializer:
    return lambda key, shape, dtype=None: jax.random.uniform(key, shape, dtype, -bound, bound)


class Identity(nn.Module):
    """No parameters, output equals input: the block of a readout that reads the raw input."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return x


def mlp(widths: Sequence[int], *, kernel_init: Initializer = he_uniform) -> Net:
    """Fully connected ReLU blocks, one per entry of ``widths``; images are flattened by the first block.

    Raises:
        UsageError: no width, or a width below 1.
    """
    return tuple(Dense(width, kernel_init=kernel_init) for width in _positive(widths, "width"))


def cnn(channels: Sequence[int], **options: Any) -> Net:
    """Convolution blocks (3x3, ReLU, 2x2 average pooling), one per entry of ``channels``; options as of `Conv`.

    Raises:
        UsageError: no channel count, or one below 1.
    """
    return tuple(Conv(count, **options) for count in _positive(channels, "channel count"))


def cwc(channels: Sequence[int], num_classes: int) -> Net:
    """The layers of `fwdonly.cwc`: convolutions started as by PyTorch, every second one grouped by class and pooled.

    Raises:
        UsageError: no channel count, or one that does not split into ``num_classes`` groups.
    """
    if any(count % num_classes for count in _positive(channels, "channel count")):
        raise UsageError(
            f"channels must be multiples of the {num_classes} classes, one group each; got {tuple(channels)}"
        )
    common: dict[str, Any] = {"kernel_init": torch_uniform, "bias": "uniform"}
    return tuple(
        Conv(count, pool="max" if odd else "none", groups=num_classes if odd else 1, **common)
        for count, odd in zip(channels, [False, True] * len(channels), strict=False)
    )


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
        if isinstance(block, Conv) and (x.ndim != 4 or (block.pool != "none" and min(x.shape[1:3]) < 2)):
            raise UsageError(
                f"block {i} is a convolution with 2x2 pooling and needs images (batch, height, width, channels) of at "
                f"least 2x2; it is given {x.shape}: use fewer blocks, larger images or an mlp"
            )
        params.append(block.init(jax.random.fold_in(key, i), x))
        x = block.apply(params[-1], x)
        activations.append(x)
    return tuple(params), tuple(activations)
