"""A data set in memory."""

import dataclasses
import functools
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """An image-classification set in memory.

    Attributes:
        name: canonical name: "mnist", "fashion_mnist", "cifar10", "cifar100", "mnist5k", "digits", "tfds:NAME" or the
            name of a set of one's own.
        source: where the arrays came from, for people.
        x_train: training images (n, height, width, channels), uint8.
        y_train: training labels (n,), int32 in 0..num_classes-1.
        x_test: test images, as `x_train`.
        y_test: test labels, as `y_train`.
        num_classes: number of classes.
    """

    name: str
    source: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int

    @functools.cached_property
    def digest(self) -> str:
        """First 16 hex digits of a SHA-256 over shapes, types and bytes of the four arrays, in their order."""
        sha = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            sha.update(f"{array.shape} {array.dtype.str};".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()[:16]
