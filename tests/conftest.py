"""The test session: on CPU, with annotations checked at run time and no silent rank promotion."""

import gc
import importlib
import os
import re
import runpy
import sys
from importlib import metadata
from pathlib import Path

# Before JAX is imported. Subprocesses inherit all of it.
os.environ["JAX_PLATFORMS"] = "cpu"
# A program is compiled once for all tests of a worker and their processes.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "true"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    Path(__file__).parents[1] / ".pytest_cache" / "programs" / os.environ.get("PYTEST_XDIST_WORKER", "main")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# The tests compile much and compute little. `users_compilation` undoes this.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", "")]
    # The emitters of fused loops take most of the time. Other versions do not know the switch.
    + ["--xla_cpu_use_fusion_emitters=false"] * metadata.version("jaxlib").startswith("0.10.")
    + ["--xla_cpu_parallel_codegen_split_count=1"]  # programs are too small to be worth dividing
).strip()

import jaxtyping

with jaxtyping.install_import_hook("fwdonly", "beartype.beartype"):
    import fwdonly
    from fwdonly.cli.main import COMMANDS

    for name in fwdonly.__all__:  # all of it under the hook, for modules load when they are first used
        getattr(fwdonly, name)
    for name in COMMANDS:
        importlib.import_module(f"fwdonly.cli.{name}")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
gc.freeze()
gc.set_threshold(10_000, 20, 100)  # programs are many objects, and few of them ever die
pytest.register_assert_rewrite("comparing")  # or its assertions fail without values


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests of ``deep.txt``, which the gate runs after the others, and of ``slow.txt``, which it leaves.

    A line is a case, a function with all of its cases, or a pattern with ``*``.
    """
    for part in ("deep", "slow"):
        known = set((Path(__file__).parent / f"{part}.txt").read_text().splitlines())
        patterns = re.compile("|".join(re.escape(line).replace(r"\*", ".*") for line in known if "*" in line) or "(?!)")
        for item in items:
            name = f"{item.path.name}::{item.name}"
            if name in known or name.partition("[")[0] in known or patterns.fullmatch(name):
                item.add_marker(part)


@pytest.fixture
def float64():
    """Double precision inside the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def users_compilation():
    """Programs as users have them: for tests of what the compiler makes of a program, last bits among it."""
    from jax._src import compiler

    from fwdonly.training import programs

    options_of = compiler.get_compile_options

    def with_emitters(*args, **kwargs):
        options = options_of(*args, **kwargs)
        options.env_option_overrides = [*options.env_option_overrides, ("xla_cpu_use_fusion_emitters", True)]
        return options

    programs.program.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        if "emitters" in os.environ["XLA_FLAGS"]:
            patch.setattr(compiler, "get_compile_options", with_emitters)
        jax.config.update("jax_disable_most_optimizations", False)
        yield
        jax.config.update("jax_disable_most_optimizations", True)
    programs.program.cache_clear()


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


@pytest.fixture(scope="session")
def tiny():
    """Noisy class templates: 200 training and 60 test images of 6x6, four classes."""
    from comparing import template_images

    return template_images()


@pytest.fixture
def script(monkeypatch, capsys):
    """Run an experiment in this process: ``script("mf_mlp", *arguments) -> (exit code, stdout, stderr)``."""
    folder = Path(__file__).parents[1] / "experiments"
    monkeypatch.syspath_prepend(str(folder))

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"experiments/{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
        out = capsys.readouterr()
        return stopped.value.code, out.out, out.err

    return call


@pytest.fixture
def command(capsys):
    """Run a command in this process: ``command("train", "mf", *arguments) -> (exit code, stdout, stderr)``."""
    from fwdonly.cli import main

    def call(*words):
        words = [*map(str, words)]
        try:
            code = main(words, ["fwdonly", *words])
        except SystemExit as stopped:  # --help, or an option that is not known
            code = stopped.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return call
