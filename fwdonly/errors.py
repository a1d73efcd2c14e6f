"""Errors of the user, in one line that names the fault and the mend."""

import contextlib
import functools
import math
import os
import types
import typing
from collections.abc import Generator, Mapping, Sequence
from typing import Any


class UsageError(ValueError):
    """Bad input that the user can mend; the message is one line that names the fault and the mend."""


DAMAGE = ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, MemoryError
"""What the reading of a damaged or forged file raises, beside what the system says."""


def words_of(error: BaseException) -> str:
    """What an exception says, in one line of bounded length."""
    words = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return short(words) or type(error).__name__


def short(value: Any) -> str:
    """A value as text in one line of bounded length."""
    words = " ".join(str(value).split())
    return words if len(words) <= 300 else words[:296] + " ..."


@contextlib.contextmanager
def one_line() -> Generator[None, None, None]:
    """Keeps a `UsageError` raised while JAX traces to its own line; JAX appends advice on tracebacks to it."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).splitlines()[0]) from None


ALONG = "samples lie along the first axis, a single one as x[None]"


def check_samples(x: Any) -> None:
    """Refuse samples that no prediction can be made for, whatever the network.

    Raises:
        UsageError: no array, a single sample without its batch axis, or no sample.
    """
    if not hasattr(x, "ndim"):
        raise UsageError(f"x is a {type(x).__name__}; pass jnp.asarray(x)")
    if x.ndim < 2:
        raise UsageError(f"x has shape {x.shape}, which is one sample; {ALONG}")
    if not len(x):
        raise UsageError("x is empty; give at least one sample")


@contextlib.contextmanager
def fitting(what: str, shape: Sequence[int], mend: str = "") -> Generator[None, None, None]:
    """Says in one line that ``what`` cannot take inputs of this shape: what JAX or Flax raises there.

    ``mend`` is for faults of Flax that are none of a shape. Any other fault goes its way.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        is_of_shapes = _is_of_shapes(error)
        if not is_of_shapes and type(error).__module__.partition(".")[0] != "flax":
            raise
        if not is_of_shapes:
            raise UsageError(f"{what} cannot run on inputs {tuple(shape)}: {short(error)}{mend}") from error
        raise UsageError(
            f"{what} takes inputs of another shape than {tuple(shape)}; give samples as in training: {ALONG}"
        ) from error


MISFITS = "dot_general requires", "ncompatible shapes", "must have the same shape", "unexpected JAX type"
"""What JAX says where arrays do not fit each other."""


def _is_of_shapes(error: Exception) -> bool:
    if type(error).__name__ == "ScopeParamShapeError":
        return True
    return isinstance(error, TypeError | ValueError) and any(part in str(error) for part in MISFITS)


def check_word(name: str, value: Any, words: Sequence[Any]) -> None:
    """Refuse a value that is not one of ``words``.

    Raises:
        UsageError: it is another one.
    """
    if value not in words:
        raise UsageError(f"{name} is one of {', '.join(map(repr, words))}; got {value!r}")


def check_whole(value: Any, what: str) -> int:
    """An integer of Python, NumPy or JAX as Python's integer.

    Raises:
        UsageError: anything else, such as a float or a truth value; nothing is rounded.
    """
    try:
        return number(value, int)
    except TypeError:
        text = " ".join(str(value).split())[:60]
        raise UsageError(f"{what} is an integer; got {text} ({type(value).__name__})") from None


def check_seed(seed: Any) -> int:
    """A seed as Python's integer.

    Raises:
        UsageError: no integer, or one that does not lie in 0..2**32-1.
    """
    number = check_whole(seed, "a seed")
    if not 0 <= number < 2**32:
        raise UsageError(f"a seed lies in 0..2**32-1; got {number}")
    return number


def check_seeds(seeds: Any) -> list[int]:
    """Seeds as Python's integers.

    Raises:
        UsageError: no sequence, no seed in it, or one that `check_seed` refuses.
    """
    try:
        values = [*seeds]
    except TypeError:
        raise UsageError(f"seeds are a list of integers; got {seeds}") from None
    if not values:
        raise UsageError("there are no seeds; give at least one")
    return [check_seed(seed) for seed in values]


NUMBERS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false"}
"""Types of fields whose values may be NumPy's or JAX's scalars, in words."""


def number(value: Any, kind: type) -> Any:
    """A plain ``kind`` (int, float or bool) from it, or from a scalar of NumPy or JAX; an integer is a float, too.

    Raises:
        TypeError: it is of another kind; 64.0 is no integer, and true is no number.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        try:
            value = value.item()
        except NotImplementedError as error:  # keys of JAX
            raise TypeError(f"not {NUMBERS[kind]}") from error
    if isinstance(value, bool) == (kind is bool) and isinstance(value, int if kind is not float else int | float):
        return kind(value)
    if kind is float and hasattr(value, "as_integer_ratio") and not isinstance(value, bool):  # NumPy's wider floats
        return float(value)
    raise TypeError(f"not {NUMBERS[kind]}")


@functools.cache
def _fields_of_numbers(record: type) -> tuple[tuple[str, tuple[type, ...], bool], ...]:
    """(name, kinds, whether it may be None) of every field that holds a number or a switch."""
    fields = []
    for name, hint in typing.get_type_hints(record).items():
        parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kinds = tuple(kind for kind in NUMBERS if kind in parts)
        if kinds and len(kinds) + (type(None) in parts) == len(parts):
            fields.append((name, kinds, type(None) in parts))
    return tuple(fields)


def settle_numbers(record: Any, flag: str = "{}") -> None:
    """Give a frozen dataclass plain numbers in the place of NumPy's; ``flag`` is how its fields are called.

    Raises:
        UsageError: a field holds something else; said in one line, before anything is done with it.
    """
    for name, kinds, optional in _fields_of_numbers(type(record)):
        value = getattr(record, name)
        if optional and value is None:
            continue
        for kind in kinds:
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                object.__setattr__(record, name, number(value, kind))
                break
        else:
            words = " or ".join([*(NUMBERS[kind] for kind in kinds), *(["none"] if optional else [])])
            shown = flag.format(name.replace("_", "-") if flag != "{}" else name)
            raise UsageError(f"{shown} must be {words}; got {value!r}")


def plain(value: Any, what: str) -> Any:
    """The value in plain JSON types: numbers of NumPy and JAX become numbers, tuples become lists.

    Call it before a training for everything that is written after it.

    Raises:
        UsageError: ``what`` holds something that JSON has no form for, or a number that is not finite.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | int):
        return str(value) if isinstance(value, str) else int(value)
    if isinstance(value, Mapping):
        return {str(plain(name, what)): plain(item, f"{what}.{name}") for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item, what) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist") and not isinstance(value, float):  # arrays and scalars
        with contextlib.suppress(TypeError):
            return plain(value.tolist(), what)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if math.isfinite(result := number(value, float)):
            return result
    raise UsageError(f"{what} cannot be written to a file as JSON; give finite numbers, text and lists; got {value!r}")


def first_difference(stored: Any, wanted: Any, where: str = "") -> str:
    """The first difference between two configurations in words; empty if there is none.

    Names of nested settings are joined by dots. A part that one configuration lacks counts as empty.
    """
    if isinstance(wanted, dict) and (stored is None or isinstance(stored, dict)):
        stored = stored or {}
        for name in dict.fromkeys([*wanted, *stored]):
            words = first_difference(stored.get(name), wanted.get(name), f"{where}.{name}" if where else name)
            if words:
                return words
        return ""
    return "" if stored == wanted else f"{where} is {short(stored)} there and {short(wanted)} here"
