"""The software and hardware of this process, as far as it can be read."""

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..surroundings import cores, switches, version

CPUINFO = Path("/proc/cpuinfo")


def environment() -> dict[str, Any]:
    """The software and hardware of this process, as far as it can be read; unknown entries are None.

    ``cores`` are those that it may use. ``switches`` are JAX's settings that numbers depend on.
    """
    import jax  # here, so that files can be read and written without it

    device = jax.devices()[0]
    names = ("fwdonly", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: _known(lambda name=name: version(name)) for name in names},
        "git_commit": _known(_git_commit),
        "platform": _known(platform.platform),
        "cpu": _known(_cpu),
        "cores": cores(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": len(jax.devices()),
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "switches": switches(),
    }


def machine() -> str:
    """What seconds and energies of this process depend on, in short: "AMD EPYC, 2 cores, cpu, jax 0.10.2"."""
    facts = environment()
    cores = f"{facts['cores'] or 'unknown'} cores"
    return ", ".join([facts["cpu"] or "unknown CPU", cores, facts["device"], f"jax {facts['packages']['jax']}"])


def _known(read: Callable[[], str | None]) -> str | None:
    """What ``read`` finds, or None: describing a machine ends no run."""
    try:
        return read()
    except Exception:
        return None


def _git_commit() -> str | None:
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():  # an installed wheel; the repository around it, if any, is somebody else's
        return None
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return out.stdout.decode(errors="replace").strip()


def _cpu() -> str | None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container may hide it
            for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or None
