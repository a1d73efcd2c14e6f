"""How the rows of a table become numbers, as a record: for training, and again for rows that come later."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError
from .checks import DataWarning
from .folders import optional


class Columns(NamedTuple):
    """Columns of numbers are centred and scaled; columns of categories become one column for each category."""

    numbers: tuple[str, ...]
    """Names, in the order of the features."""
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    categories: tuple[tuple[str, tuple[str, ...]], ...]
    """(name, the categories of the training part), in the order of the features that follow."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that a table needs."""
        return (*self.numbers, *(name for name, _ in self.categories))

    def code(self, where: str, frame: Any) -> np.ndarray:
        """Rows (n, features), float32, of a DataFrame whose columns may lie in another order, among others.

        Raises:
            UsageError: a column is missing, or holds something else than in training; one line.
        """
        frame = frame.rename(columns=str)
        if absent := [name for name in self.names if name not in frame.columns]:
            raise UsageError(f"{where} has no column {absent[0]!r}; give it the columns of the training table")
        types = optional("pandas", "a table", "data").api.types
        for name in self.names:
            check_column(where, frame[name], types)
        for name in self.numbers:
            if not types.is_numeric_dtype(frame[name]):
                raise UsageError(f"{where}: column {name!r} holds text, and in training held numbers; correct it")
        x = np.stack([frame[name].to_numpy(np.float64) for name in self.numbers], 1) if self.numbers else None
        parts = [] if x is None else [(x - np.asarray(self.mean)) / np.asarray(self.sd)]
        for name, known in self.categories:
            texts = frame[name].astype(str).to_numpy().astype(str)
            if new := sorted(set(texts.tolist()) - set(known)):
                line = f"{where}: column {name!r} has {len(new)} categories that training had not ({new[0]!r}); "
                warnings.warn(line + "they count as none", DataWarning, stacklevel=4)
            parts.append((texts[:, None] == np.asarray(known)[None]).astype(np.float64))
        return np.concatenate(parts, 1).astype(np.float32)

    def as_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        categories = [[name, list(known)] for name, known in self.categories]
        numbers = {name: list(getattr(self, name)) for name in ("numbers", "mean", "sd")}
        return {**numbers, "categories": categories}


def columns_of(content: Mapping[str, Any]) -> Columns:
    """The record from the output of `Columns.as_json`.

    Raises:
        ValueError, TypeError, KeyError: it is something else.
    """
    numbers, mean, sd = (tuple(content[name]) for name in ("numbers", "mean", "sd"))
    categories = tuple((name, tuple(known)) for name, known in content["categories"])
    texts = (*numbers, *(text for name, known in categories for text in (name, *known)))
    if not all(isinstance(text, str) for text in texts) or not len(numbers) == len(mean) == len(sd):
        raise ValueError("the columns of a table are names, with a mean and an SD each")
    if not (np.isfinite([*mean, *sd]).all() and all(value > 0 for value in sd)):
        raise ValueError("a mean or an SD of a column is no finite number")
    return Columns(numbers, mean, sd, categories)


def check_column(where: str, column: Any, types: Any) -> None:
    """Refuse what is neither a number nor a category, and missing values: what to fill in is the user's choice."""
    if types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column):
        raise UsageError(f"{where}: column {column.name!r} holds dates; make it a number, or drop it")
    if missing := int(column.isna().sum()):
        raise UsageError(f"{where}: column {column.name!r} has {missing} missing values; fill or drop them")
    if types.is_numeric_dtype(column) and not np.isfinite(column.to_numpy().astype(float)).all():
        raise UsageError(f"{where}: column {column.name!r} holds infinity; correct or drop it")
