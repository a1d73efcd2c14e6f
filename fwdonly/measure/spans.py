"""Energy of what comes again and again within a window, such as validation between the epochs of a training."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import sensors
from .integrals import PERIODS, SHORTEST_TRACE, shortest_trace
from .quantity import Quantity, total
from .reading import Sample, Span

ENOUGH = 20
"""Power samples within the spans of a kind from which on their mean is taken for the power there."""


class Stretch(NamedTuple):
    """Once of it: the times at its edges."""

    name: str
    began: float
    ended: float


def spans_of(stretches: Sequence[Stretch], energies: Sequence[dict[str, Quantity]]) -> dict[str, Span]:
    """Number, seconds and energy by name; ``energies`` are those of every part that counts."""
    spans = {}
    for name in dict.fromkeys(stretch.name for stretch in stretches):
        lengths = [stretch.ended - stretch.began for stretch in stretches if stretch.name == name]
        seconds = Quantity(math.fsum(lengths), "s", "measured", "perf_counter")
        spans[name] = Span(len(lengths), seconds, total([part[name] for part in energies], "J"))
    return spans


def energy_of_spans(
    sensor: sensors.Sensor,
    samples: Sequence[Sample],
    period: float | None,
    energy: Quantity,
    seconds: float,
    stretches: Sequence[Stretch],
) -> dict[str, Quantity]:
    """J of the spans by name, of one sensor: by the best of three ways, each called what it is.

    Measured: differences of the energy counter, where spans last for 20 times as long as a reading of it may lie from
    an edge. Estimated, where they are shorter: the mean of the power samples that fall into them times their seconds,
    if there are 20 and each shows the moment. Else the mean power of the whole window times their seconds, which cannot
    tell whether they draw more or less than the rest.
    """
    energies = {}
    for name in dict.fromkeys(stretch.name for stretch in stretches):
        of_name = [stretch for stretch in stretches if stretch.name == name]
        lasting = math.fsum(stretch.ended - stretch.began for stretch in of_name)
        if energy.value is None:
            energies[name] = energy
            continue
        counted, why_not = _by_counter(sensor, samples, period, of_name)
        if counted is not None:
            energies[name] = Quantity(counted, "J", "measured", sensor.source, derived=True)
            continue
        watts = [
            s.watts
            for s in samples
            if s.watts is not None and any(stretch.began < s.time < stretch.ended for stretch in of_name)
        ]
        if len(watts) >= ENOUGH and shortest_trace(sensor) == SHORTEST_TRACE:
            value, source = statistics.fmean(watts) * lasting, f"mean of {len(watts)} power samples x seconds"
        else:
            value, source = energy.value / seconds * lasting, "mean power of the whole window x seconds"
        energies[name] = Quantity(value, "J", "estimated", source, why_not, derived=True)
    return energies


def _by_counter(
    sensor: sensors.Sensor, samples: Sequence[Sample], period: float | None, stretches: Sequence[Stretch]
) -> tuple[float | None, str | None]:
    """J by the counter, read between two readings in proportion to time; or why not."""
    read = sorted({s.time: s.joules for s in samples if s.joules is not None}.items())
    if period is None or len(read) < 2:
        return None, "the energy counter could not be read"
    times, joules = np.array(read).T
    edges = np.array([(stretch.began, stretch.ended) for stretch in stretches])
    if edges.min() < times[0] or edges.max() > times[-1] or (np.diff(joules) < 0).any():
        return None, "the energy counter was not read throughout"
    after = np.searchsorted(times, edges)
    gap = period + float((times[after] - times[np.maximum(after - 1, 0)]).mean())
    lasting = float((edges[:, 1] - edges[:, 0]).mean())
    if lasting < PERIODS * gap:
        return (
            None,
            f"spans of {lasting:.3f} s are too short for a counter that is known to {gap:.3f} s at their edges",
        )
    at = np.interp(edges, times, joules)
    return float((at[:, 1] - at[:, 0]).sum()), None
