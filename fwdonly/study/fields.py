"""Options as their records declare them: name, type, default and help stand once, in the record's source."""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Field(NamedTuple):
    """One option of a record."""

    name: str
    type: Any
    """As a command line can give it: arrays are numbers there."""
    default: Any
    help: str

    @property
    def flag(self) -> str:
        """The name on a command line."""
        return f"--{self.name.replace('_', '-')}"


@functools.cache
def declared(kind: type) -> tuple[Field, ...]:
    """The options of a NamedTuple or a dataclass, with the docstrings under its fields as help."""
    hints = typing.get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        missing = (dataclasses.MISSING,)
        defaults = {f.name: None if f.default in missing else f.default for f in dataclasses.fields(kind)}
    else:
        defaults = {name: getattr(kind, "_field_defaults").get(name) for name in getattr(kind, "_fields")}  # noqa: B009
    helps = _docstrings(kind)
    return tuple(Field(name, plain(hints[name]), defaults[name], helps.get(name, "")) for name in defaults)


def of_function(function: Callable[..., Any]) -> tuple[Field, ...]:
    """The options of a function: its keywords whose defaults are numbers, switches or words."""
    fields = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and isinstance(parameter.default, bool | int | float | str):
            fields.append(Field(name, type(parameter.default), parameter.default, ""))
    return tuple(fields)


def plain(hint: Any) -> Any:
    """A type without arrays: ``float | Array | None`` is ``float | None`` on a command line."""
    if hint is Any:
        return float
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    kept = [part for part in typing.get_args(hint) if not (isinstance(part, type) and issubclass(part, jax.Array))]
    return functools.reduce(lambda a, b: a | b, kept)


def _docstrings(kind: type) -> dict[str, str]:
    """The text under each field, or its entry under "Attributes" in the docstring of the class."""
    texts: dict[str, str] = {}
    attributes = (kind.__doc__ or "").partition("Attributes:")[2]
    for name, text in re.findall(r"\n {8}(\w+): (.*?)(?=\n {8}\w+: |\Z)", attributes, re.S):
        texts[name] = text
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    before = None
    for node in getattr(body, "body", ()):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and before:
            texts[before] = str(node.value.value)
        is_field = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        before = node.target.id if is_field else None
    return {name: " ".join(text.split()) for name, text in texts.items()}
