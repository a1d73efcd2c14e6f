"""Functions of one run, lifted over many, spread over devices and compiled ahead."""

import contextlib
import functools
import time
from collections.abc import Callable, Generator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..base import DOT, Precision, setting
from ..errors import UsageError

Lift = Literal["single", "vmap", "map"]


RUNS = PartitionSpec("runs")


class Setup(NamedTuple):
    """How functions of one run become a program."""

    how: Lift
    mesh: Mesh | None
    """The devices over which the runs are spread; None: all of them on the default device."""
    precision: Precision

    def place(self, tree: Any) -> Any:
        """A tree of arrays with a leading axis over runs, each run on its device."""
        return self._put(tree, RUNS)

    def share(self, tree: Any) -> Any:
        """A tree of arrays that every run reads, on every device."""
        return self._put(tree, PartitionSpec())

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mesh is None:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(self.mesh, spec))

    @property
    def devices(self) -> int:
        """Over how many devices the runs are spread."""
        return 1 if self.mesh is None else self.mesh.size


def mesh_of(runs: int, devices: int | None) -> Mesh | None:
    """A mesh with the one axis "runs" over this process's devices, no more of them than runs; None for one device.

    Raises:
        UsageError: devices of different kinds, or fewer than asked for.
    """
    local = jax.local_devices()
    if devices is not None and not 1 <= devices <= len(local):
        raise UsageError(f"devices must be 1 to {len(local)}, the devices of this process; got {devices}")
    members = local[:devices][:runs]
    kinds = sorted({device.device_kind for device in members})
    if len(kinds) > 1:
        raise UsageError(
            f"the devices are of different kinds ({', '.join(kinds)}), which take different time and may round "
            "differently; choose with CUDA_VISIBLE_DEVICES, or use one device"
        )
    return Mesh(np.array(members), ("runs",)) if len(members) > 1 else None


def check_precision(precision: Precision) -> None:
    """Refuse what the device does not compute.

    Raises:
        UsageError: another precision than float32 on a CPU, which would silently take float32.
    """
    if precision != "float32" and jax.default_backend() == "cpu":
        raise UsageError(f"precision {precision} needs an accelerator; a CPU computes in float32 here")


def lift(f: Callable[..., Any], setup: Setup) -> Callable[..., Any]:
    """``f(*per_run, shared)`` for one run, or for a stack of runs: at once, or one after another; on every device."""

    def one(*args: Any) -> Any:
        with jax.default_matmul_precision(DOT[setup.precision]):
            return f(*args)

    def many(*args: Any) -> Any:
        *per_run, shared = args
        if setup.how == "vmap":
            return jax.vmap(lambda *arrays: one(*arrays, shared))(*per_run)
        return jax.lax.map(lambda arrays: one(*arrays, shared), tuple(per_run))

    def spread(*args: Any) -> Any:
        specs = (*[RUNS] * (len(args) - 1), PartitionSpec())
        return jax.shard_map(many, mesh=setup.mesh, in_specs=specs, out_specs=RUNS, check_vma=False)(*args)

    return one if setup.how == "single" else many if setup.mesh is None else spread


@functools.lru_cache(maxsize=64)
def program(
    f: Callable[..., Any], job: Any, donate: tuple[int, ...], arguments: int, *static: Any
) -> tuple[Any, dict[Any, Any]]:
    """The jitted form of ``f(job, *static, *per_run, shared)`` and a table of what has been compiled of it."""
    mesh = job.setup.mesh
    placed: dict[str, Any] = {}
    if mesh is not None:
        runs, shared = NamedSharding(mesh, RUNS), NamedSharding(mesh, PartitionSpec())
        placed = {"in_shardings": (*[runs] * (arguments - 1), shared), "out_shardings": runs}
        if jax.default_backend() == "cpu":
            # There are no copies and no communication to clean up, and the attempt makes other fusions of a run's
            # arithmetic, and so other last bits, than the program of one device has.
            placed["compiler_options"] = {"xla_disable_hlo_passes": "spmd-cleanup"}
    return jax.jit(lift(functools.partial(f, job, *static), job.setup), donate_argnums=donate, **placed), {}


@contextlib.contextmanager
def uncompiled() -> Generator[None, None, None]:
    """Within it everything is computed operation by operation."""
    with jax.disable_jit(True):
        yield


class Plain:
    """In the place of a compiled program where ``jax_disable_jit`` is set: values can be printed in it."""

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.f = f
        self.shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), args)

    def __call__(self, *args: Any) -> Any:
        with uncompiled():
            return self.f(*args)

    @property
    def out_info(self) -> Any:
        """Shapes of what it gives."""
        return jax.eval_shape(self.f, *self.shapes)

    def memory_analysis(self) -> None:
        """Unknown."""


class Finite:
    """A program where ``jax_debug_nans`` or ``jax_debug_infs`` is set.

    The loop means some of its infinities and NaNs: best scores of the start, losses of stopped runs. So the switches
    are off in the program, and what is ``watched`` of its output is looked at afterwards. Where that is not finite,
    everything is computed once more, operation by operation and with the switches on, which names the place. That of
    an infinity may be an earlier one that is meant, such as the one with which JAX begins a maximum.
    """

    def __init__(self, compiled: Any, f: Callable[..., Any], watched: Callable[[Any], Any]) -> None:
        self.compiled, self.f, self.watched = compiled, f, watched

    def __getattr__(self, name: str) -> Any:
        return getattr(self.compiled, name)

    def __call__(self, *args: Any) -> Any:
        with jax.debug_nans(False), jax.debug_infs(False):
            out = self.compiled(*args)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self.watched(out))]
        leaves = [leaf for leaf in leaves if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)]
        for name, is_one in (("nans", np.isnan), ("infs", np.isinf)):
            if setting(f"debug_{name}") and any(is_one(leaf.astype(np.float64)).any() for leaf in leaves):
                with uncompiled():
                    self.f(*args)
                raise FloatingPointError(f"a compiled step gives {name}, and the same operations one by one do not")
        return out


class Programs:
    """Calls functions of runs compiled, adds up the seconds that compilation takes, and knows what memory they need.

    JAX's switches for debugging are obeyed: see `Plain` and `Finite`, which looks at what ``watched`` takes of outputs.
    """

    def __init__(self, watched: Callable[[Any], Any] = lambda out: out) -> None:
        self.watched, self.compile_seconds = watched, 0.0
        self.programs: dict[Any, Any] = {}  # of this training, however many programs the cache above remembers

    def __call__(self, f: Callable[..., Any], job: Any, *args: Any, static: tuple = (), donate: tuple = ()) -> Any:
        return self.prepare(f, job, *args, static=static, donate=donate)(*args)

    def prepare(self, f: Callable[..., Any], job: Any, *args: Any, static: tuple = (), donate: tuple = ()) -> Any:
        """The program ``f(job, *static, *args)``, compiled for arguments of these shapes; ``job.setup`` says how."""
        leaves, treedef = jax.tree.flatten(args)
        debugging = setting("debug_nans") or setting("debug_infs")
        donate = () if debugging else donate  # the arguments may be needed again
        key = setting("enable_x64"), treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        signature = f, job, donate, static, key, debugging, setting("disable_jit")
        if signature not in self.programs:
            self.programs[signature] = self._compiled(f, job, args, static, donate, key)
            if debugging:
                setup = job.setup._replace(mesh=None)
                setup = setup._replace(how="map") if setup.how == "vmap" else setup  # vmap would trace the steps
                lifted = lift(functools.partial(f, job, *static), setup)
                self.programs[signature] = Finite(self.programs[signature], lifted, self.watched)
        return self.programs[signature]

    def _compiled(self, f: Callable[..., Any], job: Any, args: tuple, static: tuple, donate: tuple, key: Any) -> Any:
        if setting("disable_jit"):
            return Plain(lift(functools.partial(f, job, *static), job.setup._replace(mesh=None)), args)
        jitted, compiled = program(f, job, donate, len(args), *static)
        if key not in compiled:
            begin = time.perf_counter()
            compiled[key] = jitted.lower(*args).compile()
            self.compile_seconds += time.perf_counter() - begin
        return compiled[key]

    def working_bytes(self) -> int | None:
        """Memory on a device that the largest of these programs takes besides its arguments; None if it is unknown."""
        needs = [program.memory_analysis() for program in self.programs.values()]
        if not needs or None in needs:
            return None
        return max(n.temp_size_in_bytes + n.output_size_in_bytes - n.alias_size_in_bytes for n in needs)


def shapes_of(f: Callable[..., Any], job: Any, *args: Any) -> Any:
    """What ``f(job, ...)`` gives for these runs."""
    return jax.eval_shape(lift(functools.partial(f, job), job.setup._replace(mesh=None)), *args)
