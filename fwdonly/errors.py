"""Errors of the user, in one line that names the fault and the mend."""

import contextlib
import operator
from collections.abc import Generator, Sequence
from typing import Any


class UsageError(ValueError):
    """Bad input that the user can mend; the message is one line that names the fault and the mend."""


@contextlib.contextmanager
def one_line() -> Generator[None, None, None]:
    """Keeps a `UsageError` raised while JAX traces to its own line; JAX appends advice on tracebacks to it."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).splitlines()[0]) from None


def check_word(name: str, value: Any, words: Sequence[Any]) -> None:
    """Refuse a value that is not one of ``words``.

    Raises:
        UsageError: it is another one.
    """
    if value not in words:
        raise UsageError(f"{name} is one of {', '.join(map(repr, words))}; got {value!r}")


def check_whole(value: Any, what: str) -> int:
    """An integer of Python, NumPy or JAX as Python's.

    Raises:
        UsageError: anything else, such as a float or a truth value; nothing is rounded.
    """
    try:
        if isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool":
            raise TypeError
        return operator.index(value)
    except TypeError:
        found = " ".join(str(value).split())[:60]
        raise UsageError(f"{what} is an integer; got {found} ({type(value).__name__})") from None


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
        found = [*seeds]
    except TypeError:
        raise UsageError(f"seeds are a list of integers; got {seeds}") from None
    if not found:
        raise UsageError("there are no seeds; give at least one")
    return [check_seed(seed) for seed in found]


def first_difference(found: Any, wanted: Any, where: str = "") -> str:
    """Where two configurations part, in words, names of nested ones joined by dots; empty if they do not.

    What one of them lacks altogether is taken for empty.
    """
    if isinstance(wanted, dict) and (found is None or isinstance(found, dict)):
        found = found or {}
        for name in dict.fromkeys([*wanted, *found]):
            words = first_difference(found.get(name), wanted.get(name), f"{where}.{name}" if where else name)
            if words:
                return words
        return ""
    return "" if found == wanted else f"{where} is {found} there and {wanted} here"
