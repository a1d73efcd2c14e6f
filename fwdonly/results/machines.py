"""The software and hardware of this process, as far as it can be read."""

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..surroundings import cores, switches, version


def environment() -> dict[str, Any]:
    """The software and hardware of this process, as far as it can be read; unknown entries are None.

    ``cores`` are those that it may use. ``switches`` are JAX's settings that numbers depend on.
    """
    import jax  # here, so that files can be read and written without it

    device = jax.devices()[0]
    names = ("fwdonly", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in names},
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": cores(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": len(jax.devices()),
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "switches": switches(),
    }


def machine() -> str:
    """What seconds and energies of this process depend on, in short: "AMD EPYC, 2 cores, cpu, jax 0.10.2"."""
    found = environment()
    cores = f"{found['cores'] or 'unknown'} cores"
    return ", ".join([found["cpu"] or "unknown CPU", cores, found["device"], f"jax {found['packages']['jax']}"])


def _git_commit() -> str | None:
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():  # an installed wheel; the repository around it, if any, is somebody else's
        return None
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return out.stdout.strip()


def _cpu() -> str | None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or None
