"""Energy out of samples: differences of a counter, and integrals of power."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence

import numpy as np

from . import sensors
from .quantity import Quantity, total, unavailable
from .reading import Sample

PERIODS = 20
"""A window shorter than so many periods of the counter is refused, unless power samples mend the counter's ends."""
SHORTEST_TRACE = 5.0
"""Seconds below which power samples neither stand in for the counter nor mend one that ticks seldom."""
LONGEST_GAP = 1.0
"""Seconds without a power sample beyond which their integral is refused."""
DISAGREEMENT = 0.05
"""Relative difference of counter and integral beyond which the reading says so."""
SPACING = 0.05
"""Seconds that at least lie between two samples asked for by the host loop."""
AVERAGED = 30.0
"""Seconds below which the integral is refused where the driver gives means of a second, or does not say: these lag, and
so make short windows look better than they are."""
POLL = 0.002  # seconds between two looks at a counter whose next tick is awaited
PATIENCE = 2.0  # seconds to wait for a tick of a counter whose period is not known


def energy_by_counter(
    sensor: sensors.Sensor,
    samples: Sequence[Sample],
    period: float | None,
    t0: float,
    t1: float,
    before: tuple[float, float] | None,
    after: tuple[float, float] | None,
) -> tuple[float | None, str | None]:
    """J between t0 and t1 by the counter, from its last tick before to its first one after; or why not.

    What lies between these ticks and the edges is taken off: by the power samples, or where there are none in
    proportion to time. With power samples to do that, a counter that ticks seldom serves where they alone would; then
    there are both, a value and a reason why it is not as good as it could be.
    """
    if before is None or after is None or period is None:
        return None, f"the energy counter could not be read, or stood still, at the {'end' if before else 'beginning'}"
    (a, low), (b, high) = before, after
    read = [(s.time, s.joules) for s in samples if s.joules is not None and a <= s.time <= b]
    if np.any(np.diff([joules for _, joules in read]) < 0):
        return None, "the energy counter went backwards: the driver was loaded anew, or the counter reset"
    if max(np.diff([at for at, _ in read]), default=math.inf) > sensor.longest_gap:
        return None, "the energy counter was not read often enough to see it wrap around"
    few = t1 - t0 < max(PERIODS * period, sensor.shortest)
    why_not = f"{t1 - t0:.2f} s are fewer than {PERIODS} periods of the energy counter, {period:.3f} s each"
    why_not += f", or than {sensor.shortest:g} s" * (PERIODS * period < sensor.shortest)
    head, tail = (energy_by_power(samples, *span, LONGEST_GAP)[0] for span in ((a, t0), (t1, b)))
    if head is None or tail is None:
        if few:
            return None, why_not
        # a tick far beyond its edge, since a slower counter's was awaited too or the host was held up: what was read at
        # the edge itself is a period old at most
        if t0 - a > 2 * period:
            a, low = max(pair for pair in read if pair[0] <= t0)
        if b - t1 > 2 * period:
            b, high = min(pair for pair in read if pair[0] >= t1)
        return (high - low) * (t1 - t0) / (b - a), None
    if few and t1 - t0 < shortest_trace(sensor):
        return None, why_not
    drawn = high - low - head - tail
    if drawn <= 0:  # the power samples cannot be right; that they disagree with the counter is noted elsewhere
        drawn = (high - low) * (t1 - t0) / (b - a)
    return drawn, why_not if few else None


def shortest_trace(sensor: sensors.Sensor) -> float:
    """Seconds from which on the integral of this sensor's power samples may stand for its energy."""
    return SHORTEST_TRACE if sensor.power_source == "nvml_instant_trapz" else AVERAGED


def energy_by_power(samples: Sequence[Sample], t0: float, t1: float, gap: float) -> tuple[float | None, str | None]:
    """J between t0 and t1 by the trapezoidal rule over the power samples; or why not.

    From an edge to the sample next to it within, the power is that sample's: the one taken at the edge itself shows
    what was before the work began or after it had ended. It serves where none lies within.
    """
    points = sorted((s.time, s.watts) for s in samples if s.watts is not None and t0 - gap < s.time < t1 + gap)
    if not points:
        return None, "there is no power reading"
    at, watts = np.array(points).T
    inside = (at > t0) & (at < t1)
    times = np.array([t0, *at[inside], t1])
    longest = float(np.max(np.diff(times)))
    if longest > gap:
        return None, f"the power samples have a gap of {longest:.1f} s"
    if inside.any():
        at, watts = at[inside], watts[inside]
    return float(np.trapezoid(np.interp(times, at, watts), times)), None


def idle_and_net(
    energy: Quantity, seconds: float, powers: Sequence[Quantity], notes: list[str]
) -> tuple[Quantity, Quantity]:
    """Idle power in W, the mean of ``powers``, and the energy less idle power times seconds in J."""
    if not powers:
        reason = "idle power was not measured"
        return unavailable("W", reason), unavailable("J", reason)
    watts = [power.value for power in powers if power.value is not None]
    if max(watts) > 1.1 * min(watts):
        notes.append(f"idle power was {watts[0]:.1f} W before the window and {watts[1]:.1f} W after it")
    idle = dataclasses.replace(total(powers, "W"), value=statistics.fmean(watts))
    if energy.value is None:
        return idle, energy
    value = energy.value - statistics.fmean(watts) * seconds
    return idle, dataclasses.replace(energy, value=value, derived=True)


def power_trace(samples: Sequence[Sample], t0: float, t1: float) -> tuple[tuple[float, float], ...]:
    """(seconds since t0, W) within the window. A sensor without power readings gives the slope of its counter."""
    window = [s for s in samples if s.regular and t0 <= s.time <= t1]
    if any(s.watts is not None for s in window):
        return tuple((s.time - t0, s.watts) for s in window if s.watts is not None)
    read = [(s.time, s.joules) for s in window if s.joules is not None]
    pairs = itertools.pairwise(read)
    return tuple(((a + b) / 2 - t0, (high - low) / (b - a)) for (a, low), (b, high) in pairs if b - a >= SPACING / 2)


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, sensors.Unreadable):
        return str(error)
    words = str(error).splitlines()
    return f"{type(error).__name__}: {words[0]}" if words else type(error).__name__
