"""What a meter found: samples, parts and readings, with their units and sources."""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..errors import UsageError
from .quantity import Quantity, unavailable


@runtime_checkable
class Opinion(Protocol):
    """Another tool that watches the same window, see `fwdonly.measure.opinions`."""

    name: str

    def start(self) -> None:
        """Begin."""
        ...

    def stop(self) -> dict[str, Quantity]:
        """End; what it says, by name."""
        ...


class Sample(NamedTuple):
    """What a sensor said at ``time`` (s); None where it did not answer."""

    time: float
    watts: float | None
    joules: float | None
    utilisation: float | None
    regular: bool
    """False for the quick looks while a tick of the counter is awaited."""


class Intensity(NamedTuple):
    """Carbon intensity of electricity: g of CO2 equivalents per kWh, with its source and year."""

    g_per_kwh: float | int
    citation: str
    year: int | None = None
    pue: float | int = 1.0
    """Power usage effectiveness: what the building draws per unit that the machine draws."""


@dataclasses.dataclass(frozen=True)
class Span:
    """What came again and again within a window, such as validation: how often, its seconds and its gross energy.

    Its energy says how it is known: "measured" by the counter where it lasted long enough, otherwise "estimated".
    """

    count: int
    seconds: Quantity
    energy: Quantity


@dataclasses.dataclass(frozen=True)
class Part:
    """One board or package during a window; powers in W, energies in J.

    Attributes:
        name, kind: the board's UUID or the package, "gpu" or "cpu".
        energy: all that it drew in the window (gross).
        net: energy less idle power times seconds.
        integral: of the power samples, the cross-check of the counter.
        disagreement: counter over integral, minus 1; None where one of them is missing.
        idle: mean power before and after the window, with the context alive and nothing to do.
        mean_power: energy over seconds.
        utilisation: mean share of busy sample periods, 0..1.
        period: seconds between two ticks of the counter, as found.
        about: device, driver, power limit and persistence mode.
        begin, end: temperature, clocks, throttle reasons and other processes at the edges.
        trace: (time since the window began, W), of the regular samples.
        notes: what a reader of the number must know.
    """

    name: str
    kind: str
    energy: Quantity
    net: Quantity
    integral: Quantity
    disagreement: float | None
    idle: Quantity
    mean_power: Quantity
    utilisation: float | None
    period: float | None
    about: dict[str, Any]
    begin: dict[str, Any]
    end: dict[str, Any]
    trace: tuple[tuple[float, float], ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a window showed.

    Attributes:
        name: of the window.
        seconds: wall clock between the edges; at both the device had nothing left to do.
        energy, net, mean_power: sums over the parts of the devices that compute (GPUs on a GPU, packages on a CPU).
            Gross, net of idle power, and gross over seconds.
        parts: every sensor that was read.
        opinions: what other tools say of about the same window, such as CodeCarbon's estimates; of a window within
            another one, nothing.
        marks: (seconds since the window began, name).
        spans: what was told apart within the window, by name: "validation" of a training.
        repeats: how often the work was done in the window.
        notes: of the window as a whole.
    """

    name: str
    seconds: Quantity
    energy: Quantity
    net: Quantity
    mean_power: Quantity
    parts: tuple[Part, ...]
    opinions: dict[str, Quantity]
    marks: tuple[tuple[float, str], ...]
    repeats: int
    notes: tuple[str, ...]
    spans: dict[str, Span] = dataclasses.field(default_factory=dict)

    def carbon(self, intensity: Intensity) -> Quantity:
        """CO2 equivalents of the energy, in g; see `carbon`."""
        return carbon(self.energy, intensity)

    def without(self, why: str) -> "Reading":
        """The reading of a window that does not hold all of the work; its totals are unavailable."""
        lost = unavailable("J", why)
        power = dataclasses.replace(lost, unit="W")
        spans = {name: dataclasses.replace(span, energy=lost) for name, span in self.spans.items()}
        return dataclasses.replace(self, energy=lost, net=lost, mean_power=power, opinions={}, spans=spans)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, without the traces."""
        bare = [dataclasses.replace(part, trace=()) for part in self.parts]
        plain = dataclasses.asdict(dataclasses.replace(self, parts=tuple(bare)))
        for part in plain["parts"]:
            del part["trace"]
        return plain


def carbon(energy: Quantity, intensity: Intensity) -> Quantity:
    """CO2 equivalents in g: kWh times g/kWh times the building's overhead. At best an estimate.

    Raises:
        UsageError: an intensity without a citation, or below 0.
    """
    if not intensity.citation.strip() or not intensity.g_per_kwh >= 0 or not intensity.pue >= 1:
        raise UsageError("a carbon intensity is 0 g/kWh or more, with a citation, and a PUE of 1 or more")
    if energy.unit != "J":
        raise UsageError(f"carbon is counted of an energy in J; got {energy.unit}")
    grams = energy.times(intensity.g_per_kwh * intensity.pue / 3.6e6, "g")
    year = f" ({intensity.year})" if intensity.year else ""
    source = f"{energy.source} x {intensity.g_per_kwh:g} g/kWh x PUE {intensity.pue:g}, {intensity.citation}{year}"
    return grams if grams.value is None else dataclasses.replace(grams, status="estimated", source=source)
