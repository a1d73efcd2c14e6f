"""What arrays must be to become a `Dataset`: every fault is one line with its mend."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError, check_whole

MOST_CLASSES = 2**16
"""Classes that may be declared where there are fewer training samples."""

SAMPLE = 1000
"""Rows, evenly spaced, whose ranges are compared: a memory map is not read as a whole."""


FEW = 10
"""Test samples below which ranges differ by chance."""


class DataWarning(UserWarning):
    """Data that can be used, and are probably not what was meant."""


class Parts(NamedTuple):
    """Checked arrays."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def checked(where: str, arrays: Parts, num_classes: Any) -> Parts:
    """The arrays in the types of a `Dataset`.

    Raises:
        UsageError: arrays that no training can use, or that fit neither each other nor ``num_classes``.
    """
    classes = check_whole(num_classes, f"{where}: num_classes")
    fields = []
    for part, x, y in (("train", arrays[0], arrays[1]), ("test", arrays[2], arrays[3])):
        x = features_of(f"{where}: x_{part}", x)
        y = labels_of(f"{where}: y_{part}", y)
        if len(x) != len(y):
            raise UsageError(
                f"{where}: x_{part} has {len(x)} samples and y_{part} {len(y)} labels; give each sample its label"
            )
        fields += [x, y]
    parts = Parts(*fields)
    _check_sizes(where, parts)
    _check_classes(where, parts, classes)
    for name in ("x_train", "x_test"):
        _check_constant(f"{where}: {name}", getattr(parts, name))
    _warn_of_ranges(where, parts)
    return parts


def array_of(what: str, values: Any) -> np.ndarray:
    """The values as an array.

    Raises:
        UsageError: rows of several lengths, or what NumPy cannot read.
    """
    try:
        array = np.asarray(values)
    except Exception as error:  # any library's arrays may come here
        raise UsageError(f"{what} cannot be read as one array; give numbers, and all samples one shape") from error
    if array.dtype == object:
        raise UsageError(f"{what} holds Python objects; give numbers, and all samples one shape")
    return array


def features_of(what: str, values: Any) -> np.ndarray:
    """Features: uint8 as it is, every other number as float32; images (n, h, w) get their channel."""
    x = array_of(what, values)
    if x.dtype.kind not in "buif" and not x.dtype.name.startswith(("bfloat", "float8")):  # JAX's own
        raise UsageError(f"{what} is {x.dtype}; give numbers (data.from_table takes columns of text)")
    if x.ndim < 2:
        mend = "pass x.reshape(-1, 1) for a single column" if x.ndim else "give samples along the first axis"
        raise UsageError(f"{what} has shape {x.shape}, samples without features; {mend}")
    if not x.size:
        raise UsageError(f"{what} is empty, shape {x.shape}; every part needs samples")
    if x.ndim == 4 and x.shape[1] in (1, 3, 4) and min(x.shape[2:]) > 4:
        shape = f"(N, {', '.join(map(str, x.shape[1:]))})"
        raise UsageError(f"{what}: shape {shape} looks like channels first; pass x.transpose(0, 2, 3, 1)")
    if x.ndim == 3:
        x = x[..., None]
    if x.dtype == np.uint8:
        return x
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.float32)
    if not (np.isfinite(x.min()) and np.isfinite(x.max())):  # NaN passes through both
        row = int(np.isfinite(x.reshape(len(x), -1)).all(1).argmin())
        raise UsageError(
            f"{what} holds NaN, infinity or more than float32 can (first in sample {row}); fill or drop it"
        )
    return x


def labels_of(what: str, values: Any) -> np.ndarray:
    """Labels as int32 (n,); (n, 1) is flattened, false and true are 0 and 1."""
    y = array_of(what, values)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "buif" and len(y) and (np.sort(y, 1) == np.eye(1, y.shape[1])[:, ::-1]).all():
        raise UsageError(f"{what} is one-hot, shape {y.shape}; pass y.argmax(1)")
    if y.ndim != 1:
        raise UsageError(f"{what} has shape {y.shape}; labels must be one integer per sample")
    if y.dtype.kind in "US":
        raise UsageError(f"{what} holds text; data.from_arrays(x, y) numbers the classes and keeps their names")
    if y.dtype.kind == "f":
        raise UsageError(f"{what} is {y.dtype}; labels must be integers: pass y.astype(int), if the classes are whole")
    if y.dtype.kind not in "bui":
        raise UsageError(f"{what} is {y.dtype}; labels must be integers")
    if y.size and max(-int(y.min()), int(y.max())) >= 2**31:
        raise UsageError(f"{what} holds labels {y.min()}..{y.max()}; number the classes from 0 without gaps")
    return y.astype(np.int32)


def count_classes(where: str, y: np.ndarray) -> int:
    """The number of classes that training labels tell; every one must occur. Nothing grows with the labels' values."""
    if not len(y):
        raise UsageError(f"{where}: y_train is empty; every part needs samples")
    there = np.unique(y)
    classes = int(there[-1]) + 1
    if there[0] < 0:
        raise UsageError(f"{where}: y_train holds labels {there[0]}..{there[-1]}; number the classes from 0")
    if len(there) < classes:
        gaps = np.flatnonzero(there != np.arange(len(there)))
        raise UsageError(
            f"{where}: y_train reaches {classes - 1} but has no label {gaps[0]}; number the classes from 0 without "
            "gaps, or give num_classes as well"
        )
    return classes


def _check_sizes(where: str, parts: Parts) -> None:
    train, test = parts.x_train, parts.x_test
    if train.shape[1:] != test.shape[1:]:
        raise UsageError(
            f"{where}: training samples have shape {train.shape[1:]}, test samples {test.shape[1:]}; give both one size"
        )
    if train.dtype != test.dtype:
        raise UsageError(f"{where}: x_train is {train.dtype} and x_test {test.dtype}; give both one type, on one scale")
    if train.ndim == 4 and train.shape[-1] == 4:
        _warn(f"{where}: images have 4 channels; if the fourth is alpha (RGBA), pass x[..., :3]")


def _check_classes(where: str, parts: Parts, classes: int) -> None:
    if classes > max(MOST_CLASSES, len(parts.y_train)):
        raise UsageError(
            f"{where}: {classes} classes for {len(parts.y_train)} training samples; a network has an output for each, "
            "so correct num_classes"
        )
    for part, y in (("train", parts.y_train), ("test", parts.y_test)):
        if y.min() < 0 or y.max() >= classes:
            raise UsageError(
                f"{where}: y_{part} holds labels {y.min()}..{y.max()}, outside 0..{classes - 1}; correct the labels or "
                "num_classes"
            )
    there = np.unique(parts.y_train)
    if len(there) == 1:
        raise UsageError(f"{where}: every training label is {there[0]}; training needs samples of at least two classes")
    for part, known in (("train", there), ("test", np.unique(parts.y_test))):
        if absent := classes - len(known):
            some = ", ".join(map(str, np.setdiff1d(np.arange(classes), known)[:5])) + ", ..." * (absent > 5)
            _warn(
                f"{where}: {absent} of {classes} classes have no sample in y_{part} ({some}); correct num_classes if "
                "they do not exist"
            )


def _check_constant(what: str, x: np.ndarray) -> None:
    """Stops at the first sample that differs, so that a memory map is hardly read."""
    first = x.flat[0]
    if len(x) > 1 and all((sample == first).all() for sample in x):
        uint8 = "were floats in [0, 1] cast to uint8? pass them as they are"
        mend = uint8 if x.dtype == np.uint8 else "give data that differ"
        raise UsageError(f"{what} is constant, every value is {first}; {mend}")


def _warn_of_ranges(where: str, parts: Parts) -> None:
    """Say where training and test values lie on different scales."""
    (low, high), (low_test, high_test) = map(_range, (parts.x_train, parts.x_test))
    narrow = min(high - low, high_test - low_test)
    apart = max(abs(low - low_test), abs(high - high_test))
    if len(parts.x_test) >= FEW and 0 < narrow <= apart:
        _warn(
            f"{where}: training values range over {low:.4g}..{high:.4g} and test values over "
            f"{low_test:.4g}..{high_test:.4g}; scale both alike"
        )


def _range(x: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value of a sample; of tables without the outermost hundredths, which are outliers."""
    rows = x[:: -(-len(x) // SAMPLE)]
    if x.ndim == 2 and x.dtype != np.uint8:
        low, high = np.quantile(rows, (0.01, 0.99))
        return float(low), float(high)
    return float(rows.min()), float(rows.max())


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=2)
