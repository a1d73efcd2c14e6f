"""The test session: on CPU, with annotations checked at run time and no silent rank promotion."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported; subprocesses inherit it

import jaxtyping

with jaxtyping.install_import_hook("fwdonly", "beartype.beartype"):
    import fwdonly

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
pytest.register_assert_rewrite("comparing")  # or its assertions fail without values


@pytest.fixture
def float64():
    """Double precision inside the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """For modules that compile much and compute little."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def key():
    return jax.random.key(7)


@pytest.fixture(params=["mlp", "cnn"])
def net(request):
    """Three blocks small enough to compile at once, dense and convolutional; three classes divide every width."""
    return {"mlp": fwdonly.nets.mlp([9, 12, 6]), "cnn": fwdonly.nets.cnn([3, 6, 3])}[request.param]


@pytest.fixture
def batch():
    """Six images of 8x8x1 and labels of three classes; dense blocks flatten the images."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 8, 8, 1)).astype(np.float32)
    return fwdonly.Batch(jnp.asarray(x), jnp.asarray([0, 1, 2, 0, 1, 2], jnp.int32))
