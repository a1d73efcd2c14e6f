"""Blocks, one per hidden layer: Flax Linen modules that are hashable by value.

All normalise behind the linear part (``norm``) and drop a share of their outputs in training (``dropout``: these are 0,
the others divided by the share that is kept).
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..base import DOT, setting
from ..errors import ALONG, UsageError, check_word
from . import starts
from .norms import BatchNorm
from .starts import Initializer, he_uniform, uniform_within


class Pooling(NamedTuple):
    """Pooling that halves height and width."""

    function: Callable[[Array], Array]
    is_linear: bool


def _average(h: Array) -> Array:
    return nn.avg_pool(h, (2, 2), strides=(2, 2))


POOLINGS = {
    "average": Pooling(_average, True),
    "isometric": Pooling(lambda h: 2 * _average(h), True),
    "max": Pooling(lambda h: nn.max_pool(h, (2, 2), strides=(2, 2)), False),
    "max4": Pooling(lambda h: nn.max_pool(h, (4, 4), strides=(2, 2), padding=((1, 1), (1, 1))), False),
    "none": Pooling(lambda h: h, True),
}
"""Poolings by name: of 2x2 windows side by side; max4 of 4x4 windows that overlap by half and reach over the edge."""

Padding = Literal["same", "valid", "reflect"]
"""What windows see over the edge: zeros, or the image mirrored at its outermost pixels; "valid" ones stay within."""

Norm = Literal["none", "batch", "layer", "group"]
"""Normalisation before the activation: over the batch (`BatchNorm`), over a sample's channels at every position, or
over groups of channels and all positions of a sample (as few groups as leave at least 16 channels each, but one)."""


def normed(norm: Norm, z: Array, train: bool) -> Array:
    """Within a compact module: its linear part's output, normalised as told."""
    check_word("norm", norm, get_args(Norm))
    if norm == "batch":
        return BatchNorm()(z, train)
    if norm == "layer":
        return nn.LayerNorm()(z)
    return nn.GroupNorm(num_groups=groups_of(z.shape[-1]))(z) if norm == "group" else z


def groups_of(channels: int) -> int:
    """The number of groups of `Norm` "group": the largest one that leaves at least 16 channels in each, or 1."""
    return max((count for count in range(1, channels // 16 + 1) if channels % count == 0), default=1)


def dropped(share: float, h: Array, train: bool) -> Array:
    """Within a compact module: its output with dropout.

    Raises:
        UsageError: no share in [0, 1).
    """
    if not 0 <= share < 1:
        raise UsageError(f"dropout is the share of activities to drop, at least 0 and below 1; got {share}")
    return nn.Dropout(share, deterministic=not train)(h) if share else h


class Picklable(nn.Module):
    """Pickles by its fields: activations and start values by their names, since such functions do not pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        names = [name for name in self.__dataclass_fields__ if name not in ("parent", "name")]
        return _rebuilt, (type(self), {name: _by_name(getattr(self, name)) for name in names})


class _Named(NamedTuple):
    """A function by its module and its name there."""

    module: str
    name: str


def _by_name(value: Any) -> Any:
    if callable(value):
        for module in (starts, jax.nn, jnp):
            for name, member in vars(module).items():
                if member is value:
                    return _Named(module.__name__, name)
    return value


def _rebuilt(kind: Any, fields: dict[str, Any]) -> Any:
    values = {
        name: getattr(importlib.import_module(field.module), field.name) if isinstance(field, _Named) else field
        for name, field in fields.items()
    }
    return kind(**values)


class Dense(Picklable):
    """``activation(flatten(x) W + b)``: inputs (batch, *features) to (batch, width).

    ``bias`` starts at 0, or is drawn as PyTorch does, uniform on +-1/sqrt(fan_in); "none" has none.
    """

    width: int
    activation: Callable[[Array], Array] = jax.nn.relu
    kernel_init: Initializer = he_uniform
    bias: Literal["zero", "uniform", "none"] = "zero"
    norm: Norm = "none"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "batch *features"], train: bool = False) -> Float[Array, "batch width"]:
        check_word("bias", self.bias, ("zero", "uniform", "none"))
        x = x.reshape(x.shape[0], -1)
        bound = max(1, x.shape[1]) ** -0.5
        linear = nn.Dense(
            self.width,
            kernel_init=self.kernel_init,
            bias_init=uniform_within(bound) if self.bias == "uniform" else nn.initializers.zeros,
            use_bias=self.bias != "none",
        )
        return dropped(self.dropout, self.activation(normed(self.norm, linear(x), train)), train)


class Conv(Picklable):
    """Convolution, activation, 2x2 pooling; by default 3x3 windows, stride 1, same size.

    Inputs (batch, height, width, channels) to (batch, height // 2, width // 2, channels), or of the same height and
    width where ``pool`` is "none". ``pool="isometric"`` is the average times 2, which keeps the length of what it does
    not average away; ``pool="max4"`` takes maxima of 4x4 windows, every second row and column. ``bias`` starts at 0, or
    is drawn as PyTorch does, uniform on +-1/sqrt(fan_in); "none" has none. ``groups`` splits input and output channels
    into groups that do not see each other. ``kernel`` and ``stride`` are those of the square windows, and ``padding``
    is what they see over the edge (`Padding`).
    """

    channels: int
    activation: Callable[[Array], Array] = jax.nn.relu
    kernel_init: Initializer = he_uniform
    pool: str = "average"
    bias: Literal["zero", "uniform", "none"] = "zero"
    groups: int = 1
    kernel: int = 3
    stride: int = 1
    padding: Padding = "same"
    norm: Norm = "none"
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width in"], train: bool = False
    ) -> Float[Array, "batch out_h out_w out"]:
        check_word("pool", self.pool, tuple(POOLINGS))
        z = convolution(self, self.channels, self.kernel, self.stride, self.groups, self.padding)(x)
        return dropped(self.dropout, pooled(self, self.activation(normed(self.norm, z, train))), train)


def convolution(
    block: Any, channels: int, kernel: int, stride: int = 1, groups: int = 1, padding: str = "same"
) -> Callable[[Array], Array]:
    """Within a compact module: a convolution whose kernel and bias start as ``block`` says."""
    check_word("bias", block.bias, ("zero", "uniform", "none"))
    check_word("padding", padding, get_args(Padding))
    edge = _edge(kernel) if padding == "same" else (0, 0)

    def applied(x: Array) -> Array:
        if x.ndim != 4:
            raise UsageError(f"a convolution takes images (batch, height, width, channels); got {x.shape}; {ALONG}")
        bound = (kernel**2 * x.shape[-1] / groups) ** -0.5
        x = mirrored(x, kernel) if padding == "reflect" else x
        return nn.Conv(
            channels,
            (kernel, kernel),
            strides=stride,
            padding=[edge, edge],
            kernel_init=block.kernel_init,
            bias_init=uniform_within(bound) if block.bias == "uniform" else nn.initializers.zeros,
            use_bias=block.bias != "none",
            conv_general_dilated=partial(_as_product, groups) if jax.default_backend() == "cpu" else _rounded,
            feature_group_count=groups,
        )(x)

    return applied


def _edge(kernel: int) -> tuple[int, int]:
    """How far windows of this side reach over either edge of an image whose size they keep."""
    return (kernel - 1) // 2, kernel // 2


def mirrored(x: Float[Array, "batch height width in"], kernel: int) -> Array:
    """Images continued beyond their edge, as far as windows reach, by what is mirrored at the outermost pixels."""
    return jnp.pad(x, ((0, 0), _edge(kernel), _edge(kernel), (0, 0)), mode="reflect")


def _as_product(
    groups: int, x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **_: Any
) -> Array:
    """The convolution of `Conv` as a matrix product over the shifted images side by side.

    On CPU and within a loop, XLA (jaxlib 0.10.2) compiles the kernel's gradient of its own convolution into a program
    some fifty times slower: four steps of Cascaded-Forward's blocks in a scan took 36.5 s, and 0.67 s with this.
    """
    size, step, channels = kernel.shape[0], strides[0], x.shape[-1]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = ((length - size) // step * step + 1 for length in x.shape[1:3])
    shifted = [x[:, i : i + height : step, j : j + width : step] for i in range(size) for j in range(size)]
    if groups == 1:
        return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
    parts = jnp.stack(shifted, axis=3)
    parts = parts.reshape(*parts.shape[:3], size**2, groups, channels // groups)
    weights = kernel.reshape(size**2, channels // groups, groups, -1)
    product = jnp.einsum("bhwkgc,kcgo->bhwgo", parts, weights)
    return product.reshape(*product.shape[:3], -1)


def _rounded(x: Array, kernel: Array, *args: Any, **options: Any) -> Array:
    """XLA's convolution, its factors in bfloat16 where that is asked for: JAX's setting reaches products alone."""
    if setting("default_matmul_precision") != DOT["bfloat16"]:
        return jax.lax.conv_general_dilated(x, kernel, *args, **options)
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return jax.lax.conv_general_dilated(x, kernel, *args, **options).astype(jnp.float32)


class Identity(nn.Module):
    """No parameters, output equals input: the block of a readout that reads the raw input."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return x


def pooled(block: Any, h: Float[Array, "batch *features"]) -> Float[Array, "batch *out"]:
    """The block's pooling alone."""
    return POOLINGS[block.pool].function(h) if isinstance(block, Conv) else h


def padded(block: Any, x: Float[Array, "batch *features"]) -> tuple[Any, Array]:
    """The block without its padding, and its inputs with it; other blocks than `Conv` as they are."""
    if not isinstance(block, Conv) or block.padding == "valid":
        return block, x
    edge = _edge(block.kernel)
    wide = mirrored(x, block.kernel) if block.padding == "reflect" else jnp.pad(x, ((0, 0), edge, edge, (0, 0)))
    return block.clone(padding="valid"), wide


def before_pooling(block: Any) -> Any:
    """The block without the pooling that `pooled` does."""
    return block.clone(pool="none") if isinstance(block, Conv) else block


def side_after(block: Conv, length: int) -> int:
    """Height or width after the block."""
    reach = length - (block.kernel if block.padding == "valid" else 1)
    return (reach // block.stride + 1) // (1 if block.pool == "none" else 2)
