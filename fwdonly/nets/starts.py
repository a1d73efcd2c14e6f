"""Start values of weights, and activations, by their names."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

he_uniform = nn.initializers.he_uniform()
"""Uniform on +-sqrt(6 / fan_in), biases 0: the start values of the public code behind arXiv 2509.19063.

That code calls PyTorch's ``kaiming_uniform_(W, a=sqrt(5), nonlinearity="relu")``. With ``nonlinearity="relu"`` PyTorch
ignores ``a``, so the bound is sqrt(6 / fan_in) and not the 1 / sqrt(fan_in) that ``a=sqrt(5)`` suggests.
"""
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""N(0, 2 / fan_in), biases 0."""
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2 / fan_out), biases 0: the start values of DeeperForward's code."""
normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
"""N(0, 1 / fan_in), biases 0: the start values of Hinton's Forward-Forward Matlab."""
normal_fan_out = nn.initializers.variance_scaling(1.0, "fan_out", "normal")
"""N(0, 1 / fan_out), biases 0: the start values of Forward-Forward in arXiv 2509.19063."""
xavier_uniform = nn.initializers.xavier_uniform()
"""Uniform on +-sqrt(6 / (fan_in + fan_out)), biases 0: the start values of SCFF's convolutions."""
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


def uniform_within(bound: float) -> Initializer:
    return lambda key, shape, dtype=None: jax.random.uniform(key, shape, dtype, -bound, bound)
