"""Tests of the device that JAX has: a GPU, or with ``--device-dry-run`` the CPU at toy size.

    python -m pytest tests/device -n 12 -m "not alone"     # on a machine with an accelerator
    python -m pytest tests/device -m alone                 # the meter's, which need it to themselves
    python -m pytest tests/device --device-dry-run         # shows on a CPU that they run

`pytest.ini` beside this file makes the folder a suite of its own, so that the ordinary conftest is not loaded, which
forces the CPU and needs beartype. These need JAX, Flax, optax, NumPy and pytest alone. The ordinary suite skips each.
"""

import os
import sys
from importlib import metadata

# Before JAX has a backend, and for xdist's workers. Several processes share one device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# Values are looked at here, not times: products need no tuning.
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0")
if "--device-dry-run" in sys.argv and metadata.version("jaxlib").startswith("0.10."):
    # The emitters of fused loops take half of the time to compile. Other versions do not know the switch.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax
import pytest


def pytest_addoption(parser):
    parser.addoption("--device-dry-run", action="store_true", help="run the device tests on a CPU, at toy size")


def dry_run(config):
    return config.getoption("--device-dry-run", default=False)


def pytest_configure(config):
    if dry_run(config):
        jax.config.update("jax_disable_most_optimizations", True)  # compiles in a third of the time


def pytest_collection_modifyitems(config, items):
    if jax.default_backend() == "cpu" and not dry_run(config):
        reason = "no accelerator: JAX has the CPU alone (--device-dry-run shows that the test runs)"
        for item in items:
            if "device" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def dry(request):
    """Whether this is a dry run."""
    return dry_run(request.config)


@pytest.fixture
def on_cpu():
    """Whether the device is the CPU."""
    return jax.default_backend() == "cpu"


@pytest.fixture(autouse=True)
def full_precision():
    """Products in float32, unless a test asks for something else."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="session")
def templates():
    """Noisy class templates: 200 training and 60 test images of 6x6, four classes."""
    from comparing import template_images

    return template_images()
