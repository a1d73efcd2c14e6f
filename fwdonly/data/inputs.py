"""What lies between raw samples and a network, kept with a model: layout, constants, class names."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import UsageError
from .checks import array_of
from .columns import Columns, columns_of
from .dataset import Dataset
from .facts import CLASS_NAMES
from .pixels import normalise, standardise, statistics

KINDS = ("uint8", "float32")


class Preprocessing(NamedTuple):
    """How raw samples reach a network, and what its classes are called."""

    shape: tuple[int, ...]
    """Shape of a sample: (height, width, channels) of an image, (columns,) of a table, or any other."""
    kind: str
    """uint8: pixels, scaled by `normalise`. float32: features, scaled by `standardise`."""
    mean: tuple[float, ...]
    """Per channel or column, in units of pixel/255 for pixels."""
    sd: tuple[float, ...]
    num_classes: int
    class_names: tuple[str, ...] | None = None
    columns: Columns | None = None
    """For a table: how its rows become features."""

    def raw(self, x: Any, where: str = "x") -> np.ndarray:
        """Samples (n, *shape) of the right type, before any scaling.

        Args:
            x: images, rows or other samples along the first axis; a DataFrame, or rows of numbers, of a table.
            where: what messages call it.

        Raises:
            UsageError: samples of another shape, type or range than the training had; one line with its mend.
        """
        if hasattr(x, "columns") and hasattr(x, "rename"):
            if self.columns is None:
                raise UsageError(f"{where} is a DataFrame, and this model was trained on arrays; pass x.to_numpy()")
            return self._checked(where, self.columns.code(where, x))
        x = array_of(where, x)
        if x.dtype.kind not in "buif" and not x.dtype.name.startswith(("bfloat", "float8")):
            raise UsageError(f"{where} is {x.dtype}; give numbers")
        if self.columns is not None:
            return self._checked(where, self._rows(where, x))
        if x.ndim == len(self.shape) and len(self.shape) == 3 and self.shape[-1] == 1 and x.shape[1:] == self.shape[:2]:
            x = x[..., None]
        return self._checked(where, x)

    def _rows(self, where: str, x: np.ndarray) -> np.ndarray:
        """Rows of numbers in the order of the training table's columns, scaled as that was."""
        columns = self.columns
        assert columns is not None
        if columns.categories:
            raise UsageError(f"{where} is an array, and this model has columns of categories; pass a DataFrame")
        if x.ndim != 2 or x.shape[1] != len(columns.numbers):
            raise UsageError(f"{where} has shape {x.shape}; this model takes rows of {len(columns.numbers)} numbers")
        return ((x.astype(np.float64) - np.asarray(columns.mean)) / np.asarray(columns.sd)).astype(np.float32)

    def _checked(self, where: str, x: np.ndarray) -> np.ndarray:
        wanted = f"(n, {', '.join(map(str, self.shape))})"
        if x.shape == self.shape:
            raise UsageError(f"{where} has shape {x.shape}, one sample; samples lie along the first axis: pass x[None]")
        if x.shape[1:] != self.shape:
            height, width, channels = (*self.shape, 0, 0, 0)[:3]
            first = len(self.shape) == 3 and x.shape[1:] == (channels, height, width)
            mend = "pass x.transpose(0, 2, 3, 1)" if first else "give samples as in training"
            raise UsageError(f"{where} has shape {x.shape}, and this model takes {wanted}; {mend}")
        if not len(x):
            raise UsageError(f"{where} is empty; give at least one sample")
        return _pixels(where, x) if self.kind == "uint8" else _features(where, x)

    def scaled(self, x: Any) -> Float[Array, "batch *features"]:
        """Raw samples as the network takes them."""
        scale = normalise if self.kind == "uint8" else standardise
        return scale(jnp.asarray(x), self.mean, self.sd)

    def as_json(self) -> dict[str, Any]:
        """The record in plain JSON types. ``mean`` and ``sd`` are left out: files keep them as arrays."""
        columns = None if self.columns is None else self.columns.as_json()
        names = None if self.class_names is None else list(self.class_names)
        fields = {"shape": list(self.shape), "kind": self.kind, "num_classes": self.num_classes}
        return {**fields, "class_names": names, "columns": columns}


def preprocessing(data: Dataset, normalise: Literal["pixel", "paper", "half", "none"] = "pixel") -> Preprocessing:
    """How this set's samples reach a network with ``Plan(normalise=...)``.

    Raises:
        UsageError: constants that the set does not have, as in `statistics`.
    """
    mean, sd = statistics(data, normalise)
    names = data.class_names or CLASS_NAMES.get(data.name)
    kind = data.x_train.dtype.name
    return Preprocessing(data.x_train.shape[1:], kind, mean, sd, data.num_classes, names, data.columns)


def preprocessing_of(content: Mapping[str, Any], mean: np.ndarray, sd: np.ndarray) -> Preprocessing:
    """The record from the output of `Preprocessing.as_json` and from the constants.

    Raises:
        ValueError, TypeError, KeyError: it is something else.
    """
    shape, kind, classes, names = (content[name] for name in ("shape", "kind", "num_classes", "class_names"))
    if not (shape and all(type(n) is int and 0 < n < 2**31 for n in shape) and kind in KINDS):
        raise ValueError("samples have a shape, and are uint8 or float32")
    if type(classes) is not int or not 2 <= classes <= 2**20:
        raise ValueError("there are 2 to 2**20 classes")
    if names is not None and not (len(names) == classes and all(isinstance(name, str) for name in names)):
        raise ValueError("every class has one name")
    if not mean.shape == sd.shape == (shape[-1],) or mean.dtype.kind != "f" or sd.dtype.kind != "f":
        raise ValueError("every channel has a mean and an SD")
    if not (np.isfinite(mean).all() and np.isfinite(sd).all() and (sd > 0).all()):
        raise ValueError("a mean or an SD is no finite number")
    columns = None if content["columns"] is None else columns_of(content["columns"])
    if columns is not None:
        width = len(columns.numbers) + sum(len(known) for _, known in columns.categories)
        if (width,) != tuple(shape) or kind != "float32":
            raise ValueError("a table has another number of columns than features")
    names = None if names is None else tuple(names)
    return Preprocessing(tuple(shape), kind, tuple(mean.tolist()), tuple(sd.tolist()), classes, names, columns)


def _pixels(where: str, x: np.ndarray) -> np.ndarray:
    """As uint8; other integers where they are pixels."""
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind not in "iu":
        mend = "pass (255 * x).round().astype(np.uint8), if it lies in 0..1"
        raise UsageError(f"{where} is {x.dtype}, and this model takes uint8 pixels; {mend}")
    low, high = int(x.min()), int(x.max())
    if low < 0 or high > 255:
        raise UsageError(f"{where} holds {low}..{high}, and this model takes pixels in 0..255; scale them")
    return x.astype(np.uint8)


def _features(where: str, x: np.ndarray) -> np.ndarray:
    """As float32, all of it finite."""
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        row = int(np.isfinite(x.reshape(len(x), -1)).all(1).argmin())
        raise UsageError(f"{where} holds NaN, infinity or more than float32 can (first in sample {row}); fill it")
    return x
