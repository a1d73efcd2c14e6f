"""Memory: the size of arrays, what is free, and what does not fit."""

from typing import Any

import jax

from ..surroundings import free_memory


def tree_bytes(trees: Any) -> int:
    """The size of all arrays (or shapes of arrays) in ``trees``."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))


def free_bytes() -> int | None:
    """Memory that this process may still take, of a GPU or of a CPU's machine; None where nothing says how much.

    On a CPU no more than control groups (containers, SLURM's --mem) and the process's limits leave.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return free_memory() if jax.default_backend() == "cpu" else None


class DoesNotFit(Exception):
    """A group of runs needs more memory than there is; ``runs`` would fit."""

    def __init__(self, runs: int) -> None:
        super().__init__(f"{runs} runs fit")
        self.runs = runs


class MemoryWarning(UserWarning):
    """Runs had to be trained in smaller groups than was planned."""
