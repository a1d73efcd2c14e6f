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
import math
import statistics
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UsageError
from . import sensors
from .clock import Clock
from .integrals import (
    DISAGREEMENT,
    LONGEST_GAP,
    PATIENCE,
    POLL,
    SPACING,
    energy_by_counter,
    energy_by_power,
    idle_and_net,
    power_trace,
    reason_of,
    shortest_trace,
)
from .notes import on_other_processes
from .quantity import Quantity, total, unavailable
from .reading import Opinion, Part, Reading, Sample
from .spans import Stretch, energy_of_spans, spans_of

HANGS = 5.0
"""Seconds after which a driver that does not answer is given up."""


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
        opinions: other tools to run beside it, from `fwdonly.measure.opinions`.
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
        platforms = {
            "gpu" if isinstance(device, str) or device.platform == "cuda" else device.platform for device in devices
        }
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
                self.missing[kind] = reason_of(error)
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
            what = f"{getattr(read, '__name__', 'reading')} failed: {reason_of(error)}"
            if note and what not in self._failures[name]:
                self._failures[name].append(what)
            return None

    def _ticks(self) -> dict[str, tuple[float, float]]:
        """(time, J) of every counter at its next tick. Counters that do not tick are left out."""
        began, ticks, last = self.clock.now(), {}, {}
        waits = {s.name: max(3 * self._periods.get(s.name, PATIENCE / 3), 10 * POLL) for s in self.sensors}
        while waits and self._take(regular=False):
            for name in list(waits):
                sample = self._samples[name][-1]
                if sample.joules is not None and sample.joules != last.setdefault(name, sample.joules):
                    ticks[name] = sample.time, sample.joules
                    del waits[name]
                elif sample.joules is None or sample.time - began > waits[name]:
                    del waits[name]
            self.clock.sleep(POLL)
        return ticks

    def _find_periods(self) -> None:
        """Measure how long every counter takes from tick to tick."""
        began, last = self.clock.now(), {}
        times: dict[str, list[float]] = {sensor.name: [] for sensor in self.sensors}
        waiting = set(times)
        while waiting and self._take(regular=False):
            for name in list(waiting):
                sample, ticks = self._samples[name][-1], times[name]
                if sample.joules is not None and sample.joules != last.setdefault(name, sample.joules):
                    ticks.append(sample.time)
                    last[name] = sample.joules
                if sample.joules is None or len(ticks) == 4 or sample.time - max(ticks, default=began) > PATIENCE:
                    waiting.remove(name)
            self.clock.sleep(POLL)
        for name, ticks in times.items():
            if len(ticks) > 1:
                self._periods[name] = float(np.median(np.diff(ticks)))

    def _idle(self, notes: list[str]) -> dict[str, Quantity]:
        """The power of every sensor in W while the device idles."""
        if not self.idle_seconds or not any(sensor.kind == self.kind for sensor in self.sensors):
            return {}
        first = self._ticks()
        began, left = self.clock.now(), float(self.idle_seconds)
        while left > 0 and not self.hurry():  # in pieces, for a Ctrl-C
            self.clock.sleep(min(left, 0.5))
            left = self.idle_seconds - (self.clock.now() - began)
        second, powers = self._ticks(), {}
        for sensor in self.sensors:
            name, period, drawn, source = sensor.name, self._periods.get(sensor.name), None, sensor.source
            t0, t1 = began, self.clock.now()
            if name in first and name in second:
                (t0, _), (t1, _) = first[name], second[name]
                drawn, _ = energy_by_counter(sensor, self._samples[name], period, t0, t1, first[name], second[name])
            if drawn is None and t1 - t0 >= shortest_trace(sensor):
                drawn, source = energy_by_power(self._samples[name], t0, t1, LONGEST_GAP)[0], sensor.power_source
            if drawn is not None:
                powers[name] = Quantity(drawn / (t1 - t0), "W", "measured", source, derived=True)
            else:
                notes.append(f"idle power of {name} could not be measured in {self.idle_seconds:g} s")
        return powers


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
        self._stretches: list[Stretch] = []
        self._energies: list[dict[str, Quantity]] = []  # of the stretches, by part that counts
        self._outermost, self._stop = False, lambda: None
        self._began: float | None = None
        self._before: dict[str, tuple[float, float]] = {}
        self._state: dict[str, dict[str, Any]] = {}
        self._watching: list[Opinion] = []
        self._opinions: dict[str, Quantity] = {}

    def mark(self, name: str) -> None:
        """Note the time, such as the end of an epoch. It does not wait: call it where the host has waited anyway."""
        self._marks.append((self.meter.clock.now(), name))

    @contextlib.contextmanager
    def span(self, name: str) -> Generator[None]:
        """Tell apart what happens in the body of a ``with``, such as one validation; `Reading.spans` adds it up.

        It waits for nothing: begin and end where the host has waited for the device anyway.
        """
        began = self.meter.clock.now()
        self.meter.sample()
        try:
            yield
        finally:
            self._stretches.append(Stretch(name, began, self.meter.clock.now()))
            self.meter.sample()

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
            self.notes.append(f"the meter failed at the beginning, before the window: {reason_of(error)}")
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
            self.notes.append(f"the meter failed at the beginning of the window: {reason_of(error)}")
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
                answers = self._ask(opinion.name, opinion.stop)
                failed = {opinion.name: unavailable("J", self.notes[-1] if self.notes else "it failed")}
                self._opinions |= failed if answers is None else answers
            state = {sensor.name: self._ask(sensor.name, sensor.state) or {} for sensor in meter.sensors}
            if idle and self._outermost:
                idle_after = meter._idle(self.notes)
        except Exception as error:
            self.notes.append(f"the meter failed at the end of the window: {reason_of(error)}")
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
            self.notes.append(f"the meter failed: {reason_of(error)}")
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
            self.notes.append(f"{name}: {reason_of(error)}")
            return None

    def _summary(self, parts: tuple[Part, ...], ended: float) -> Reading:
        meter, began = self.meter, ended if self._began is None else self._began
        seconds = ended - began
        parts_of_kind = [part for part in parts if part.kind == meter.kind]
        if parts_of_kind:
            energy = total([part.energy for part in parts_of_kind], "J")
            net = total([part.net for part in parts_of_kind], "J")
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
            notes=(*self.notes, *on_other_processes(parts)),
            spans=spans_of(self._stretches, self._energies),
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
        counted, why_not = energy_by_counter(sensor, samples, period, t0, t1, self._before.get(name), after)
        drawn, no_trace = energy_by_power(samples, t0, t1, LONGEST_GAP)
        if drawn is not None and seconds < (least := shortest_trace(sensor)):
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
        powers = [idle[name] for idle in (meter._idle_before, idle_after) if name in idle]
        if sensor.kind == meter.kind:
            self._energies.append(energy_of_spans(sensor, samples, period, energy, seconds, self._stretches))
        idle, net = idle_and_net(energy, seconds, powers, notes)
        if idle.value is not None and energy.value is not None and energy.value < 1.2 * idle.value * seconds:
            notes.append("host-bound: the mean power is within a fifth of idle power")
        edges = {"begin": self._state.get(name, {}), "end": state}
        for edge, condition in edges.items():
            slowed = [why for why in condition.get("throttle") or () if "slowdown" in why or why == "sw_power_cap"]
            if slowed:
                notes.append(f"clocks were held down at the {edge} of the window: {', '.join(slowed)}")
        if any(condition.get("other_processes") for condition in edges.values()):
            notes.append("other processes compute on this GPU; the energy of the board is not this one's alone")
        about = self._ask(name, sensor.about) or {}
        if about.get("memory_apart"):
            notes.append("RAPL counts the memory of this package apart (dram), and it is not in the sum")
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
            about=about,
            trace=power_trace(samples, t0, t1),
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
