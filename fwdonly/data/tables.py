"""Tables, as CSV files or pandas DataFrames, through pandas and scikit-learn (extra ``data``)."""

import difflib
import warnings
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from ..errors import UsageError
from ..files import expanded
from .arrays import hold_out_share
from .checks import DataWarning
from .columns import Columns, check_column
from .dataset import Dataset
from .folders import brief, optional, shown

MOST_CATEGORIES = 1000
"""Different texts in a column that is still one of categories."""

MOST_TARGETS = 100
"""Different numbers that may still be classes where each has few rows."""


def from_table(table: Any, *, target: str, test: Any = 0.2, seed: SupportsIndex = 0) -> Dataset:
    """Rows of a table, one column of which holds the classes.

    Columns of numbers are standardised by the training part; columns of text or categories become one column per
    category of the training part. The numbers come first, then the categories, each in the order of the table.

    Args:
        table: a CSV file, or a pandas DataFrame.
        target: name of the column of the classes; they are numbered in sorted order.
        test: the test part: another table, or how much of the rows to hold out, as in `from_arrays`.
        seed: of the held-out part.

    Raises:
        UsageError: no such file or column, missing values, dates, columns of free text, in one line.
    """
    frame, name, where = _frame(table)
    target = str(target)
    _check_target(where, frame, target)
    has_test_table = not isinstance(test, float | int | np.number)
    other = _frame(test)[0] if has_test_table else None
    words, y = np.unique(_classes(where, frame[target]), return_inverse=True)
    if other is None:
        train, held = hold_out_share(where, y, test, seed)
        rows, rows_test, y, y_test = frame.iloc[train], frame.iloc[held], y[train], y[held]
        division = f"{len(held)} rows held out to test"
    else:
        _check_target("the test table", other, target)
        rows, rows_test, division = frame, other, "a test table beside it"
        y_test = _numbered(words, _classes("the test table", other[target]))
    x, x_test, columns = _features(where, rows.drop(columns=target), rows_test.drop(columns=target))
    names = tuple(str(word) for word in words.tolist())
    source = f"{where} ({division})"
    return Dataset(name, source, x, y, x_test, y_test, len(names), class_names=names, columns=columns)


def _frame(table: Any) -> tuple[Any, str, str]:
    """A DataFrame with its name, and where it came from."""
    pandas = optional("pandas", "a table", "data")
    if isinstance(table, pandas.DataFrame):
        return table.reset_index(drop=True).rename(columns=str), "table", "the table"
    path = expanded(table, "the table")
    return read_table(path), f"csv:{path.stem}", shown(path)


def read_table(path: Path) -> Any:
    """A CSV file as a pandas DataFrame.

    Raises:
        UsageError: no such file, or one that is no CSV; one line.
    """
    where = shown(path)
    if not path.exists():
        raise UsageError(f"there is no file {where}; correct the path")
    try:
        return optional("pandas", "a table", "data").read_csv(path)
    except Exception as error:  # pandas' parsers raise many things
        raise UsageError(
            f"{where} cannot be read as CSV ({brief(error)}): give a file of rows with a header"
        ) from error


def rows_and_labels(path: Path, target: str) -> tuple[Any, np.ndarray]:
    """The rows of a CSV without the column of the classes, and the classes in words, as `from_table` names them.

    Raises:
        UsageError: no such file or column; one line.
    """
    frame = read_table(path).rename(columns=str)
    _check_target(shown(path), frame, target)
    return frame.drop(columns=target), _classes(shown(path), frame[target]).astype(str)


def _check_target(where: str, frame: Any, target: str) -> None:
    columns = [str(column) for column in frame.columns]
    if not len(frame):
        raise UsageError(f"{where} has no rows; give some")
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        raise UsageError(f"{where} has one column, {columns[0]!r}; separate columns by commas")
    if target not in columns:
        close = difflib.get_close_matches(target, columns, n=1)
        known = f"did you mean {close[0]!r}?" if close else f"its columns are {', '.join(columns[:20])}"
        raise UsageError(f"{where} has no column {target!r}; {known}")
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise UsageError(f"{where} has several columns {twice!r}; rename or drop them")
    if len(columns) < 2:
        raise UsageError(f"{where} has no column beside {target!r}; give features")


def _classes(where: str, column: Any) -> np.ndarray:
    """The classes of the rows, as text or integers."""
    if missing := int(column.isna().sum()):
        raise UsageError(f"{where}: {missing} rows have no {column.name!r}; fill or drop them")
    values = column.to_numpy()
    if values.dtype.kind not in "biuf":
        return column.astype(str).to_numpy().astype(str)
    number = len(np.unique(values))
    whole = values.dtype.kind != "f" or bool((values == np.round(values)).all())
    if number > max(MOST_TARGETS if whole else 0, len(values) // 5):
        raise UsageError(
            f"{where}: {column.name!r} holds {number} different numbers, and rules tell classes apart; give a column "
            "of classes"
        )
    return values.astype(np.int64) if whole and values.dtype.kind == "f" else values


def _numbered(words: np.ndarray, values: np.ndarray) -> np.ndarray:
    strange = np.setdiff1d(values, words)
    if len(strange):
        raise UsageError(f"the test table holds the class {strange[0].item()!r}, which no training row has; correct it")
    return np.searchsorted(words, values)


def _features(where: str, rows: Any, rows_test: Any) -> tuple[np.ndarray, np.ndarray, Columns]:
    """Both parts as float32, and the record of their columns. The training part decides scales and categories."""
    types = optional("pandas", "a table", "data").api.types
    if absent := [column for column in rows.columns if column not in rows_test.columns]:
        raise UsageError(f"the test table has no column {absent[0]!r}; give it the columns of the training table")
    numbers, categories = [], []
    for column in rows.columns:
        for part, values in ((where, rows[column]), ("the test part", rows_test[column])):
            check_column(part, values, types)
            _warn_of_row_numbers(part, values)
        numbers += [column] if types.is_numeric_dtype(rows[column]) else []
        categories += [] if types.is_numeric_dtype(rows[column]) else [column]
    for column in categories:
        _check_categories(where, rows[column], rows_test[column])
    scalers = optional("sklearn.preprocessing", "a table", "data")
    coder = scalers.OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    means, sds, known = (), (), ()
    if numbers:
        scaler = scalers.StandardScaler().fit(rows[numbers].to_numpy(np.float64))
        means, sds = (tuple(values.tolist()) for values in (scaler.mean_, scaler.scale_))
    if categories:
        coder.fit(rows[categories].astype(str))
        known = tuple(tuple(map(str, words)) for words in coder.categories_)
    columns = Columns(tuple(numbers), means, sds, tuple(zip(categories, known, strict=True)))
    with warnings.catch_warnings():
        # `_check_categories` has given this warning above.
        warnings.filterwarnings("ignore", message=".* categories that training had not", category=DataWarning)
        return columns.code(where, rows), columns.code("the test part", rows_test), columns


def _warn_of_row_numbers(where: str, column: Any) -> None:
    if str(column.name).startswith("Unnamed: ") and column.is_monotonic_increasing and column.is_unique:
        line = f"{where}: column {column.name!r} looks like row numbers; drop it, or it will be learnt"
        warnings.warn(line, DataWarning, stacklevel=4)


def _check_categories(where: str, column: Any, column_test: Any) -> None:
    known = set(column.astype(str))
    if len(known) > min(MOST_CATEGORIES, max(20, len(column) // 2)):
        raise UsageError(
            f"{where}: column {column.name!r} holds {len(known)} different texts in {len(column)} rows; make it "
            "numbers or few categories, or drop it"
        )
    if new := set(column_test.astype(str)) - known:
        line = f"{where}: column {column.name!r} has {len(new)} categories in the test part alone ({min(new)!r}); "
        warnings.warn(line + "they count as none", DataWarning, stacklevel=4)
