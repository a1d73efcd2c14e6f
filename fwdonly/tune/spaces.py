"""The space of a search: plain numbers, Optuna's form of it, and choices of any kind as text."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..card import Range, Space
from ..errors import UsageError, number


def settled(space: Space) -> dict[str, Any]:
    """The space with plain numbers, which every storage can keep.

    Raises:
        UsageError: the ends of a range are no numbers.
    """
    found: dict[str, Any] = {}
    for name, own in space.items():
        try:
            found[name] = _plain_range(own) if isinstance(own, Range) else tuple(map(_plain_choice, own))
        except TypeError as error:
            raise UsageError(f"{name} needs a Range of two numbers, or a tuple of choices; got {own!r}") from error
    return found


def _plain_range(own: Range) -> Range:
    return Range(number(own.low, float), number(own.high, float), number(own.log, bool))


def _plain_choice(choice: Any) -> Any:
    if isinstance(choice, np.generic | np.ndarray):
        choice = choice.tolist()
    return tuple(map(_plain_choice, choice)) if isinstance(choice, tuple | list) else choice


def distributions(optuna: Any, space: Space) -> dict[str, Any]:
    """Optuna's, of every name."""
    kinds = optuna.distributions
    return {
        name: kinds.FloatDistribution(own.low, own.high, log=own.log)
        if isinstance(own, Range)
        else kinds.CategoricalDistribution([packed(choice) for choice in own])
        for name, own in space.items()
    }


def packed(choice: Any) -> Any:
    return choice if isinstance(choice, str | int | float | bool | None) else "json:" + json.dumps(choice)


def unpacked(choice: Any) -> Any:
    if not (isinstance(choice, str) and choice.startswith("json:")):
        return choice
    found = json.loads(choice.removeprefix("json:"))
    return tuple(found) if isinstance(found, list) else found


def within(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that belong to the space, moved to its border where they lie outside."""
    inside = {}
    for name, own in space.items():
        if name in values and isinstance(own, Range):
            inside[name] = min(max(float(values[name]), own.low), own.high)
        elif name in values and not isinstance(own, Range) and values[name] in own:
            inside[name] = packed(values[name])
    return inside
