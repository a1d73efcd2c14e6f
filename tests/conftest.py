"""The test session: on CPU, with annotations checked at run time and no silent rank promotion."""

# ruff: noqa: E402  (the order of imports is the point of this file)
import os

os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported; subprocesses inherit it

import importlib.util
from pathlib import Path

import jaxtyping

# Two annotations do not hold at run time: the numbers in a Result of `fit` are NumPy scalars or arrays as it comes, and
# `sweep` takes lists as hyperparameters, which jaxtyping's ArrayLike excludes. These two modules stay unchecked.
_PACKAGE = Path(importlib.util.find_spec("fwdonly").origin).parent
_CHECKED = sorted({path.stem for path in _PACKAGE.glob("*.py")} - {"__init__", "train", "sweep"})

with jaxtyping.install_import_hook([f"fwdonly.{name}" for name in _CHECKED], "beartype.beartype"):
    import fwdonly

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def float64():
    """Double precision inside the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(7)


@pytest.fixture(params=["mlp", "cnn"])
def net(request):
    """Three blocks small enough to compile at once, dense and convolutional."""
    return {"mlp": fwdonly.nets.mlp([6, 5, 4]), "cnn": fwdonly.nets.cnn([2, 3, 2])}[request.param]


@pytest.fixture
def batch():
    """Six images of 8x8x1 and labels of three classes; dense blocks flatten the images."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 8, 8, 1)).astype(np.float32)
    return fwdonly.Batch(jnp.asarray(x), jnp.asarray([0, 1, 2, 0, 1, 2], jnp.int32))
