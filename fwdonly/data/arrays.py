"""Arrays in memory as a `Dataset`: classes numbered, and a test part held out where there is none."""

from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from ..errors import UsageError
from .checks import array_of, count_classes, features_of, labels_of
from .dataset import Dataset
from .splits import hold_out

Share = float | int
"""A part of the samples, between 0 and 1, or their number."""


class Classes(NamedTuple):
    """Labels as numbers."""

    y: np.ndarray
    y_test: np.ndarray | None
    count: int
    names: tuple[str, ...] | None


def from_arrays(
    x: Any,
    y: Any,
    *,
    test: Share | tuple[Any, Any] = 0.2,
    seed: SupportsIndex = 0,
    name: str = "arrays",
) -> Dataset:
    """Samples and labels in memory.

    Args:
        x: samples along the first axis, in anything that NumPy reads: images (n, height, width[, channels]), rows of a
            table (n, columns), or of any other rank. uint8 are pixels; every other number becomes float32.
        y: labels (n,) or (n, 1): integers 0..classes-1 without gaps, truth values, or text, whose classes are numbered
            in alphabetical order.
        test: the test part: ``(x_test, y_test)``, or how much of the samples to hold out for it, as a share (0.2) or a
            number (200), stratified by class.
        seed: of the held-out part, 0..2**32-1; it is no seed of a run.
        name: of the set, for result folders.

    Raises:
        UsageError: what no training can use, in one line that says how to mend it.

    Example:
        >>> import numpy as np, fwdonly
        >>> x = np.random.default_rng(0).normal(size=(50, 4))
        >>> fwdonly.data.from_arrays(x, np.where(x[:, 0] > 0, "yes", "no")).class_names
        ('no', 'yes')
    """
    x = features_of(f"{name}: x", x)
    if isinstance(test, tuple):
        if len(test) != 2:
            raise UsageError(f"{name}: test is (x_test, y_test) or how much to hold out; got {len(test)} values")
        classes = number_classes(name, y, test[1])
        parts: tuple[Any, ...] = x, classes.y, test[0], classes.y_test
        source = f"{name}: arrays in memory"
    else:
        classes = number_classes(name, y)
        check_lengths(name, x, classes.y)
        train, held = hold_out_share(name, classes.y, test, seed)
        parts = x[train], classes.y[train], x[held], classes.y[held]
        source = f"{name}: arrays in memory, {len(held)} samples held out to test"
    return Dataset(name, source, *parts, classes.count, class_names=classes.names)


def check_lengths(where: str, x: Any, y: Any) -> None:
    """Refuse samples and labels of different number, before one is chosen by the other."""
    if len(x) != len(y):
        raise UsageError(f"{where}: x has {len(x)} samples and y {len(y)} labels; give each sample its label")


def number_classes(where: str, y: Any, y_test: Any = None) -> Classes:
    """Labels of any kind as numbers: text in alphabetical order, integers as they are.

    Raises:
        UsageError: no labels, or test labels that no training sample has.
    """
    y, names = _flat(f"{where}: y", y), None
    y_test = None if y_test is None else _flat(f"{where}: y_test", y_test)
    if y.dtype.kind == "U":
        words, y = np.unique(y, return_inverse=True)
        names = tuple(words.tolist())
        if y_test is not None:
            strange = np.setdiff1d(y_test, words)
            if len(strange):
                raise UsageError(f"{where}: y_test holds {strange[0].item()!r}, which no training label is; correct it")
            y_test = np.searchsorted(words, y_test)
    elif y.dtype.kind == "b":
        names = ("False", "True")
    y = labels_of(f"{where}: y", y)
    return Classes(y, y_test, count_classes(where, y), names)


def _flat(what: str, y: Any) -> np.ndarray:
    """Labels as an array (n,) where they have that form; text of any library as NumPy's."""
    try:
        y = np.asarray(y)
    except ValueError as error:
        raise UsageError(f"{what} cannot be read as one array; give one label per sample") from error
    if y.dtype.kind in "OST" and all(isinstance(label, str | bytes) for label in y.ravel()):
        y = np.array([label.decode() if isinstance(label, bytes) else label for label in y.ravel()]).reshape(y.shape)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    return y if y.dtype.kind == "U" and y.ndim == 1 else array_of(what, y)


def hold_out_share(where: str, y: np.ndarray, test: Share, seed: SupportsIndex) -> tuple[np.ndarray, np.ndarray]:
    """Indices (to train, to test), stratified by class.

    Raises:
        UsageError: a share outside 0..1, or a number that leaves nothing to train or to test.
    """
    if isinstance(test, bool | str) or getattr(test, "ndim", 0) or not hasattr(test, "__float__"):
        raise UsageError(f"{where}: test is {test!r}; give the share to hold out, such as 0.2, or a number of samples")
    whole = not isinstance(test, float | np.floating)
    held = int(test) if whole else round(test * len(y))
    if not 1 <= held < len(y):
        raise UsageError(f"{where}: test is {test}; hold out a share of 0..1, or 1 to {len(y) - 1} of {len(y)} samples")
    return hold_out(y, held, seed)
