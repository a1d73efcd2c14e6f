"""A data set in memory."""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from ..errors import UsageError, check_whole
from .checks import Parts, checked
from .columns import Columns

UNEQUAL = 1.5
"""Samples of the largest class by those of the smallest from which accuracy alone misleads."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification set in memory, checked as it is made: one in a wrong state cannot exist.

    Images without their channel axis get it, labels (n, 1) become (n,), and numbers other than uint8 become float32.

    Attributes:
        name: canonical name: "mnist", "fashion_mnist", "cifar10", "cifar100", "mnist5k", "digits", "tfds:NAME" or the
            name of a set of one's own.
        source: where the arrays came from, for people.
        x_train: training samples: images (n, height, width, channels), rows of a table (n, columns), or of any other
            rank; uint8 pixels, or float32.
        y_train: training labels (n,), int32 in 0..num_classes-1.
        x_test: test samples, as `x_train`.
        y_test: test labels, as `y_train`.
        num_classes: number of classes.
        class_names: the classes in words, in the order of their labels.
        num_validation: how many of the last training samples are the validation part that came with the set; `split`
            uses it as such.
        columns: of a table, how its rows became these numbers, so that nothing is left to scale.

    Raises:
        UsageError: arrays that no training can use, in one line that says how to mend them.
    """

    name: str
    source: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    _: dataclasses.KW_ONLY
    class_names: tuple[str, ...] | None = None
    num_validation: int = 0
    columns: Columns | None = None

    def __post_init__(self) -> None:
        where = self.source or self.name
        parts = checked(where, Parts(self.x_train, self.y_train, self.x_test, self.y_test), self.num_classes)
        for name, array in parts._asdict().items():
            # Views, not copies: read-only keeps the cached digest true, and the caller's own array stays writable.
            view = np.ascontiguousarray(array).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        object.__setattr__(self, "num_classes", int(self.num_classes))
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise UsageError(f"{where}: {len(self.class_names)} class names for {self.num_classes} classes; name each")
        if not 0 <= check_whole(self.num_validation, f"{where}: num_validation") < len(self.y_train):
            raise UsageError(f"{where}: num_validation is {self.num_validation}; leave some of the training samples")

    @property
    def standardised(self) -> bool:
        """Whether the loader has scaled the features by the training part."""
        return self.columns is not None

    @functools.cached_property
    def imbalance(self) -> float:
        """Samples of the largest class by those of the smallest that occurs, in the part where that is more."""
        counts = (np.unique(y, return_counts=True)[1] for y in (self.y_train, self.y_test))
        return max(float(count.max() / count.min()) for count in counts)

    @property
    def unequal(self) -> bool:
        """Whether classes are unequal by more than 1.5 to 1, so that balanced accuracy stands beside accuracy."""
        return self.imbalance > UNEQUAL

    def balance(self) -> str:
        """In words, where the classes are unequal: the smallest and the largest of the training part; else empty."""
        if not self.unequal:
            return ""
        labels, counts = np.unique(self.y_train, return_counts=True)
        ends = (int(counts.argmin()), int(counts.argmax()))
        names = [self.class_names[labels[at]] if self.class_names else str(labels[at]) for at in ends]
        low, high = (f"{name!r} has {counts[at]:,}" for name, at in zip(names, ends, strict=True))
        return f"classes are unequal: of the training samples {low}, {high}; balanced accuracy is shown beside accuracy"

    @functools.cached_property
    def digest(self) -> str:
        """First 16 hex digits of a SHA-256 over shapes, types and bytes of the four arrays, in their order.

        A validation part that came with the set counts as well.
        """
        sha = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            sha.update(f"{array.shape} {array.dtype.str};".encode())
            sha.update(np.ascontiguousarray(array).data)
        if self.num_validation:
            sha.update(f"{self.num_validation} to validate;".encode())
        return sha.hexdigest()[:16]


def check_dataset(data: Any) -> None:
    """Refuse anything but a `Dataset`, such as a name or a pair of arrays.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(data, Dataset):
        raise UsageError(
            'data is a fwdonly.data.Dataset, such as data.load("digits") or data.from_arrays(x, y); got a '
            f"{type(data).__name__}"
        )
