"""Start values of weights, and activations, by their names."""

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

Initializer = Callable[..., Array]


def scaled(scale: float, fan: Literal["in", "out", "avg"], law: Literal["normal", "uniform"]) -> Initializer:
    """Mean 0 and variance ``scale`` over the fan: the bits of `flax.linen.initializers.variance_scaling`.

    They are drawn in one row. XLA on a CPU (jaxlib 0.10.2) takes three times as long to compile a draw of four axes.
    """

    def start(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        *window, inputs, outputs = shape
        fans = {"in": inputs, "out": outputs, "avg": (inputs + outputs) / 2}
        variance = jnp.array(scale / (math.prod(window) * fans[fan]), dtype)
        if law == "normal":
            row = jax.random.normal(key, (math.prod(shape),), dtype) * jnp.sqrt(variance)
        else:
            row = jax.random.uniform(key, (math.prod(shape),), dtype, -1) * jnp.sqrt(3 * variance)
        return row.reshape(shape)

    return start


he_uniform = scaled(2.0, "in", "uniform")
"""Uniform on +-sqrt(6 / fan_in), biases 0: the start values of the public code behind arXiv 2509.19063.

That code calls PyTorch's ``kaiming_uniform_(W, a=sqrt(5), nonlinearity="relu")``. With ``nonlinearity="relu"`` PyTorch
ignores ``a``, so the bound is sqrt(6 / fan_in) and not the 1 / sqrt(fan_in) that ``a=sqrt(5)`` suggests.
"""
he_normal = scaled(2.0, "in", "normal")
"""N(0, 2 / fan_in), biases 0."""
he_normal_fan_out = scaled(2.0, "out", "normal")
"""N(0, 2 / fan_out), biases 0: the start values of DeeperForward's code."""
normal = scaled(1.0, "in", "normal")
"""N(0, 1 / fan_in), biases 0: the start values of Hinton's Forward-Forward Matlab."""
normal_fan_out = scaled(1.0, "out", "normal")
"""N(0, 1 / fan_out), biases 0: the start values of Forward-Forward in arXiv 2509.19063."""
xavier_uniform = scaled(1.0, "avg", "uniform")
"""Uniform on +-sqrt(6 / (fan_in + fan_out)), biases 0: the start values of SCFF's convolutions."""
torch_uniform = scaled(1 / 3, "in", "uniform")
"""Uniform on +-1/sqrt(fan_in), PyTorch's default."""
normal_fan_avg = scaled(0.5, "avg", "normal")
"""N(0, 1 / (fan_in + fan_out)), biases 0: the start values of Akrout's code for feedback alignment."""
orthogonal = nn.initializers.orthogonal()
"""Orthonormal columns (rows, where a matrix has more columns than rows), drawn by QR with its signs fixed; biases 0."""
small_normal = nn.initializers.normal(0.01)
"""N(0, 0.01^2), of the output layer of the BP twin in arXiv 2509.19063."""
zeros = nn.initializers.zeros
"""All 0, the start values of Nokland's direct feedback alignment with tanh."""


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


def uniform_within(bound: float) -> Initializer:
    return lambda key, shape, dtype=None: jax.random.uniform(key, shape, dtype, -bound, bound)
