"""Networks as tuples of Flax Linen blocks, one block per hidden layer. The class readout belongs to the rule.

Blocks are value-hashable, so a freshly built equal network does not compile anew. Flax is imported in this file alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .base import DOT, Net, UsageError, check_word, setting

he_uniform = nn.initializers.he_uniform()
"""Uniform on +-sqrt(6 / fan_in), biases 0: the start values of the public code behind arXiv 2509.19063.

That code calls PyTorch's ``kaiming_uniform_(W, a=sqrt(5), nonlinearity="relu")``. With ``nonlinearity="relu"`` PyTorch
ignores ``a``, so the bound is sqrt(6 / fan_in) and not the 1 / sqrt(fan_in) that ``a=sqrt(5)`` suggests.
"""

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""N(0, 2 / fan_in), biases 0."""

normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
"""N(0, 1 / fan_in), biases 0: the start values of Hinton's Forward-Forward Matlab."""

normal_fan_out = nn.initializers.variance_scaling(1.0, "fan_out", "normal")
"""N(0, 1 / fan_out), biases 0: the start values of Forward-Forward in arXiv 2509.19063."""

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform on +-1/sqrt(fan_in), PyTorch's default."""

normal_fan_avg = nn.initializers.variance_scaling(0.5, "fan_avg", "normal")
"""N(0, 1 / (fan_in + fan_out)), biases 0: the start values of Akrout's code for feedback alignment."""

orthogonal = nn.initializers.orthogonal()
"""Orthonormal columns (rows, where a matrix has more columns than rows), drawn by QR with its signs fixed; biases 0."""

small_normal = nn.initializers.normal(0.01)
"""N(0, 0.01^2), of the output layer of the BP twin in arXiv 2509.19063."""

zeros = nn.initializers.zeros
"""All 0, the start values of Nokland's direct feedback alignment with tanh."""

Initializer = Callable[..., Array]


def identity(a: Array) -> Array:
    """No activation: a linear layer."""
    return a


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "identity": identity,
}
"""Activations by the names that the experiments' options use."""

Pool = Literal["average", "isometric", "max", "none"]


class Dense(nn.Module):
    """``activation(flatten(x) W + b)``: inputs (batch, *features) to (batch, width). With ``bias="none"`` without b."""

    width: int
    activation: Callable[[Array], Array] = jax.nn.relu
    kernel_init: Initializer = he_uniform
    bias: Literal["zero", "none"] = "zero"

    @nn.compact
    def __call__(self, x: Float[Array, "batch *features"]) -> Float[Array, "batch width"]:
        check_word("bias", self.bias, ("zero", "none"))
        x = x.reshape(x.shape[0], -1)
        return self.activation(nn.Dense(self.width, kernel_init=self.kernel_init, use_bias=self.bias != "none")(x))


class Conv(nn.Module):
    """Convolution, activation, 2x2 pooling; by default 3x3 windows, stride 1, same size.

    Inputs (batch, height, width, channels) to (batch, height // 2, width // 2, channels), or of the same height and
    width where ``pool`` is "none". ``pool="isometric"`` is the average times 2, which keeps the length of what it does
    not average away. ``bias`` starts at 0, or is drawn as PyTorch does, uniform on +-1/sqrt(fan_in); "none" has none.
    ``groups`` splits input and output channels into groups that do not see each other. ``kernel`` and ``stride`` are
    those of the square windows; ``padding="valid"`` lets none of them reach over the edge.
    """

    channels: int
    activation: Callable[[Array], Array] = jax.nn.relu
    kernel_init: Initializer = he_uniform
    pool: Pool = "average"
    bias: Literal["zero", "uniform", "none"] = "zero"
    groups: int = 1
    kernel: int = 3
    stride: int = 1
    padding: Literal["same", "valid"] = "same"

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch out_h out_w out"]:
        check_word("pool", self.pool, get_args(Pool))
        check_word("bias", self.bias, ("zero", "uniform", "none"))
        check_word("padding", self.padding, ("same", "valid"))
        bound = (self.kernel**2 * x.shape[-1] / self.groups) ** -0.5
        edge = ((self.kernel - 1) // 2, self.kernel // 2) if self.padding == "same" else (0, 0)
        x = nn.Conv(
            self.channels,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=[edge, edge],
            kernel_init=self.kernel_init,
            bias_init=_uniform(bound) if self.bias == "uniform" else nn.initializers.zeros,
            use_bias=self.bias != "none",
            conv_general_dilated=partial(_as_product, self.groups) if jax.default_backend() == "cpu" else _rounded,
            feature_group_count=self.groups,
        )(x)
        return pooled(self, self.activation(x))


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


def _uniform(bound: float) -> Initializer:
    return lambda key, shape, dtype=None: jax.random.uniform(key, shape, dtype, -bound, bound)


class Identity(nn.Module):
    """No parameters, output equals input: the block of a readout that reads the raw input."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return x


def mlp(widths: Sequence[int], **options: Any) -> Net:
    """Fully connected ReLU blocks, one per entry of ``widths``; options as of `Dense`. The first one flattens images.

    Raises:
        UsageError: no width, or a width below 1.
    """
    return tuple(Dense(width, **options) for width in _positive(widths, "width"))


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


# ---------------------------------------------------------------------------------------------------------------------
# The parts of a block, for rules that carry errors themselves: h = activation(linear(a)), and pooled(h) is handed on.
# Nothing below asks for automatic differentiation as long as blocks are dense.


def check_parts(net: Net) -> None:
    """Refuse networks that have no layer, or one whose parts are not known here.

    Raises:
        UsageError: one line that names the layer.
    """
    for number, block in enumerate(net, start=1):
        if not isinstance(block, Dense | Conv):
            raise UsageError(
                f"block {number} is a {type(block).__name__}; this rule treats its linear part and its activation "
                "apart and needs fwdonly.nets.Dense or Conv"
            )
    _not_empty(net)


def linear(block: Any, *, bias: bool = True) -> Any:
    """The block's affine map alone, with the same parameters: no activation, no pooling, and no bias where told so."""
    changes: dict[str, Any] = {"activation": identity} | ({} if bias else {"bias": "none"})
    return block.clone(**changes | ({"pool": "none"} if isinstance(block, Conv) else {}))


def pooled(block: Any, h: Float[Array, "batch *features"]) -> Float[Array, "batch *out"]:
    """The block's pooling alone."""
    how = block.pool if isinstance(block, Conv) else "none"
    if how == "none":
        return h
    pool = nn.max_pool if how == "max" else nn.avg_pool
    return pool(h, (2, 2), strides=(2, 2)) * (2 if how == "isometric" else 1)


def weight_gradient(block: Any, own: Any, a: Float[Array, "batch *in"], delta: Float[Array, "batch *out"]) -> Any:
    """The gradient of sum(delta * linear(a)) with respect to the block's parameters: a^T delta, summed over samples."""
    if isinstance(block, Dense):
        gradient = {"kernel": a.reshape(a.shape[0], -1).T @ delta}
        return {"params": {"Dense_0": gradient | ({} if block.bias == "none" else {"bias": delta.sum(0)})}}
    return jax.vjp(lambda own: linear(block).apply(own, a), own)[1](delta)[0]


def unpooled(block: Any, own: Any, rows: Float[Array, "batch *out"], shape: tuple[int, ...]) -> Array:
    """``rows`` through the transpose of the block's pooling, if that is linear; ``shape``: a sample at its input."""
    if not isinstance(block, Conv) or block.pool == "none":
        return rows
    below = jax.ShapeDtypeStruct((rows.shape[0], *shape), rows.dtype)
    h = jax.eval_shape(linear(block).apply, own, below)
    return jax.vjp(partial(pooled, block), jnp.zeros(h.shape, h.dtype))[1](rows)[0]


def send_back(block: Any, own: Any, delta: Float[Array, "batch *out"], shape: tuple[int, ...]) -> Array:
    """``delta`` through the transpose of the block's linear map, to one sample's ``shape`` at its input."""
    if isinstance(block, Dense):
        return (delta @ own["params"]["Dense_0"]["kernel"].T).reshape(-1, *shape)
    a = jnp.zeros((delta.shape[0], *shape), delta.dtype)
    return jax.vjp(lambda a: linear(block).apply(own, a), a)[1](delta)[0]


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


def _not_empty(net: Net) -> None:
    if not net:
        raise UsageError("the network has no hidden layer; give it at least one, as by fwdonly.nets.mlp([1000])")


def _side(block: Conv, length: int) -> int:
    """Height or width after the block."""
    reach = length - (block.kernel if block.padding == "valid" else 1)
    return (reach // block.stride + 1) // (1 if block.pool == "none" else 2)


def _positive(sizes: Sequence[int], what: str) -> Sequence[int]:
    if len(sizes) == 0 or min(sizes) < 1:
        raise UsageError(f"a network needs at least one {what}, each at least 1; got {tuple(sizes)}")
    return sizes


def init(key: Array, x: Float[Array, "batch *features"], net: Net) -> tuple[tuple[Any, ...], tuple[Array, ...]]:
    """Parameters of every block and the activation after it, for example inputs ``x``.

    Block i (from 1) draws from ``fold_in(key, i)`` alone, so two rules with one key start from equal blocks.

    Raises:
        UsageError: no block, or one that cannot take the shape it is given or leaves nothing of it.
    """
    _not_empty(net)
    params, activations = [], []
    for i, block in enumerate(net, start=1):
        if isinstance(block, Conv) and (x.ndim != 4 or _side(block, min(x.shape[1:3])) < 1):
            raise UsageError(
                f"block {i} is a convolution and needs images (batch, height, width, channels) that leave something "
                f"after {block.kernel}x{block.kernel} windows and pooling; it is given {x.shape}: use fewer blocks, "
                "larger images or an mlp"
            )
        params.append(block.init(jax.random.fold_in(key, i), x))
        x = block.apply(params[-1], x)
        activations.append(x)
    return tuple(params), tuple(activations)
