"""A figure that says what it is: value, unit, where it comes from, and whether it was measured at all."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal, get_args

from ..errors import UsageError

Status = Literal["measured", "estimated", "unavailable"]
"""From best to worst: a sensor was read; a model was used; there is nothing trustworthy."""


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A value that is missing is None, never 0.

    Attributes:
        value: in ``unit``; None if and only if it is unavailable.
        unit: such as "J", "W", "s", "B", "g".
        status: see `Status`.
        source: the sensor or model, such as "nvml_counter", "rapl_package", "cpu_load_x_tdp".
        reason: why there is no value, or why it does not come from the best source.
        derived: computed from a quantity of this status, such as energy per step.
    """

    value: float | int | None
    unit: str
    status: Status
    source: str
    reason: str | None = None
    derived: bool = False

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise UsageError(f"the status of a quantity is one of {', '.join(get_args(Status))}; got {self.status!r}")
        if (self.value is None) != (self.status == "unavailable") or (self.value is None and not self.reason):
            raise UsageError("a quantity has no value if it is unavailable, with the reason, and one otherwise")
        if self.value is not None and not math.isfinite(self.value):
            raise UsageError(f"a quantity is finite; got {self.value} {self.unit}; use unavailable() with the reason")

    def __str__(self) -> str:
        if self.value is None:
            return f"unavailable ({self.reason})"
        more = [*(["derived"] if self.derived else []), *([self.reason] if self.reason else [])]
        return f"{self.value:.6g} {self.unit} ({', '.join([self.status, self.source, *more])})"

    def times(self, factor: float | int, unit: str) -> "Quantity":
        """The quantity times a number, in another unit, derived; what is unavailable stays so."""
        value = None if self.value is None else self.value * factor
        return dataclasses.replace(self, value=value, unit=unit, derived=True)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)


def unavailable(unit: str, reason: str) -> Quantity:
    """No value, and why."""
    return Quantity(None, unit, "unavailable", "none", reason)


def total(terms: Iterable[Quantity], unit: str) -> Quantity:
    """The sum: with an estimated term it is estimated, with an unavailable one unavailable, as it is of no terms.

    Raises:
        UsageError: a term in another unit.
    """
    terms = tuple(terms)
    for term in terms:
        if term.unit != unit:
            raise UsageError(f"cannot add {term.unit} to {unit}; convert it with Quantity.times")
    values = [term.value for term in terms if term.value is not None]
    if not terms or len(values) < len(terms):
        reasons = dict.fromkeys(term.reason for term in terms if term.value is None)
        return unavailable(unit, "; ".join(map(str, reasons)) or "nothing to add up")
    known = get_args(Status)
    status = known[max(known.index(term.status) for term in terms)]
    sources = "+".join(dict.fromkeys(term.source for term in terms))
    reasons = "; ".join(dict.fromkeys(term.reason for term in terms if term.reason))
    return Quantity(sum(values), unit, status, sources, reasons or None, any(term.derived for term in terms))
