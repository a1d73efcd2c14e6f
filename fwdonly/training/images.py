"""Training images from host memory, chunk by chunk and ahead of the training, through Grain (extra ``stream``)."""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from ..base import Batch
from ..errors import UsageError
from .programs import RUNS, Setup

BLOCK_BYTES = 2**28
"""Largest block of images that is brought to the device at a time."""


BLOCKS = 3
"""On the device: two wait there while the third is being trained on."""


def grain() -> Any:
    """The library that brings them.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module("grain")
    except ImportError as error:
        raise UsageError(
            "images that stay in host memory need Grain: pip install 'fwdonly[stream]' (or stream=False, where the "
            "device has room for them)"
        ) from error


class Feeder:
    """The batches of an epoch, as a resident set would give them: equal orders, equal bytes.

    The host gathers a block of ``count`` batches (for every run of a sweep, in its own order) and sends it on, while
    the device trains on the one before. ``x`` may be a memory map: no more of it is read than is trained on.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, train: np.ndarray, batch_size: int, setup: Setup) -> None:
        self.grain = grain()
        self.x, self.y, self.train, self.batch_size = x, y, train, batch_size
        self.place = jax.local_devices()[0] if setup.mesh is None else NamedSharding(setup.mesh, RUNS)

    def shapes(self, count: int) -> Batch:
        """Shapes of a block of ``count`` batches."""
        lead = (*self.train.shape[:-1], count, self.batch_size)
        x: Any = jax.ShapeDtypeStruct((*lead, *self.x.shape[1:]), self.x.dtype)
        y: Any = jax.ShapeDtypeStruct(lead, self.y.dtype)
        return Batch(x, y)

    def longest(self) -> int:
        """Batches of a block, at most."""
        return max(1, BLOCK_BYTES // self.shapes(1).x.size // self.x.dtype.itemsize)

    def blocks(self, order: np.ndarray, first: int, sizes: Sequence[int]) -> Iterator[Batch]:
        """Blocks of ``sizes`` batches from step ``first`` on, on the device; ``order`` (runs, train) as in the loop."""
        rows = np.take_along_axis(self.train, order, axis=-1)
        per_epoch = rows.shape[-1] // self.batch_size
        rows = rows[..., : per_epoch * self.batch_size].reshape(*rows.shape[:-1], per_epoch, self.batch_size)
        ends = first + np.cumsum([0, *sizes])

        def gather(i: int) -> Batch:
            at = rows[..., np.arange(ends[i], ends[i + 1]) % per_epoch, :]
            return Batch(self.x[at], self.y[at])

        steps = self.grain.MapDataset.range(len(sizes)).map(gather)
        ahead = steps.to_iter_dataset(self.grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        return iter(
            self.grain.experimental.device_put(ahead, self.place, cpu_buffer_size=1, device_buffer_size=BLOCKS - 1)
        )
