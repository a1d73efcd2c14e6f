"""Energy of a region of host code: measured where there is a sensor, and said to be unavailable where there is none.

The number is the sensor's own energy counter, read at both edges of a window after the device has finished its work. A
trace of power, sampled meanwhile, is the picture and the cross-check. A reading that fails becomes a reason in the
result; it never becomes zero, and it never ends a training.

    meter = Meter(idle_seconds=30)
    with meter.window("train") as window:
        ...                      # the host loop may call meter.sample() and window.mark("epoch 1")
    print(window.reading.energy)
"""

import contextlib
import dataclasses
import itertools
import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from . import sensors
from .base import UsageError
from .quantity import Quantity, total, unavailable

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

HANGS = 5.0
"""Seconds after which a driver that does not answer is given up."""

AVERAGED = 30.0
"""Seconds below which the integral is refused where the driver gives means of a second, or does not say: these lag, and
so make short windows look better than they are."""

_POLL = 0.002  # seconds between two looks at a counter whose next tick is awaited
_PATIENCE = 2.0  # seconds to wait for a tick of a counter whose period is not known


class Clock:
    """Time, and a thread that wakes at regular intervals; tests put another one in its place."""

    def now(self) -> float:
        """Seconds of a clock that is never set back."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def every(self, seconds: float, f: Callable[[], Any]) -> tuple[Callable[[], None], Callable[[], None]]:
        """Call ``f`` at this interval from a thread of its own; returns what ends that, and what calls it at once."""
        due, ended = threading.Event(), threading.Event()
        # Not too regularly: power that repeats with the steps of a training would always be met at the same point.
        uneven = random.Random(0)

        def loop() -> None:
            while not ended.is_set():
                due.wait(seconds * uneven.uniform(0.7, 1.3))
                due.clear()
                if not ended.is_set():
                    f()

        thread = threading.Thread(target=loop, name="fwdonly-meter", daemon=True)
        thread.start()

        def end() -> None:
            ended.set()
            due.set()
            thread.join(timeout=5.0)  # a driver that hangs must not hold the training up

        return end, due.set


@runtime_checkable
class Opinion(Protocol):
    """Another tool that watches the same window, see `fwdonly.opinions`."""

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
    """Carbon intensity of electricity: g of CO2 equivalents per kWh, whose word that is, and of which year."""

    g_per_kwh: float | int
    citation: str
    year: int | None = None
    pue: float | int = 1.0
    """Power usage effectiveness: what the building draws per unit that the machine draws."""


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

    def carbon(self, intensity: Intensity) -> Quantity:
        """CO2 equivalents of the energy, in g; see `carbon`."""
        return carbon(self.energy, intensity)

    def without(self, why: str) -> "Reading":
        """The reading of a window that does not hold all of the work; its totals are unavailable."""
        lost = unavailable("J", why)
        power = dataclasses.replace(lost, unit="W")
        return dataclasses.replace(self, energy=lost, net=lost, mean_power=power, opinions={})

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


class Meter:
    """Reads what sensors there are around regions of host code.

    Making one never fails for want of hardware: `missing` says what there is not, and its readings say why. Windows may
    lie within windows, of one meter or of several; only the outermost of a meter waits for idle power and starts the
    thread.

    Args:
        devices: JAX devices, or UUIDs of GPUs as ``nvidia-smi -L`` lists them. None: the device JAX computes on.
            Several are read together: the sum, and the parts.
        interval: mean seconds between samples of the background thread; 0.05 or more.
        idle_seconds: how long idle power is measured before and after a window; 0 for not at all.
        opinions: other tools to run beside it, from `fwdonly.opinions`.
        powercap: where RAPL counters are looked for.
        clock: time and thread.

    Raises:
        UsageError: an interval or idle time that is not to be had.
    """

    def __init__(
        self,
        devices: Sequence[Any] | None = None,
        *,
        interval: float = 0.1,
        idle_seconds: float | int = 30.0,
        opinions: Iterable[Opinion] = (),
        powercap: Path = sensors.POWERCAP,
        clock: Clock | None = None,
    ) -> None:
        if not SPACING <= interval <= LONGEST_GAP / 2:
            raise UsageError(f"the interval of power samples lies in {SPACING}..{LONGEST_GAP / 2} s; got {interval}")
        if not 0 <= idle_seconds < math.inf:
            raise UsageError(f"idle_seconds must be 0 or more; got {idle_seconds}")
        self.interval, self.idle_seconds, self.opinions = interval, idle_seconds, tuple(opinions)
        self.clock = clock or Clock()
        devices = list(jnp.zeros(()).devices() if devices is None else devices)
        if not devices:
            raise UsageError("devices is empty; leave it out, or name at least one")
        platforms = {"gpu" if isinstance(own, str) or own.platform == "cuda" else own.platform for own in devices}
        self.kind = "gpu" if "gpu" in platforms else min(platforms)
        self.missing: dict[str, str] = {} if self.kind in ("gpu", "cpu") else {self.kind: f"no sensor of a {self.kind}"}
        self.sensors: list[sensors.Sensor] = []
        wanted: list[tuple[str, Callable[[], list[sensors.Sensor]]]] = [("cpu", lambda: sensors.packages(powercap))]
        if self.kind == "gpu":
            wanted.insert(0, ("gpu", lambda: sensors.boards(devices)))
        for kind, find in wanted:
            try:
                self.sensors += find()
            except Exception as error:  # whatever a driver does, a training must not end for it
                self.missing[kind] = _reason(error)
        self._samples: dict[str, list[Sample]] = {sensor.name: [] for sensor in self.sensors}
        self._failures: dict[str, list[str]] = {sensor.name: [] for sensor in self.sensors}
        self._periods: dict[str, float] = {}
        self._idle_before: dict[str, Quantity] = {}
        self._lock, self._open, self._last = threading.Lock(), 0, -math.inf
        self._soon: Callable[[], None] = lambda: None
        self._hung = False
        self.hurry: Callable[[], bool] = lambda: False
        """True cuts the wait for idle power short; for programs that turn a Ctrl-C into a flag."""

    @contextlib.contextmanager
    def window(self, name: str = "window", *, warm_up: Callable[[], Any] = lambda: None) -> "Generator[Window]":
        """Measure the body of a ``with``; `Window.reading` is there after it, also where the body was interrupted.

        Both edges wait for every array of this process to be computed. The counter is caught at a tick before the
        window and at one after it, and what the two pieces beyond the edges drew is taken off by the power samples.
        ``warm_up`` is called after idle power was measured and before the window.
        """
        window = Window(self, name, warm_up)
        try:
            window._begin()
            yield window
        except BaseException as error:
            window.notes.append(f"interrupted by {type(error).__name__}; this is what was measured until then")
            window._end(idle=False)
            raise
        window._end(idle=window.idle_after)

    def repeat(
        self, f: Callable[[], Any], *, seconds: float | int = 30.0, warm_up: float | int = 0.0, name: str = "window"
    ) -> Reading:
        """Do ``f`` again and again in one window until ``seconds`` have passed; the reading has the number of repeats.

        Before it, and after idle power was measured, ``f`` runs for ``warm_up`` seconds. The host runs ahead of the
        device by one repeat at most. ``f`` returns an array (or a tree) that a later call does not take back.
        """

        def warm() -> None:
            ready = self.clock.now() + warm_up
            while self.clock.now() < ready:
                jax.block_until_ready(f())

        before = None
        with self.window(name, warm_up=warm) as window:
            began = self.clock.now()
            while window.repeats == 0 or self.clock.now() - began < seconds:
                out = f()
                jax.block_until_ready(before)
                before = out
                window.repeats += 1
                self.sample()
        assert window.reading is not None
        return window.reading

    def sample(self) -> None:
        """Have the power read now, for host loops between compiled chunks; at most every 0.05 s, and never waits.

        The thread reads it: a loop that did so itself would let the device run dry.
        """
        now = self.clock.now()
        if self._open and now - self._last >= SPACING:
            self._last = now
            self._soon()

    def _take(self, *, regular: bool = True) -> bool:
        """Ask every sensor; what it does not answer is None, and why is kept. False: the driver has not come back.

        Looks that are not regular come every 2 ms; some boards have no power reading that often, which is no failure.
        """
        if self._hung or not self._lock.acquire(timeout=HANGS):
            self._hung = True
            return False
        try:
            self._last = self.clock.now()
            for sensor in self.sensors:
                now = self.clock.now()
                watts = self._read(sensor.name, sensor.watts, note=regular)
                joules = self._read(sensor.name, sensor.joules, note=True)
                busy = self._read(sensor.name, sensor.utilisation, note=True) if regular else None
                self._samples[sensor.name].append(Sample(now, watts, joules, busy, regular))
        finally:
            self._lock.release()
        return True

    def _read(self, name: str, read: Callable[[], float | None], *, note: bool) -> float | None:
        try:
            return read()
        except Exception as error:
            what = f"{getattr(read, '__name__', 'reading')} failed: {_reason(error)}"
            if note and what not in self._failures[name]:
                self._failures[name].append(what)
            return None

    def _ticks(self) -> dict[str, tuple[float, float]]:
        """(time, J) of every counter at its next tick; without those that do not tick."""
        began, found, last = self.clock.now(), {}, {}
        waits = {s.name: max(3 * self._periods.get(s.name, _PATIENCE / 3), 10 * _POLL) for s in self.sensors}
        while waits and self._take(regular=False):
            for name in list(waits):
                sample = self._samples[name][-1]
                if sample.joules is not None and sample.joules != last.setdefault(name, sample.joules):
                    found[name] = sample.time, sample.joules
                    del waits[name]
                elif sample.joules is None or sample.time - began > waits[name]:
                    del waits[name]
            self.clock.sleep(_POLL)
        return found

    def _find_periods(self) -> None:
        """How long the counters take from tick to tick."""
        began, last = self.clock.now(), {}
        times: dict[str, list[float]] = {sensor.name: [] for sensor in self.sensors}
        waiting = set(times)
        while waiting and self._take(regular=False):
            for name in list(waiting):
                sample, found = self._samples[name][-1], times[name]
                if sample.joules is not None and sample.joules != last.setdefault(name, sample.joules):
                    found.append(sample.time)
                    last[name] = sample.joules
                if sample.joules is None or len(found) == 4 or sample.time - max(found, default=began) > _PATIENCE:
                    waiting.remove(name)
            self.clock.sleep(_POLL)
        for name, found in times.items():
            if len(found) > 1:
                self._periods[name] = float(np.median(np.diff(found)))

    def _idle(self, notes: list[str]) -> dict[str, Quantity]:
        """W of every sensor while nothing is asked of it."""
        if not self.idle_seconds or not any(sensor.kind == self.kind for sensor in self.sensors):
            return {}
        first = self._ticks()
        began, left = self.clock.now(), float(self.idle_seconds)
        while left > 0 and not self.hurry():  # in pieces, for a Ctrl-C
            self.clock.sleep(min(left, 0.5))
            left = self.idle_seconds - (self.clock.now() - began)
        second, found = self._ticks(), {}
        for sensor in self.sensors:
            name, period, drawn, source = sensor.name, self._periods.get(sensor.name), None, sensor.source
            t0, t1 = began, self.clock.now()
            if name in first and name in second:
                (t0, _), (t1, _) = first[name], second[name]
                drawn, _ = _counted(sensor, self._samples[name], period, t0, t1, first[name], second[name])
            if drawn is None and t1 - t0 >= _shortest_trace(sensor):
                drawn, source = _integral(self._samples[name], t0, t1, LONGEST_GAP)[0], sensor.power_source
            if drawn is not None:
                found[name] = Quantity(drawn / (t1 - t0), "W", "measured", source, derived=True)
            else:
                notes.append(f"idle power of {name} could not be measured in {self.idle_seconds:g} s")
        return found


class Window:
    """A region under measurement, made by `Meter.window`."""

    def __init__(self, meter: Meter, name: str, warm_up: Callable[[], Any]) -> None:
        self.meter, self.name, self.warm_up = meter, name, warm_up
        self.reading: Reading | None = None
        """After the region has ended."""
        self.repeats = 0
        self.idle_after = True
        """False saves the wait for idle power at the end, such as where somebody wants to stop."""
        self.notes: list[str] = []
        self._marks: list[tuple[float, str]] = []
        self._outermost, self._stop = False, lambda: None
        self._began: float | None = None
        self._before: dict[str, tuple[float, float]] = {}
        self._state: dict[str, dict[str, Any]] = {}
        self._watching: list[Opinion] = []
        self._opinions: dict[str, Quantity] = {}

    def mark(self, name: str) -> None:
        """Note the time, such as the end of an epoch. It does not wait: call it where the host has waited anyway."""
        self._marks.append((self.meter.clock.now(), name))

    def _begin(self) -> None:
        meter = self.meter
        self._outermost = meter._open == 0
        meter._open += 1
        if self._outermost:
            meter._idle_before = {}
        try:
            wait_for_devices()
            if self._outermost and meter.sensors:
                self._stop, meter._soon = meter.clock.every(meter.interval, meter._take)
                if not meter._periods:
                    meter._find_periods()
                meter._idle_before = meter._idle(self.notes)
        except Exception as error:
            self.notes.append(f"the meter failed at the beginning, before the window: {_reason(error)}")
        self.warm_up()
        try:
            for opinion in meter.opinions if self._outermost else ():
                if self._ask(opinion.name, lambda opinion=opinion: (opinion.start(), True)):
                    self._watching.append(opinion)
                else:
                    self._opinions[opinion.name] = unavailable("J", self.notes[-1])
            self._state = {sensor.name: self._ask(sensor.name, sensor.state) or {} for sensor in meter.sensors}
            wait_for_devices()
            self._before = meter._ticks()
            meter._take()
        except Exception as error:
            self.notes.append(f"the meter failed at the beginning of the window: {_reason(error)}")
        self._began = meter.clock.now()

    def _end(self, *, idle: bool) -> None:
        meter, after, state, idle_after = self.meter, {}, {}, {}
        ended, interrupt = None, None
        try:
            wait_for_devices()
            ended = meter.clock.now()
            meter._take()
            after = meter._ticks()
            for opinion in self._watching:
                said = self._ask(opinion.name, opinion.stop)
                failed = {opinion.name: unavailable("J", self.notes[-1] if self.notes else "it failed")}
                self._opinions |= failed if said is None else said
            state = {sensor.name: self._ask(sensor.name, sensor.state) or {} for sensor in meter.sensors}
            if idle and self._outermost:
                idle_after = meter._idle(self.notes)
        except Exception as error:
            self.notes.append(f"the meter failed at the end of the window: {_reason(error)}")
        except BaseException as error:  # a Ctrl-C while idle power is measured: the reading is there even so
            self.notes.append(f"interrupted by {type(error).__name__} after the body of the window")
            interrupt = error
        finally:
            self._stop()
            meter._open -= 1
        ended = meter.clock.now() if ended is None else ended
        try:
            parts = [
                self._part(sensor, ended, after.get(sensor.name), state.get(sensor.name, {}), idle_after)
                for sensor in meter.sensors
                if self._began is not None
            ]
        except Exception as error:
            self.notes.append(f"the meter failed: {_reason(error)}")
            parts = []
        if meter._hung:
            self.notes.append(f"the driver has not answered for {HANGS:g} s; it is not asked any more")
        self.reading = self._summary(tuple(parts), ended)
        if self._outermost:
            for name in meter._samples:
                meter._samples[name], meter._failures[name] = [], []
        if interrupt is not None:
            raise interrupt

    def _ask(self, name: str, f: Callable[[], Any]) -> Any:
        """What ``f`` returns; where it fails, None and a note."""
        if self.meter._hung:
            return None
        try:
            return f()
        except Exception as error:
            self.notes.append(f"{name}: {_reason(error)}")
            return None

    def _summary(self, parts: tuple[Part, ...], ended: float) -> Reading:
        meter, began = self.meter, ended if self._began is None else self._began
        seconds = ended - began
        own = [part for part in parts if part.kind == meter.kind]
        if own:
            energy, net = total([part.energy for part in own], "J"), total([part.net for part in own], "J")
        else:
            energy = net = unavailable(
                "J", meter.missing.get(meter.kind) or "; ".join(self.notes) or "nothing was read"
            )
        power = energy.times(1 / seconds, "W") if seconds > 0 else unavailable("W", "the window has no length")
        return Reading(
            name=self.name,
            seconds=Quantity(seconds, "s", "measured", "perf_counter"),
            energy=energy,
            net=net,
            mean_power=power,
            parts=parts,
            opinions=self._opinions,
            marks=tuple((at - began, name) for at, name in self._marks),
            repeats=max(1, self.repeats),
            notes=tuple(self.notes),
        )

    def _part(
        self,
        sensor: sensors.Sensor,
        t1: float,
        after: tuple[float, float] | None,
        state: dict[str, Any],
        idle_after: dict[str, Quantity],
    ) -> Part:
        meter, name, t0 = self.meter, sensor.name, self._began
        assert t0 is not None
        seconds, samples, notes = t1 - t0, meter._samples[name], list(meter._failures[name])
        period = meter._periods.get(name)
        counted, why_not = _counted(sensor, samples, period, t0, t1, self._before.get(name), after)
        drawn, no_trace = _integral(samples, t0, t1, LONGEST_GAP)
        if drawn is not None and seconds < (least := _shortest_trace(sensor)):
            drawn, no_trace = None, f"{seconds:.2f} s are too few for the power samples ({least:g} s)"
        integral = unavailable("J", str(no_trace))
        if drawn is not None:
            integral = Quantity(drawn, "J", "measured", sensor.power_source)
        if counted is not None:
            energy = Quantity(counted, "J", "measured", sensor.source, why_not)
        elif integral.value is not None:
            energy = dataclasses.replace(integral, reason=why_not)
        else:
            energy = unavailable("J", f"{why_not}; {no_trace}; measure longer, or repeat the work with Meter.repeat")
        disagreement = None if counted is None or not drawn else counted / drawn - 1
        if disagreement is not None and abs(disagreement) > DISAGREEMENT:
            notes.append(
                f"the counter's {counted:.4g} J and the integral of the power samples, {drawn:.4g} J, "
                f"disagree by {100 * abs(disagreement):.1f} %"
            )
        idle, net = _idle_and_net(energy, seconds, sensor, meter, idle_after, notes)
        if idle.value is not None and energy.value is not None and energy.value < 1.2 * idle.value * seconds:
            notes.append("host-bound: the mean power is within a fifth of idle power")
        edges = {"begin": self._state.get(name, {}), "end": state}
        for edge, found in edges.items():
            slowed = [why for why in found.get("throttle") or () if "slowdown" in why or why == "sw_power_cap"]
            if slowed:
                notes.append(f"clocks were held down at the {edge} of the window: {', '.join(slowed)}")
        if any(found.get("other_processes") for found in edges.values()):
            notes.append("other processes compute on this GPU; the energy of the board is not this one's alone")
        busy = [s.utilisation for s in samples if s.utilisation is not None and t0 <= s.time <= t1]
        return Part(
            name=name,
            kind=sensor.kind,
            energy=energy,
            net=net,
            integral=integral,
            disagreement=disagreement,
            idle=idle,
            mean_power=energy.times(1 / seconds, "W") if seconds > 0 else unavailable("W", "no length"),
            utilisation=statistics.fmean(busy) if busy else None,
            period=period,
            about=self._ask(name, sensor.about) or {},
            trace=_trace(samples, t0, t1),
            notes=tuple(notes),
            **edges,
        )


def wait_for_devices() -> None:
    """Wait until every array of this process has been computed and every side effect has happened.

    Results that nobody keeps are no arrays any more: a small program on every device, which runs after what was
    dispatched before, waits for those.
    """
    jax.effects_barrier()
    jax.block_until_ready([_last_in_line(jax.device_put(np.int32(0), device)) for device in jax.local_devices()])
    for array in jax.live_arrays():
        if not array.is_deleted():
            array.block_until_ready()


_last_in_line = jax.jit(lambda x: x + 1)


def _counted(
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
    head, tail = (_integral(samples, *span, LONGEST_GAP)[0] for span in ((a, t0), (t1, b)))
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
    if few and t1 - t0 < _shortest_trace(sensor):
        return None, why_not
    drawn = high - low - head - tail
    if drawn <= 0:  # the power samples cannot be right; that they disagree with the counter is noted elsewhere
        drawn = (high - low) * (t1 - t0) / (b - a)
    return drawn, why_not if few else None


def _shortest_trace(sensor: sensors.Sensor) -> float:
    """Seconds from which on the integral of this sensor's power samples may stand for its energy."""
    return SHORTEST_TRACE if sensor.power_source == "nvml_instant_trapz" else AVERAGED


def _integral(samples: Sequence[Sample], t0: float, t1: float, gap: float) -> tuple[float | None, str | None]:
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


def _idle_and_net(
    energy: Quantity,
    seconds: float,
    sensor: sensors.Sensor,
    meter: Meter,
    idle_after: dict[str, Quantity],
    notes: list[str],
) -> tuple[Quantity, Quantity]:
    """Idle power in W, and the energy less idle power times seconds in J."""
    found = [idle[sensor.name] for idle in (meter._idle_before, idle_after) if sensor.name in idle]
    if not found:
        reason = "idle power was not measured"
        return unavailable("W", reason), unavailable("J", reason)
    watts = [own.value for own in found if own.value is not None]
    if max(watts) > 1.1 * min(watts):
        notes.append(f"idle power was {watts[0]:.1f} W before the window and {watts[1]:.1f} W after it")
    idle = dataclasses.replace(total(found, "W"), value=statistics.fmean(watts))
    if energy.value is None:
        return idle, energy
    value = energy.value - statistics.fmean(watts) * seconds
    return idle, dataclasses.replace(energy, value=value, derived=True)


def _trace(samples: Sequence[Sample], t0: float, t1: float) -> tuple[tuple[float, float], ...]:
    """(seconds since t0, W) within the window; of a sensor without power readings the slope of its counter."""
    own = [s for s in samples if s.regular and t0 <= s.time <= t1]
    if any(s.watts is not None for s in own):
        return tuple((s.time - t0, s.watts) for s in own if s.watts is not None)
    read = [(s.time, s.joules) for s in own if s.joules is not None]
    pairs = itertools.pairwise(read)
    return tuple(((a + b) / 2 - t0, (high - low) / (b - a)) for (a, low), (b, high) in pairs if b - a >= SPACING / 2)


def _reason(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, sensors.Unreadable):
        return str(error)
    words = str(error).splitlines()
    return f"{type(error).__name__}: {words[0]}" if words else type(error).__name__
