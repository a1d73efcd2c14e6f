"""Options of a rule: declared once, as a NamedTuple in its file, and refused where they are none or do nothing."""

import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import numpy as np
from jax import Array
from jax.core import Tracer

from .errors import UsageError, check_whole, check_word

Options = TypeVar("Options")


class Unless(NamedTuple):
    """Every value but this one."""

    value: Any


Needs = dict[str, dict[str, Any]]
"""Option -> other option -> the values of it with which the first one does something, or `Unless`."""


def needs(*names: str, **others: tuple[Any, ...] | Unless) -> Needs:
    """`Needs` of options that do something with these values of others alone.

    A record of options has them as ``NEEDS``: ``NEEDS = needs("decay", mode=("kp",)) | needs("variance",
    history=Unless(0))``.
    """
    return {name: others for name in names}


def chosen(kind: Callable[..., Options], options: Mapping[str, Any], rule: str) -> Options:
    """A rule's options, ``kind(**options)``, for a NamedTuple ``kind`` as its file declares it.

    Raises:
        UsageError: as of `read_options`, or an option that does nothing with these others and is not at its default.
    """
    settings = read_options(kind, options, rule)
    values = getattr(settings, "_asdict")()  # noqa: B009 (a NamedTuple's; type checkers do not see it)
    check_effects(kind, values, options, {})
    return settings


def read_options(kind: Callable[..., Options], options: Mapping[str, Any], rule: str) -> Options:
    """The options, whether or not they do anything with each other; words are those of its `Literal` annotations.

    Raises:
        UsageError: an option that does not exist, a word that is none of its own, or no integer where one belongs.
    """
    hints: dict[str, Any] = getattr(kind, "__annotations__")  # noqa: B009
    for name in sorted(set(options) - set(hints)):
        near = difflib.get_close_matches(name, [*hints, *_further(kind)], n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"its options are {', '.join(hints)}"
        raise UsageError(f"{rule} has no option {name!r}; {mend}")
    for name, value in options.items():
        if hints[name] is int:
            check_whole(value, name)
        parts = (hints[name], *get_args(hints[name]))  # of a union, too
        words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
        if words and not (value is None and type(None) in parts):
            check_word(name, value, words)
    return kind(**options)


def _further(kind: Any) -> list[str]:
    """The keywords that the function ``rule`` beside the options' declaration has by itself."""
    rule = getattr(sys.modules.get(kind.__module__), "rule", None)
    if not callable(rule):
        return []
    parameters = inspect.signature(rule).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def idle(kind: Any, values: Mapping[str, Any]) -> dict[str, str]:
    """The options of a record that do nothing with these values of all options, and in words what would mend each."""
    without_effect = {}
    of_record: Needs = getattr(kind, "NEEDS", {})
    for name, others in of_record.items():
        for other, wanted in others.items():
            value = values[other]
            if not isinstance(wanted, Unless) and not any(is_same(value, one) for one in wanted):
                mend = " or ".join(map(repr, wanted))
            elif isinstance(wanted, Unless) and is_same(value, wanted.value):
                mend = "another value"
            else:
                continue
            without_effect[name] = f"{name} does nothing with {other}={value!r}; leave it out, or set {other} to {mend}"
            break
    return without_effect


def effective(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a record's options, of all options; those that are known and do nothing are at their defaults."""
    without_effect = [name for name in idle(kind, values) if not isinstance(values[name], Tracer)]
    defaults = {name: kind._field_defaults[name] for name in without_effect}
    return {name: values[name] for name in kind.__annotations__} | defaults


def check_effects(
    kind: Any, values: Mapping[str, Any], settled: Iterable[str], harmless: Mapping[str, Iterable[Any]]
) -> None:
    """Refuse options that were ``settled`` to do something and do nothing.

    Args:
        kind: the record that declares them.
        values: of all options.
        settled: names of options that somebody set. Their default says nothing.
        harmless: more values by name that say nothing, such as those of a recipe.

    Raises:
        UsageError: the first such option, in one line.
    """
    words = idle(kind, values)
    for name in settled:
        defaults = [kind._field_defaults[name], *harmless.get(name, ())] if name in words else []
        if defaults and not any(is_same(values[name], default) for default in defaults):
            raise UsageError(words[name])


def is_same(value: Any, other: Any) -> bool:
    """Whether an option is known to have this value; an array of JAX may be traced the next time."""
    if isinstance(value, Array) or (isinstance(other, bool) and not isinstance(value, bool | np.bool_)):
        return False
    return bool(np.all(value == other))
