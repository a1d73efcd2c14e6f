"""What surrounds a process: the switches and versions that its numbers depend on, and the memory and cores it may use.

A job may use less than its machine has: a container or SLURM sets control groups (version 1 or 2), a shell sets limits,
`taskset` sets the cores. JAX is imported when it is asked, so that files can be read and written without it.
"""

import contextlib
import math
import os
import re
import sys
from collections.abc import Generator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

PROC = Path("/proc")

PACKAGES = ("fwdonly", "jax", "jaxlib", "flax", "optax")
"""Another version of one of them may draw or round otherwise."""

SWITCHES = (
    "default_prng_impl",
    "threefry_partitionable",
    "random_seed_offset",
    "high_dynamic_range_gumbel",
    "enable_x64",
    "default_matmul_precision",
    "allow_f16_reductions",
    "softmax_custom_jvp",
    "use_direct_linearize",
    "disable_most_optimizations",
    "optimization_level",
    "exec_time_optimization_effort",
)
"""JAX's settings that numbers depend on, by their names without ``jax_``; a version of JAX may lack some of them."""

VARIABLES = ("LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
"""Environment variables, which compilers and libraries below JAX read."""

HARMLESS = re.compile(
    r"--xla_(dump_|hlo_profile|force_host_platform_device_count|gpu_cuda_data_dir|gpu_force_compilation_parallelism"
    r"|gpu_per_fusion_autotune_cache_dir|cpu_parallel_codegen_split_count)"
)
"""Flags of XLA that change no number: what is written down, where files lie, how many cores compile, and how many
devices a CPU counts as."""


_FORKED = False


def _note_fork() -> None:
    """Note, in a forked child, whether the parent had begun to use JAX."""
    global _FORKED
    bridge = sys.modules.get("jax._src.xla_bridge")
    begun = getattr(bridge, "backends_are_initialized", lambda: False)
    _FORKED = _FORKED or begun()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def forked_from_jax() -> bool:
    """Whether this process was forked from one that had used JAX, as far as it is known: there JAX waits for ever."""
    return _FORKED


def version(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def switches() -> dict[str, Any]:
    """The present settings of JAX that numbers depend on, and the flags of XLA."""
    import jax

    listed = getattr(jax.config, "values", {})  # a few have no attribute
    values = {name: getattr(jax.config, f"jax_{name}", listed.get(f"jax_{name}")) for name in SWITCHES}
    plain = (str, int, float, type(None))
    values = {name: value if isinstance(value, plain) else str(value) for name, value in values.items()}
    values["disable_most_optimizations"] = bool(values["disable_most_optimizations"])  # None where nobody has set it
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not HARMLESS.match(flag)]
    return values | {"xla_flags": " ".join(flags) or None} | {name: os.environ.get(name) for name in VARIABLES}


def numerics() -> dict[str, Any]:
    """What numbers depend on beside all settings and data: versions and `switches`, as plain JSON.

    A record keeps it, and what was begun under one is not continued under another one.
    """
    return {name: version(name) for name in PACKAGES} | switches()


def cores() -> int | None:
    """Cores that this process may use: those that it is bound to, and no more than its groups' quota, rounded up."""
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on this system
        count = os.cpu_count()
    quotas = [quota for group in _groups("cpu") if (quota := _quota(group)) is not None]
    if not quotas:
        return count
    fewest = max(1, math.ceil(min(quotas)))
    return fewest if count is None else min(count, fewest)


def free_memory() -> int | None:
    """Bytes that this process may still take: free on the machine, in its control groups and by its limits."""
    rooms = [*_of_machine(), *(room for group in _groups("memory") for room in _room(group)), *_of_limits()]
    return max(0, min(rooms)) if rooms else None


class _Group(NamedTuple):
    """A control group, and which version its files are of."""

    folder: Path
    version: int


def _groups(controller: str) -> Generator[_Group, None, None]:
    """The groups that this process is in, from its own to the top of what it sees; limits of any of them bind it."""
    mounts: list[tuple[Path, str, int, str]] = []
    for line in _lines(PROC / "self" / "mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
            number = 2 if kind[0] == "cgroup2" else 1
            mounts.append((Path(_unescaped(fields[4])), _unescaped(fields[3]), number, kind[2]))
    for line in _lines(PROC / "self" / "cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        for top, root, number, options in mounts:
            mine = not controllers if number == 2 else controller in controllers.split(",")
            if not mine or (number == 1 and controller not in options.split(",")):
                continue
            below = path.removeprefix(root.rstrip("/")) if path.startswith(root) else ""  # a container sees its own top
            folder = top / below.strip("/")
            if ".." in folder.parts or not folder.is_dir():
                folder = top
            while True:
                yield _Group(folder, number)
                if folder == top:
                    break
                folder = folder.parent


def _room(group: _Group) -> list[int]:
    """Bytes left below a group's limit; what it keeps of files that are not in use is given back when needed."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    limit, used, kept = names if group.version == 1 else ("memory.max", "memory.current", "inactive_file")
    most, taken = _number(group.folder / limit), _number(group.folder / used)
    if most is None or most >= 2**62:  # version 1 says so where there is none
        return []
    reclaimed = [line.split() for line in _lines(group.folder / "memory.stat")]
    idle = next((int(words[1]) for words in reclaimed if len(words) == 2 and words[0] == kept), 0)
    return [most - max(0, (taken or 0) - idle)]


def _quota(group: _Group) -> float | None:
    """Cores' worth of time that a group may use."""
    if group.version == 2:
        words = (*_lines(group.folder / "cpu.max"), "")[0].split()
        quota, period = words if len(words) == 2 else ("max", "1")
        return int(quota) / int(period) if quota.isdigit() and int(quota) and int(period) else None
    quota, period = (_number(group.folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota and period and quota > 0 else None


def _of_machine() -> list[int]:
    lines = [line.split() for line in _lines(PROC / "meminfo") if line.startswith("MemAvailable")]
    return [int(words[1]) * 1024 for words in lines]


def _of_limits() -> list[int]:
    """Bytes that this process may still take under its limits on addresses and data (``ulimit -v`` and ``-d``)."""
    try:
        import resource
    except ImportError:  # not on this system
        return []
    pages = (*_lines(PROC / "self" / "statm"), "")[0].split()
    rooms = []
    for limit, field in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            taken = int(pages[field]) * resource.getpagesize() if len(pages) > field else 0
            rooms.append(most - taken)
    return rooms


def _lines(path: Path) -> list[str]:
    """The words of a system file; none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    with contextlib.suppress(ValueError, IndexError):
        return int(_lines(path)[0])
    return None


def _unescaped(text: str) -> str:
    """A path of ``mountinfo``, where a space is ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
