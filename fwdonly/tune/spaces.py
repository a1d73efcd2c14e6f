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
        UsageError: no mapping, or one to something that is neither a range of numbers nor choices.
    """
    if not isinstance(space, Mapping):
        raise UsageError(f"space maps names to a Range, or to a tuple of choices; got a {type(space).__name__}")
    plain_space: dict[str, Any] = {}
    for name, domain in space.items():
        try:
            if isinstance(domain, str):  # of which the letters would be the choices
                raise TypeError("no tuple")
            plain_space[name] = _plain_range(domain) if isinstance(domain, Range) else tuple(map(_plain_choice, domain))
        except TypeError as error:
            raise UsageError(f"{name} needs a Range of two numbers, or a tuple of choices; got {domain!r}") from error
    return plain_space


def _plain_range(domain: Range) -> Range:
    return Range(number(domain.low, float), number(domain.high, float), number(domain.log, bool))


def _plain_choice(choice: Any) -> Any:
    if isinstance(choice, np.generic | np.ndarray):
        choice = choice.tolist()
    return tuple(map(_plain_choice, choice)) if isinstance(choice, tuple | list) else choice


def distributions(optuna: Any, space: Space) -> dict[str, Any]:
    """Optuna's distribution for every name."""
    kinds = optuna.distributions
    return {
        name: kinds.FloatDistribution(domain.low, domain.high, log=domain.log)
        if isinstance(domain, Range)
        else kinds.CategoricalDistribution([packed(choice) for choice in domain])
        for name, domain in space.items()
    }


def packed(choice: Any) -> Any:
    return choice if isinstance(choice, str | int | float | bool | None) else "json:" + json.dumps(choice)


def unpacked(choice: Any) -> Any:
    if not (isinstance(choice, str) and choice.startswith("json:")):
        return choice
    value = json.loads(choice.removeprefix("json:"))
    return tuple(value) if isinstance(value, list) else value


def within(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that belong to the space, moved to its border where they lie outside."""
    inside = {}
    for name, domain in space.items():
        if name in values and isinstance(domain, Range):
            inside[name] = min(max(float(values[name]), domain.low), domain.high)
        elif name in values and not isinstance(domain, Range) and values[name] in domain:
            inside[name] = packed(values[name])
    return inside
