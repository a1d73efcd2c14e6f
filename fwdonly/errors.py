"""Errors of the user, in one line that names the fault and the mend."""

import contextlib
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
