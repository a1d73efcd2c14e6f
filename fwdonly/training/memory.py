"""Memory: the size of arrays, what is free, and what does not fit."""

from pathlib import Path
from typing import Any

import jax


def tree_bytes(trees: Any) -> int:
    """The size of all arrays (or shapes of arrays) in ``trees``."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))


def free_bytes() -> int | None:
    """Memory that is free, of a GPU or of a CPU's machine; None where nothing says how much."""
    found = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in found:
        return found["bytes_limit"] - found["bytes_in_use"]
    if jax.default_backend() != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None


class DoesNotFit(Exception):
    """A group of runs needs more memory than there is; ``runs`` would fit."""

    def __init__(self, runs: int) -> None:
        super().__init__(f"{runs} runs fit")
        self.runs = runs


class MemoryWarning(UserWarning):
    """Runs had to be trained in smaller groups than was planned."""
