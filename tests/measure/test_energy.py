"""Energy against scripted worlds (``fake_power``): the truth is the scripted power, integrated between the edges.

Boards, counters, RAPL's files and the clock are scripted, and every failure is planted. Expectations come from that
script, from the arithmetic in a docstring or from the documented behaviour, never from what the code returns.
"""

import inspect
import itertools
import json
import logging
import math
import os
import socket
import sys
import threading
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_power import Gpu, Ramp, Rapl, Square, Steps, World, average, nvml, sampled

from fwdonly import UsageError, measure
from fwdonly.measure import Clock, Intensity, Meter, Quantity, Sample, carbon, integrals, sensors, total, unavailable
from fwdonly.measure import meter as meter_module

IDLE, BUSY = 60.0, 300.0
PHASES = 0.0, 0.13, 0.37, 0.5, 0.86


@pytest.fixture(autouse=True)
def _no_gpu_variables(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """A meter of scripted boards in a scripted world."""

    def make(world, *gpus, devices=None, init=None, **options):
        monkeypatch.setitem(sys.modules, "pynvml", nvml(world, list(gpus), init=init))
        devices = [gpu.uuid for gpu in gpus] if devices is None else devices
        return Meter(devices, **{"idle_seconds": 0, "powercap": tmp_path / "none", "clock": world} | options)

    return make


@pytest.fixture
def rapl(monkeypatch, tmp_path):
    """A meter of the processor packages under ``tmp_path``; the processors of this machine are out of its sight."""
    monkeypatch.setattr(sensors, "STAT", tmp_path / "stat")

    def make(world, **options):
        return Meter(**{"idle_seconds": 0, "powercap": tmp_path, "clock": world} | options)

    return make


def run(meter, seconds, load=None):
    """A window of ``seconds``, with ``load`` busy in it; the reading and the true edges."""
    world = meter.clock
    with meter.window() as window:
        begin = world.time
        if load is not None:
            load.set(begin, BUSY)
        world.work(seconds)
        end = world.time
        if load is not None:
            load.set(end, IDLE)
    return window.reading, (begin, end)


def close(found, truth, within=0.01):
    """A quantity has the value of the script."""
    assert found.value == pytest.approx(truth, rel=within), found


def said(notes, *words):
    """One of the notes has all of these words."""
    assert any(all(word in note for word in words) for note in notes), (words, notes)


def unmeasured(quantity, *words):
    """There is no value, not even 0, and the reason has these words."""
    assert (quantity.value, quantity.status) == (None, "unavailable"), quantity
    said([quantity.reason], *words)


def gpu_device(number):
    """What JAX shows of a GPU."""
    return types.SimpleNamespace(platform="gpu", local_hardware_id=number)


# Accuracy

CURVES = {
    "constant": lambda length, phase: Steps((0.0, 250.0)),
    "ramp": lambda length, phase: Ramp(1001 + phase, 1001 + length, 80.0, 300.0),
    "square of 3 s": lambda length, phase: Square(100.0, 300.0, 3.0, 3 * phase),
    "square of 0.73 s": lambda length, phase: Square(100.0, 300.0, 0.73, 0.73 * phase),
    "square as long as a tick": lambda length, phase: Square(100.0, 300.0, 0.1, 0.1 * phase),
    "burst": lambda length, phase: Steps((0.0, IDLE)),
    "noise": lambda length, phase: Steps((0.0, 250.0)),
}
PERIODS = 0.1, 0.5, 1.0
NOISE = 20.0
LAGS = {"": lambda watts: watts, "25 of 100 ms": sampled, "mean of 1 s": average}


def measured_window(scripted, curve, length, phase, period, **options):
    """A window of one of the curves: the reading, the truth in J and the seconds."""
    world, watts = World(), CURVES[curve](length, phase)
    board = {"counter": False} if period is None else {"period": period}
    gpu = Gpu("GPU-a", watts, noise=NOISE if curve == "noise" else 0.0, **board)
    meter = scripted(world, gpu, **options)
    for owner, names in ((meter.sensors[0], ("watts", "joules", "utilisation")), (meter, ("_read", "_take"))):
        for name in names:  # annotations are checked elsewhere; in 400,000 readings that takes a minute
            setattr(owner, name, inspect.unwrap(getattr(type(owner), name)).__get__(owner))
    reading, edges = run(meter, length + phase * (period or 0.1), watts if curve == "burst" else None)
    return reading, gpu.joules(*edges), edges[1] - edges[0]


@pytest.mark.parametrize("length", [5.0, 10.0, 30.0])
@pytest.mark.parametrize("period", PERIODS, ids="tick of {} s".format)
@pytest.mark.parametrize("curve", CURVES)
def test_energy_is_the_scripted_one_within_one_per_cent(scripted, curve, period, length):
    for phase in PHASES if length == 5 and period == 0.1 else PHASES[1::2] if length > 5 else PHASES[::2]:
        reading, truth, seconds = measured_window(scripted, curve, length, phase, period)
        found = reading.energy
        close(found, truth, 0.005)
        assert (found.source, found.status, found.unit, found.derived) == ("nvml_counter", "measured", "J", False)
        assert bool(found.reason) == (seconds < 20 * period - 0.1)  # a counter as slow as that is not the best source
        assert reading.seconds.value == pytest.approx(seconds, abs=1e-9)
        close(reading.mean_power, truth / seconds, 0.005)


@pytest.mark.parametrize("lag", LAGS)
def test_a_power_sensor_that_lags_costs_a_tick_of_the_counter_at_most(scripted, lag):
    """Just after the work it still shows 300 W for 60 W (sheet, section 3); 0.1 s of 240 W are 24 J."""
    for phase, length in itertools.product(PHASES[::2], (5.0, 30.0)):
        load = Steps((0.0, IDLE))
        gpu = Gpu("GPU-a", load, shown=LAGS[lag](load))
        reading, edges = run(scripted(World(), gpu), length + phase * 0.1, load)
        truth = gpu.joules(*edges)
        assert abs(reading.energy.value - truth) < (25 if lag else 1)
        if lag == "mean of 1 s" and length == 5:  # control, it does lag: 0.5 s of 240 W are missing in the samples
            assert reading.parts[0].integral.value == pytest.approx(truth - 120, rel=0.02)
            said(reading.parts[0].notes, "disagree")


@pytest.mark.parametrize("length", [5.0, 10.0, 30.0])
@pytest.mark.parametrize("curve", [curve for curve in CURVES if curve != "square as long as a tick"])
def test_without_a_counter_the_samples_find_the_energy(scripted, curve, length):
    """Within 1 %; of a wave, whose jumps lie between samples, 2 % in 5 s, and of noise three standard errors."""
    within = 0.01
    if curve == "square of 0.73 s":
        within = 0.02
    elif curve == "noise":
        within = 3 * NOISE / 250 / math.sqrt(length / 0.1)
    for phase in PHASES[::2]:
        reading, truth, _ = measured_window(scripted, curve, length, phase, None)
        close(reading.energy, truth, within)
        assert (reading.energy.source, reading.energy.status) == ("nvml_instant_trapz", "measured")
        assert reading.energy.reason  # why it is not the counter's


def test_the_scripted_curves_have_the_energy_of_their_power():
    """The oracle itself: closed forms against sums over 1e-3 s."""
    for curve, phase in itertools.product(CURVES, PHASES):
        watts = CURVES[curve](10.0, phase)
        at = np.arange(999.0005, 1017.3, 1e-3)
        assert watts.upto(1017.3) - watts.upto(999.0) == pytest.approx(sum(map(watts, at)) * 1e-3, rel=1e-3)


SHEET = Steps((0.0, 60.0), (10.0, 120.0), (20.0, 90.0), (40.0, 60.0))  # measurement.md, section 12


@pytest.mark.parametrize("period", [0.1, 0.5, 1.0])
def test_the_sheets_window_is_3000_joules(scripted, world, period):
    """From 10 s to 40 s of the sheet's script: 10 x 120 + 20 x 90 J."""
    load = Steps((0.0, 60.0))
    meter = scripted(world, Gpu("GPU-a", load, period=period), interval=0.05)
    with meter.window() as window:
        for at, watts in ((0, 120.0), (10, 90.0), (30, 60.0)):
            load.set(world.time + at, watts)
        world.work(30)
    close(window.reading.energy, 3000, 0.001)
    close(window.reading.parts[0].integral, 3000, 0.002)
    assert window.reading.energy.source == "nvml_counter"
    assert abs(window.reading.parts[0].disagreement) < 0.002


def test_the_sheets_trapezoid_at_50_ms():
    """2998.5 J with the reading of 60 W at 40 s, 0.75 J more where the power just before it is held to the edge."""
    samples = [Sample(k * 0.05, SHEET(k * 0.05 + 1e-9), None, None, True) for k in range(1000)]
    drawn, reason = integrals.energy_by_power(samples, 10.0, 40.0, 1.0)
    assert reason is None
    assert 2998.5 - 1e-3 <= drawn <= 3000


def test_a_window_between_two_ticks_is_refused_and_never_zero(scripted, world):
    """The sheet's 10.03 to 10.06 s: the counter shows the same at both edges."""
    reading, _ = run(scripted(world, Gpu("GPU-a", SHEET)), 0.03)
    for found in (reading.energy, reading.net, reading.mean_power, reading.parts[0].integral):
        unmeasured(found)
    unmeasured(reading.energy, "20 periods", "repeat")
    assert reading.seconds.value == pytest.approx(0.03)


@pytest.mark.parametrize(("seconds", "measured"), [(1.9, False), (2.2, True)])
def test_a_window_has_at_least_20_periods(scripted, world, seconds, measured):
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)))
    reading, edges = run(scripted(world, gpu), seconds)
    if measured:
        close(reading.energy, gpu.joules(*edges))
    else:
        unmeasured(reading.energy, "20 periods")


@pytest.mark.parametrize(("seconds", "measured"), [(1.9, False), (2.1, True)])
def test_a_gpus_window_has_at_least_two_seconds(scripted, world, seconds, measured):
    """However often its counter ticks: 20 periods of 0.02 s are 0.4 s."""
    reading, _ = run(scripted(world, Gpu("GPU-a", Steps((0.0, 250.0)), period=0.02)), seconds)
    assert (reading.energy.value is not None) == measured


def test_the_period_of_each_counter_is_found_beside_slower_ones(scripted, world):
    gpus = [Gpu(f"GPU-{period}", Steps((0.0, 200.0)), period=period) for period in (1.0, 0.1, 0.5, 0.02)]
    reading, _ = run(scripted(world, *gpus), 3)
    for part, gpu in zip(reading.parts, gpus, strict=True):
        assert part.period == pytest.approx(gpu.period, abs=0.01)


# Failures


def test_a_reset_of_the_counter_is_said_and_the_samples_stand_in(scripted, world):
    gpu = Gpu("GPU-a", Square(100.0, 300.0, 3.0), reset=1004.0)
    reading, edges = run(scripted(world, gpu), 10)
    close(reading.energy, gpu.joules(*edges))
    assert reading.energy.source == "nvml_instant_trapz"
    assert "backwards" in reading.energy.reason
    reading, _ = run(scripted(World(), Gpu("GPU-a", Steps((0.0, 100.0)), reset=1001.5)), 3)
    unmeasured(reading.energy, "backwards", "3.00 s are too few")


def test_a_reset_while_idle_power_is_measured_makes_no_energy_up(scripted, world):
    """The counter starts from 0 within the first 10 s: its difference there is -5e5 J."""
    gpu = Gpu("GPU-a", Steps((0.0, IDLE)), reset=1004.0)
    reading, edges = run(scripted(world, gpu, idle_seconds=10), 10, gpu.watts)
    close(reading.energy, gpu.joules(*edges))
    close(reading.parts[0].idle, IDLE)
    close(reading.net, gpu.joules(*edges) - IDLE * 10)


def test_a_device_that_vanishes_is_reported(scripted, world):
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)), lost=1004.0)
    reading, _ = run(scripted(world, gpu, idle_seconds=0), 10)
    part = reading.parts[0]
    for found in (reading.energy, reading.net, reading.mean_power, part.energy, part.net, part.integral):
        unmeasured(found)
    unmeasured(reading.energy, "at the end", "gap")
    said(part.notes, "joules", "GpuIsLost")
    said(part.notes, "watts", "GpuIsLost")
    assert reading.seconds.value == pytest.approx(10)


def test_a_gap_in_the_samples_refuses_their_integral_and_not_the_counter(scripted, world):
    def gap(seconds):
        gpu = Gpu("GPU-a", Steps((0.0, 250.0)), deaf=(1004.0, 1004.0 + seconds))
        reading, edges = run(scripted(World(), gpu), 10)
        close(reading.energy, gpu.joules(*edges))
        assert reading.energy.source == "nvml_counter"
        said(reading.parts[0].notes, "watts failed")
        return reading.parts[0]

    unmeasured(gap(2.0).integral, "gap of 2")
    assert gap(2.0).disagreement is None
    close(gap(0.5).integral, 2500)  # control: a shorter gap is bridged


def test_what_failed_in_a_window_is_no_note_of_the_next(scripted, world):
    meter = scripted(world, Gpu("GPU-a", Steps((0.0, 250.0)), deaf=(1004.0, 1006.0)))
    said(run(meter, 10)[0].parts[0].notes, "watts failed")
    assert run(meter, 10)[0].parts[0].notes == ()


def test_without_a_counter_the_samples_are_integrated_or_refused(scripted, world):
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)), counter=False)
    meter = scripted(world, gpu)
    reading, _ = run(meter, 5.1)
    close(reading.energy, 250 * 5.1)
    assert reading.energy.source == "nvml_instant_trapz"
    assert reading.parts[0].disagreement is None
    said([reading.energy.reason], "counter could not be read")
    said(reading.parts[0].notes, "NotSupported")
    reading, _ = run(meter, 4.9)
    unmeasured(reading.energy, "counter could not be read", "4.90 s are too few")


@pytest.mark.parametrize(
    ("fields", "source"),
    [((186, 185), "nvml_instant_trapz"), ((185,), "nvml_average_trapz"), ((), "nvml_usage_trapz")],
)
def test_the_best_power_reading_of_the_board_is_used_and_named(scripted, world, fields, source):
    meter = scripted(world, Gpu("GPU-a", Steps((0.0, 250.0)), fields=fields, counter=False))
    reading, _ = run(meter, 31)
    close(reading.energy, 31 * 250)
    assert reading.energy.source == reading.parts[0].integral.source == source
    shorter, _ = run(meter, 29)  # means of a second lag by one
    assert (shorter.energy.value is None) == (source != "nvml_instant_trapz")


def test_a_board_that_tells_neither_power_nor_energy_says_so(scripted, world, monkeypatch):
    meter = scripted(world, Gpu("GPU-a", Steps((0.0, 250.0)), fields=(), counter=False, lost=0.0))
    reading, _ = run(meter, 6)
    unmeasured(reading.energy, "counter", "no power reading")


def test_a_counter_alone_is_enough(scripted, world):
    """What lies between tick and edge is taken off without power readings too."""
    load = Steps((0.0, IDLE))
    gpu = Gpu("GPU-a", load, fields=())
    meter = scripted(world, gpu)
    meter.sensors[0].watts = lambda: None
    reading, edges = run(meter, 10.07, load)
    close(reading.energy, gpu.joules(*edges))
    unmeasured(reading.parts[0].integral, "no power reading")
    watts = [watts for at, watts in reading.parts[0].trace if 0.2 < at < 9.8]  # from the counter
    assert np.mean(watts) == pytest.approx(BUSY, rel=0.02)
    load.set(world.time, 250.0)
    reading, edges = run(meter, 2.13)  # the ticks around it are 2.2 s apart
    close(reading.energy, 250 * 2.13, 0.01)
    unmeasured(run(meter, 1.9)[0].energy, "20 periods")


def test_a_power_of_zero_is_a_reading_that_failed(scripted, world):
    """Some boards answer 0 W where they have no answer (sheet, section 6); no board that is on draws none."""
    gpu = Gpu("GPU-a", Steps((0.0, 250.0), (1004.0, 0.0), (1004.5, 250.0)), counter=False)
    reading, _ = run(scripted(world, gpu), 10)
    close(reading.energy, 2500)
    said(reading.parts[0].notes, "watts failed", "0 W")


@pytest.mark.parametrize(("scale", "disagrees"), [(1.2, True), (0.8, True), (1.0, False), (1.03, False)])
def test_counter_and_samples_that_disagree_by_five_per_cent_are_noted(scripted, world, scale, disagrees):
    reading, _ = run(scripted(world, Gpu("GPU-a", Steps((0.0, 250.0)), counter_scale=scale)), 10)
    part = reading.parts[0]
    assert part.disagreement == pytest.approx(scale - 1, abs=0.01)
    assert any("disagree" in note for note in part.notes) == disagrees


def test_everything_else_that_fails_is_a_note(scripted, world):
    """Utilisation, state and description of the board: their failure is said, the energy stays."""
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)))
    meter = scripted(world, gpu)

    def fail(*args):
        raise ZeroDivisionError("planted\nin two lines")

    for name in ("utilisation", "state", "about"):
        setattr(meter.sensors[0], name, fail)
    reading, edges = run(meter, 10)
    close(reading.energy, gpu.joules(*edges))
    assert reading.parts[0].utilisation is None
    said([*reading.notes, *reading.parts[0].notes], "ZeroDivisionError: planted")
    assert sum("planted" in note for note in (*reading.notes, *reading.parts[0].notes)) >= 3
    assert all("\n" not in note for note in (*reading.notes, *reading.parts[0].notes))


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_wait_that_fails_is_reported_and_ends_nothing(scripted, world, monkeypatch, call):
    """An array whose computation failed raises where it is waited for."""
    calls = itertools.count(1)

    def wait():
        if next(calls) == call:
            raise RuntimeError("planted\nin two lines")

    monkeypatch.setattr(meter_module, "wait_for_devices", wait)
    meter = scripted(world, Gpu("GPU-a", Steps((0.0, 250.0))))
    reading, _ = run(meter, 3)
    unmeasured(reading.energy, "counter could not be read")
    said(reading.notes, "the meter failed at the", "end" if call == 3 else "beginning", "RuntimeError: planted")
    assert world.appointments == []
    close(run(meter, 3)[0].energy, 750)  # and the next window is whole


def test_the_state_at_the_edges_and_the_utilisation_are_recorded(scripted, world):
    reading, _ = run(scripted(world, Gpu("GPU-a", Steps((0.0, 250.0)))), 10)
    part = reading.parts[0]
    assert part.utilisation == pytest.approx(0.5)
    assert part.about == {
        "device": "Scripted GPU",
        "uuid": "GPU-a",
        "driver": "590.1",
        "power_limit_w": 400.0,
        "persistence_mode": 1,
    }
    for edge in (part.begin, part.end):
        assert (edge["temperature_c"], edge["sm_mhz"], edge["memory_mhz"]) == (40, 1410, 1410)
        assert (edge["throttle"], edge["other_processes"]) == (["gpu_idle"], 0)
    assert reading.notes == part.notes == ()


@pytest.mark.parametrize(
    ("bits", "names"),  # of nvml.h
    [
        (0x4, "sw_power_cap"),
        (0x8, "hw_slowdown"),
        (0x20, "sw_thermal_slowdown"),
        (0x40, "hw_thermal_slowdown"),
        (0x80, "hw_power_brake_slowdown"),
        (0x1, ""),
        (0x2, ""),
        (0x100, ""),
    ],
)
def test_clocks_held_down_and_other_processes_are_noted(scripted, world, bits, names):
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)), throttle=bits, other_processes=int(bool(names)))
    notes = run(scripted(world, gpu), 10)[0].parts[0].notes
    if names:
        said(notes, "held down", "begin", names)
        said(notes, "held down", "end", names)
        said(notes, "other processes")
    else:
        assert notes == ()


# Synchronisation


def dispatched(meter, load, monkeypatch, *, waits=True):
    """8 s of work that the host only dispatches, with 1 s of it in flight already before a window that is open 5 s.

    What the window should read: from the moment when the earlier work was done, to that when its own was.
    """
    world, done = meter.clock, [0.0]

    def dispatch(seconds):
        load.set(world.time, BUSY)
        done[0] = world.time + seconds
        load.set(done[0], IDLE)

    def wait():
        world.log.append("wait")
        world.work(max(0.0, done[0] - world.time))

    monkeypatch.setattr(meter_module, "wait_for_devices", wait if waits else lambda: None)
    dispatch(1)
    with meter.window() as window:
        world.log.append("begin")
        dispatch(8)
        world.work(5)
        world.log.append("end")
    return window.reading


def order(log):
    """At both edges the device has been waited for before the counter is read for the last or first time."""
    before, after = log[: log.index("begin")], log[log.index("end") + 1 :]
    assert "energy" in before[len(before) - before[::-1].index("wait") :]
    assert "energy" in after[after.index("wait") :]
    last = len(log) - log[::-1].index("wait")
    assert "energy" not in log[log.index("end") : log.index("wait", log.index("end"))], "read before it waited"
    assert "energy" in log[last:]


def test_both_edges_wait_for_the_device_before_the_counter_is_read(scripted, world, monkeypatch):
    load = Steps((0.0, IDLE))
    reading = dispatched(scripted(world, Gpu("GPU-a", load)), load, monkeypatch)
    order([entry for entry in world.log if entry in ("wait", "energy", "begin", "end")])
    assert reading.seconds.value == pytest.approx(8)
    close(reading.energy, 8 * BUSY)


def test_control_a_meter_that_does_not_wait_is_caught(scripted, world, monkeypatch):
    load = Steps((0.0, IDLE))
    reading = dispatched(scripted(world, Gpu("GPU-a", load)), load, monkeypatch, waits=False)
    with pytest.raises(ValueError, match="wait"):
        order(world.log)
    assert reading.seconds.value == pytest.approx(5)
    with pytest.raises(AssertionError):
        close(reading.energy, 8 * BUSY)


@pytest.fixture(scope="module")
def slow():
    """A compiled program that takes about a quarter of a second, its input, and how long it takes at least."""

    @jax.jit
    def f(x):
        return jax.lax.fori_loop(0, 40, lambda i, a: jnp.tanh(a @ x), x)

    x = jnp.ones((600, 600))
    jax.block_until_ready(f(x))
    times = []
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(f(x))
        times.append(time.perf_counter() - start)
    return f, x, min(times)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "thrown away"])
@pytest.mark.parametrize("waits", [True, False], ids=["", "control"])
def test_a_window_lasts_until_what_was_dispatched_in_it_is_computed(slow, tmp_path, monkeypatch, kept, waits):
    f, x, least = slow
    if not waits:
        monkeypatch.setattr(meter_module, "wait_for_devices", lambda: None)
    meter = Meter(idle_seconds=0, powercap=tmp_path)
    with meter.window() as window:
        out = f(x)
        if not kept:
            del out
    covered = window.reading.seconds.value > least / 2
    assert covered == waits
    if kept:
        assert out.is_ready() == waits
    jax.block_until_ready(f(x))  # and leave no work behind


def test_what_another_thread_dispatched_is_waited_for(slow, tmp_path):
    f, x, _ = slow
    out = []
    with Meter(idle_seconds=0, powercap=tmp_path).window():
        thread = threading.Thread(target=lambda: out.append(f(x)))
        thread.start()
        thread.join()
    assert out[0].is_ready()


def test_what_was_dispatched_before_a_window_is_not_in_it(slow, tmp_path):
    f, x, least = slow
    f(x)
    with Meter(idle_seconds=0, powercap=tmp_path).window() as window:
        pass
    assert window.reading.seconds.value < least / 2


def test_side_effects_are_waited_for(tmp_path, monkeypatch):
    seen = []

    def late(value):
        time.sleep(0.2)
        seen.append(time.perf_counter())

    f = jax.jit(lambda x: jax.debug.callback(late, x))
    f(1.0)
    jax.effects_barrier()
    barrier, asked = jax.effects_barrier, []
    monkeypatch.setattr(jax, "effects_barrier", lambda: (asked.append("asked"), barrier()))
    with Meter(idle_seconds=0, powercap=tmp_path).window() as window:
        f(1.0)
        asked.clear()
    assert asked
    assert len(seen) == 2
    assert window.reading.seconds.value > 0.19


# Controls: slips that the checks above must catch


def between_first_and_last_sample(samples, t0, t1, gap):
    """A trapezoid without what lies between the edges and the samples next to them."""
    inside = [(s.time, s.watts) for s in samples if t0 < s.time < t1 and s.regular and s.watts is not None]
    at, watts = np.array(inside).T
    return float(np.trapezoid(watts, at)), None


@pytest.mark.parametrize("slip", [False, True])
def test_a_trapezoid_without_its_edges_is_caught(scripted, world, monkeypatch, slip):
    load = Steps((0.0, IDLE))
    gpu = Gpu("GPU-a", load, counter=False)
    if slip:
        monkeypatch.setattr(meter_module, "energy_by_power", between_first_and_last_sample)
    reading, edges = run(scripted(world, gpu, interval=0.5), 5.2, load)
    caught = pytest.raises(AssertionError) if slip else pytest.MonkeyPatch.context()
    with caught:
        close(reading.energy, gpu.joules(*edges))


@pytest.mark.parametrize("slip", ["joules", "watts", "both"])
def test_a_slip_of_millijoules_is_caught(scripted, world, monkeypatch, slip):
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)), counter=slip != "both")
    meter = scripted(world, gpu)
    board = meter.sensors[0]
    joules, watts = board.joules, board.watts
    if slip == "joules":
        board.joules = lambda: 1000 * joules()
    else:
        board.watts = lambda: 1000 * watts()
    reading, edges = run(meter, 10)
    if slip != "both":
        said(reading.parts[0].notes, "disagree")
    if slip != "watts":
        with pytest.raises(AssertionError):
            close(reading.energy, gpu.joules(*edges))
    if slip == "watts":
        with pytest.raises(AssertionError):
            close(reading.parts[0].integral, gpu.joules(*edges))


def test_the_ends_of_the_window_are_taken_off_the_counter(scripted, world, monkeypatch):
    """Control: the counter from tick to tick, of a window of 2.1 s, is up to a tick of 5 % too much or too little."""

    def read(slip):
        with monkeypatch.context() as patch:
            if slip:
                whole = meter_module.energy_by_counter

                def counted(sensor, samples, period, t0, t1, before, after):
                    whole(sensor, samples, period, t0, t1, before, after)
                    return after[1] - before[1], None

                patch.setattr(meter_module, "energy_by_counter", counted)
            load = Steps((0.0, IDLE))
            gpu = Gpu("GPU-a", load)
            reading, edges = run(scripted(World(), gpu), 2.13, load)
            close(reading.energy, gpu.joules(*edges), 0.005)

    read(slip=False)
    with pytest.raises(AssertionError):
        read(slip=True)


# Idle power and net energy


def test_net_energy_is_gross_less_idle_power_times_seconds(scripted, world):
    load = Steps((0.0, IDLE))
    gpu = Gpu("GPU-a", load)
    reading, edges = run(scripted(world, gpu, idle_seconds=30), 10, load)
    begin, end = edges
    assert 30 <= begin - 1000 < 32
    assert 30 <= world.time - end < 32
    close(reading.energy, 10 * BUSY)
    close(reading.net, 10 * (BUSY - IDLE))
    part = reading.parts[0]
    close(part.idle, IDLE)
    assert (part.idle.status, part.idle.unit, part.idle.source) == ("measured", "W", "nvml_counter")
    assert (reading.net.status, reading.net.derived) == ("measured", True)
    assert part.notes == ()


@pytest.mark.parametrize(("period", "source"), [(1.0, "nvml_counter"), (None, "nvml_instant_trapz")])
def test_idle_power_where_the_counter_is_slow_or_missing(scripted, world, period, source):
    load = Steps((0.0, IDLE))
    gpu = Gpu("GPU-a", load, **({"counter": False} if period is None else {"period": period}))
    reading, edges = run(scripted(world, gpu, idle_seconds=10), 30, load)
    close(reading.parts[0].idle, IDLE)
    assert reading.parts[0].idle.source == source
    close(reading.net, gpu.joules(*edges) - 30 * IDLE)


def test_no_idle_time_no_net_energy(scripted, world):
    reading, _ = run(scripted(world, Gpu("GPU-a", Steps((0.0, 250.0)))), 10)
    unmeasured(reading.net, "idle power was not measured")
    unmeasured(reading.parts[0].idle, "idle power was not measured")
    close(reading.energy, 2500)


def test_the_idle_power_of_an_earlier_window_is_not_taken_for_this_ones(scripted, world, monkeypatch):
    load = Steps((0.0, IDLE))
    meter = scripted(world, Gpu("GPU-a", load), idle_seconds=10)
    run(meter, 10, load)
    load.set(world.time, 100.0)
    monkeypatch.setattr(meter_module, "wait_for_devices", lambda: 1 / 0)  # so that there is none before this window
    with meter.window() as window:
        world.work(10)
        monkeypatch.setattr(meter_module, "wait_for_devices", lambda: None)
    close(window.reading.parts[0].idle, 100)


def test_the_wait_for_idle_power_can_be_cut_short(scripted, world):
    load = Steps((0.0, IDLE))
    meter = scripted(world, Gpu("GPU-a", load), idle_seconds=30)
    with meter.window() as window:
        load.set(world.time, BUSY)
        world.work(10)
        end = world.time
        load.set(end, IDLE)
        meter.hurry = lambda: True
    assert world.time - end < 2
    close(window.reading.net, 10 * (BUSY - IDLE))  # by the idle power before


def test_idle_time_too_short_is_said(scripted, world):
    reading, _ = run(scripted(world, Gpu("GPU-a", Steps((0.0, 250.0))), idle_seconds=1), 10)
    unmeasured(reading.net, "idle")
    said(reading.notes, "idle power of GPU-a could not be measured in 1 s")


@pytest.mark.parametrize(("after", "noted"), [(75.0, True), (50.0, True), (63.0, False)])
def test_idle_power_that_changes_by_ten_per_cent_is_noted(scripted, world, after, noted):
    load = Steps((0.0, IDLE))
    meter = scripted(world, Gpu("GPU-a", load), idle_seconds=10)
    with meter.window() as window:
        load.set(world.time, BUSY)
        world.work(10)
        load.set(world.time, after)
    notes = window.reading.parts[0].notes
    assert any("60.0 W before" in note and f"{after:.1f} W after" in note for note in notes) == noted
    close(window.reading.net, 10 * (BUSY - (IDLE + after) / 2))


@pytest.mark.parametrize(("watts", "bound"), [(70.0, True), (75.0, False)])
def test_power_near_idle_is_called_host_bound(scripted, world, watts, bound):
    load = Steps((0.0, IDLE))
    meter = scripted(world, Gpu("GPU-a", load), idle_seconds=10)
    with meter.window() as window:
        load.set(world.time, watts)
        world.work(10)
        load.set(world.time, IDLE)
    assert any("host-bound" in note for note in window.reading.parts[0].notes) == bound


# Several devices


def test_several_devices_are_a_sum_and_parts(scripted, world):
    gpus = [Gpu("GPU-a", Square(100.0, 300.0, 3.0)), Gpu("GPU-b", Steps((0.0, 90.0)), period=0.23)]
    reading, edges = run(scripted(world, *gpus, idle_seconds=10), 10)
    for part, gpu in zip(reading.parts, gpus, strict=True):
        assert part.name == gpu.uuid
        close(part.energy, gpu.joules(*edges))
    close(reading.energy, sum(gpu.joules(*edges) for gpu in gpus))
    assert reading.energy.source == "nvml_counter"


def test_a_device_named_twice_counts_once(scripted, world):
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)))
    reading, edges = run(scripted(world, gpu, devices=["GPU-a", "GPU-a"]), 10)
    close(reading.energy, gpu.joules(*edges))


def test_one_device_unavailable_makes_the_sum_so(scripted, world):
    gpus = [Gpu("GPU-a", Steps((0.0, 250.0))), Gpu("GPU-b", Steps((0.0, 90.0)), lost=1004.0)]
    reading, edges = run(scripted(world, *gpus), 10)
    unmeasured(reading.energy, "counter")
    close(reading.parts[0].energy, gpus[0].joules(*edges))
    unmeasured(reading.parts[1].energy)


def test_the_processor_beside_a_slow_gpu_is_measured_between_the_same_edges(scripted, world, tmp_path):
    """The tick of the GPU's counter, for which the edges wait, comes up to 1 s after the one of the processor's."""
    load = Steps((0.0, 20.0))
    package = Rapl(world, tmp_path / "intel-rapl:0", "package-0", load)
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)), period=1.0)
    meter = scripted(world, gpu, powercap=tmp_path)
    with meter.window() as window:
        begin = world.time
        load.set(begin, 200.0)
        world.work(5.4)
        load.set(world.time, 20.0)
        end = world.time
    (board,), (cpu,) = ([part for part in window.reading.parts if part.kind == kind] for kind in ("gpu", "cpu"))
    close(cpu.energy, package.joules(begin, end))
    assert cpu.period == pytest.approx(0.01, abs=0.005)
    assert window.reading.energy == board.energy  # the processor is told, not added


# RAPL


def test_packages_are_summed_and_subzones_are_not(rapl, world, tmp_path):
    watts = Square(20.0, 90.0, 3.0), Square(15.0, 60.0, 1.7)
    both = [Rapl(world, tmp_path / f"intel-rapl:{k}", f"package-{k}", watts[k]) for k in (0, 1)]
    for folder, name in (
        ("intel-rapl:0:0", "dram"),
        ("intel-rapl:0:1", "core"),
        ("intel-rapl:0:2", "package-7"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        Rapl(world, tmp_path / folder, name, Steps((0.0, 1000.0)), period=1.0)
    reading, edges = run(rapl(world), 10.07)
    assert [part.name for part in reading.parts] == ["package-0", "package-1"]
    for part, package in zip(reading.parts, both, strict=True):
        close(part.energy, package.joules(*edges))
        assert (part.energy.source, part.energy.status, part.kind) == ("rapl_package", "measured", "cpu")
        assert part.trace
    close(reading.energy, sum(package.joules(*edges) for package in both))
    apart = [any("memory of this package apart (dram)" in note for note in part.notes) for part in reading.parts]
    assert apart == [True, False]


@pytest.mark.parametrize(("others", "told"), [(0.0, None), (0.2, None), (3.0, "3.0 of the 11.0 s")])
def test_other_processes_on_the_processors_are_told_of(others, told, rapl, world, tmp_path, monkeypatch):
    """man 5 proc: user, nice, system, idle, iowait, irq, softirq, steal, in ticks; of these steal is another machine's.

    Here all processors are busy for 8 s with this process and for ``others`` seconds with the rest.
    """
    ticks, hz = iter([(0.0, 0.0), (0.0, 0.0), (8.0, others), (8.0, others)]), os.sysconf("SC_CLK_TCK")
    times = os.times()

    def now():
        own, rest = next(ticks)
        tenth = int(hz * (own + rest) / 10)
        words = [2 * tenth, 1 * tenth, 4 * tenth, 77 * hz, 88 * hz, 2 * tenth, 1 * tenth, 99 * hz, 55, 66]
        (tmp_path / "stat").write_text(f"cpu  {' '.join(map(str, words))}\ncpu0 1 2 3\n")
        fields = {"user": own / 2, "system": own / 4, "children_user": own / 8, "children_system": own / 8}
        return types.SimpleNamespace(**fields, elapsed=times.elapsed)

    for at in (0, 1):
        Rapl(world, tmp_path / f"intel-rapl:{at}", f"package-{at}", Steps((0.0, 50.0)))
    meter = rapl(world)
    monkeypatch.setattr(os, "times", now)
    reading, _ = run(meter, 10)
    notes = [*reading.notes, *(note for part in reading.parts for note in part.notes)]
    line = (
        f"processes beside this one and its finished children had {told} that processors were busy; the energy of the "
        "packages is not this one's alone"
    )
    assert [note for note in notes if "processes" in note] == ([] if told is None else [line])  # once for both sockets


@pytest.mark.parametrize("wraps", [0, 1, 4])
def test_a_counter_that_wraps_is_followed(rapl, world, tmp_path, wraps):
    """120 W for 10 s are 1200 J: a counter of 250 J goes round four times and more, of 65 kJ once if near its end."""
    size = {0: 262_143_328_850, 1: 65_532_610_987, 4: 250_000_000}[wraps]
    start = {0: 0, 1: size - 700_000_000, 4: 0}[wraps]
    package = Rapl(
        world, tmp_path / "intel-rapl:0", "package-0", Steps((0.0, 120.0)), range_uj=size, start_uj=start, period=0.01
    )
    reading, edges = run(rapl(world), 10)
    close(reading.energy, package.joules(*edges))
    assert reading.energy.value == pytest.approx(1200, rel=0.01)


def test_a_counter_that_is_read_too_seldom_to_see_it_wrap_is_refused(rapl, world, tmp_path):
    """1000 W carry a counter of 150 J round in 0.15 s; the samples come every 0.5 s."""
    Rapl(world, tmp_path / "intel-rapl:0", "package-0", Steps((0.0, 250.0)), range_uj=150_000_000)
    reading, _ = run(rapl(world, interval=0.5), 10)
    unmeasured(reading.energy, "often enough")
    reading, _ = run(rapl(world, interval=0.05), 10)  # control
    close(reading.energy, 2500)


def test_net_energy_of_a_package(rapl, world, tmp_path):
    load = Steps((0.0, IDLE))
    Rapl(world, tmp_path / "intel-rapl:0", "package-0", load)
    reading, _ = run(rapl(world, idle_seconds=10), 10, load)
    close(reading.net, 10 * (BUSY - IDLE))
    assert reading.parts[0].idle.source == "rapl_package"


@pytest.mark.parametrize("stall", [0.05, 0.3])
def test_a_host_that_is_held_up_at_an_edge_still_finds_the_tick(rapl, world, tmp_path, monkeypatch, stall):
    """Another process takes the processor for a moment between two looks at the counter."""
    load = Steps((0.0, IDLE))
    package = Rapl(world, tmp_path / "intel-rapl:0", "package-0", load)
    meter = rapl(world)
    run(meter, 1, load)
    sleep, held = world.sleep, [True]

    def held_up(seconds):
        sleep(stall if held[0] else seconds)
        held[0] = False

    monkeypatch.setattr(world, "sleep", held_up)
    with meter.window() as window:
        begin = world.time
        load.set(begin, BUSY)
        world.work(10)
        end = world.time
        load.set(end, IDLE)
        held[0] = True
    assert not held[0]
    close(window.reading.energy, package.joules(begin, end))


def test_a_package_that_vanishes_is_reported(rapl, world, tmp_path):
    packages = [Rapl(world, tmp_path / f"intel-rapl:{k}", f"package-{k}", Steps((0.0, 50.0))) for k in (0, 1)]
    with rapl(world).window() as window:
        world.work(5)
        packages[1].vanish()
        world.work(5)
    unmeasured(window.reading.energy, "counter could not be read")
    close(window.reading.parts[0].energy, 500)
    unmeasured(window.reading.parts[1].energy)
    said(window.reading.parts[1].notes, "FileNotFoundError")


def test_a_file_that_is_damaged_in_mid_window_is_reported(rapl, world, tmp_path):
    package = Rapl(world, tmp_path / "intel-rapl:0", "package-0", Steps((0.0, 50.0)))
    with rapl(world).window() as window:
        world.work(5)
        package.stop()
        (package.folder / "energy_uj").write_text("")
        world.work(5)
    unmeasured(window.reading.energy, "counter could not be read")
    said(window.reading.parts[0].notes, "ValueError")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("none", ["no RAPL counter"]),
        ("no folder", ["no RAPL counter"]),
        ("subzones alone", ["no RAPL counter"]),
        ("permission", ["root", "CVE-2020-8694"]),
        ("damaged", ["cannot be read"]),
        ("no counter", ["cannot be read"]),
    ],
)
def test_without_rapl_the_energy_is_unavailable_with_the_reason(rapl, world, tmp_path, monkeypatch, fault, words):
    folder = tmp_path / "intel-rapl:0"
    options = {}
    if fault == "no folder":
        options["powercap"] = tmp_path / "nowhere"
    elif fault == "subzones alone":
        Rapl(world, tmp_path / "intel-rapl:0:0", "dram", Steps((0.0, 50.0)))
    elif fault != "none":
        Rapl(world, folder, "package-0", Steps((0.0, 50.0))).stop()
    if fault == "damaged":
        (folder / "energy_uj").write_text("what?")
    elif fault == "no counter":
        (folder / "energy_uj").unlink()
    elif fault == "permission":
        read = Path.read_text

        def refuse(path, *args, **kwargs):
            if path.name == "energy_uj":
                raise PermissionError(13, "Permission denied")
            return read(path, *args, **kwargs)

        monkeypatch.setattr(Path, "read_text", refuse)
    meter = rapl(world, **options)
    said([meter.missing["cpu"]], *words)
    reading, _ = run(meter, 10)
    for found in (reading.energy, reading.net, reading.mean_power):
        unmeasured(found, *words)
    assert reading.parts == ()
    assert reading.seconds.value == pytest.approx(10)


# Hardware that is not there, and which GPU it is


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ("LibraryNotFound", ["driver library", "install"]),
        ("DriverNotLoaded", ["driver is not loaded", "container", "--gpus"]),
        ("NoPermission", ["permission", "/dev/nvidia"]),
        ("NotSupported", ["cannot be read"]),
    ],
)
def test_nvml_that_does_not_start_is_a_reason_with_the_mend(scripted, world, init, words):
    meter = scripted(world, Gpu("GPU-a", Steps((0.0, 250.0))), init=init)
    said([meter.missing["gpu"]], *words)
    reading, _ = run(meter, 10)
    unmeasured(reading.energy, *words)
    assert "\n" not in reading.energy.reason


def test_a_binding_that_is_missing_is_a_reason(monkeypatch, world, tmp_path):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reading, _ = run(Meter(["GPU-a"], powercap=tmp_path, clock=world), 10)
    unmeasured(reading.energy, "fwdonly[energy]")


def test_a_processor_does_not_stand_in_for_a_gpu_that_cannot_be_read(scripted, world, tmp_path):
    Rapl(world, tmp_path / "intel-rapl:0", "package-0", Steps((0.0, 50.0)))
    reading, _ = run(scripted(world, devices=["GPU-a"], init="LibraryNotFound", powercap=tmp_path), 10)
    unmeasured(reading.energy, "driver library")
    close(reading.parts[0].energy, 500)
    assert reading.parts[0].kind == "cpu"


def test_another_accelerator_is_not_measured_by_the_processor(rapl, world, tmp_path):
    Rapl(world, tmp_path / "intel-rapl:0", "package-0", Steps((0.0, 50.0)))
    tpu = types.SimpleNamespace(platform="tpu", local_hardware_id=0)
    reading, _ = run(rapl(world, devices=[tpu]), 10)
    unmeasured(reading.energy, "tpu")


@pytest.mark.parametrize(
    ("options", "devices", "words"),
    [
        ({"closed": True}, ["GPU-a"], ["permission"]),
        ({"mig": True}, ["GPU-a"], ["divided by MIG"]),
        ({}, ["GPU-b"], ["no such GPU", "nvidia-smi -L"]),
    ],
)
def test_a_gpu_that_cannot_be_read_is_a_reason(scripted, world, options, devices, words):
    reading, _ = run(scripted(world, Gpu("GPU-a", Steps((0.0, 250.0)), **options), devices=devices), 10)
    unmeasured(reading.energy, *words)


def found(scripted, world, monkeypatch, numbers, count=2, **environ):
    """UUIDs that a meter of JAX's GPUs ``numbers`` reads, or why there are none."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    gpus = [Gpu(f"GPU-{letter}{k}", Steps((0.0, 100.0))) for k, letter in enumerate("abcd"[:count])]
    meter = scripted(world, *gpus, devices=[gpu_device(number) for number in numbers])
    return [sensor.name for sensor in meter.sensors] or meter.missing["gpu"]


BUS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.mark.parametrize(
    ("numbers", "environ", "expected"),
    [
        ([0], BUS, ["GPU-a0"]),
        ([0, 1], BUS, ["GPU-a0", "GPU-b1"]),
        ([0, 1], BUS | {"CUDA_VISIBLE_DEVICES": "1,0"}, ["GPU-b1", "GPU-a0"]),
        ([0], BUS | {"CUDA_VISIBLE_DEVICES": " 1 "}, ["GPU-b1"]),
        ([0, 1], {"CUDA_VISIBLE_DEVICES": "GPU-b1,GPU-a0"}, ["GPU-b1", "GPU-a0"]),
        ([0], {"CUDA_VISIBLE_DEVICES": "GPU-b"}, ["GPU-b1"]),
        ([0], BUS | {"CUDA_VISIBLE_DEVICES": "1,-1,0"}, ["GPU-b1"]),
    ],
)
def test_the_gpu_is_the_one_cuda_shows_to_jax(scripted, world, monkeypatch, numbers, environ, expected):
    assert found(scripted, world, monkeypatch, numbers, **environ) == expected


@pytest.mark.parametrize(
    ("numbers", "environ", "words"),
    [
        ([0], {}, ["CUDA_DEVICE_ORDER=PCI_BUS_ID"]),
        ([0], {"CUDA_VISIBLE_DEVICES": "1,0"}, ["CUDA_DEVICE_ORDER=PCI_BUS_ID"]),
        ([0], {"CUDA_VISIBLE_DEVICES": "1,0", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, ["CUDA_DEVICE_ORDER=PCI_BUS_ID"]),
        ([1], BUS | {"CUDA_VISIBLE_DEVICES": "1,-1,0"}, ["JAX sees GPU 1", "CUDA_VISIBLE_DEVICES=1,-1,0"]),
        ([0], BUS | {"CUDA_VISIBLE_DEVICES": ""}, ["nvidia-smi -L"]),
        ([0], BUS | {"CUDA_VISIBLE_DEVICES": "7"}, ["nvidia-smi -L"]),
        ([0], BUS | {"CUDA_VISIBLE_DEVICES": "GPU-"}, ["nvidia-smi -L"]),  # may be either
        ([0], {"CUDA_VISIBLE_DEVICES": "MIG-5f1c"}, ["MIG instance", "no energy counter"]),
        ([2], BUS, ["JAX sees GPU 2"]),
    ],
)
def test_a_gpu_that_may_be_another_one_is_refused(scripted, world, monkeypatch, numbers, environ, words):
    reason = found(scripted, world, monkeypatch, numbers, **environ)
    assert isinstance(reason, str), reason
    said([reason], *words)
    assert "\n" not in reason


def test_a_single_gpu_needs_no_order(scripted, world, monkeypatch):
    assert found(scripted, world, monkeypatch, [0], count=1) == ["GPU-a0"]
    assert "JAX sees GPU 0" in found(scripted, world, monkeypatch, [0], count=0)


@pytest.mark.parametrize(
    "options",
    [
        {"interval": 0.01},
        {"interval": 0.6},
        {"interval": math.nan},
        {"idle_seconds": -1},
        {"idle_seconds": math.inf},
        {"idle_seconds": math.nan},
        {"devices": []},
    ],
    ids=str,
)
def test_bad_options_are_refused_in_one_line(options, tmp_path):
    with pytest.raises(UsageError) as error:
        Meter(powercap=tmp_path, **options)
    assert "\n" not in str(error.value)


# Interrupts, exceptions and windows within windows


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interrupt_leaves_a_reading_and_ends_the_thread(scripted, world, kind):
    load = Steps((0.0, IDLE))
    meter = scripted(world, Gpu("GPU-a", load), idle_seconds=30)
    with pytest.raises(kind), meter.window() as window:
        load.set(world.time, BUSY)
        world.work(10)
        end = world.time
        load.set(world.time, IDLE)
        raise kind
    assert world.time - end < 1  # idle power is not waited for
    assert world.appointments == []
    close(window.reading.energy, 10 * BUSY)
    close(window.reading.net, 10 * (BUSY - IDLE))  # by the idle power before
    said(window.reading.notes, "interrupted", kind.__name__)
    reading, _ = run(meter, 10, load)  # and the meter can be used again
    close(reading.energy, 10 * BUSY)
    close(reading.net, 10 * (BUSY - IDLE))
    assert reading.notes == ()


def test_an_interrupt_while_idle_power_is_measured_loses_nothing(scripted, world, monkeypatch):
    """Ctrl-C during the 30 s after the window, and during those before the next one."""
    load = Steps((0.0, IDLE))
    meter = scripted(world, Gpu("GPU-a", load), idle_seconds=30)
    sleep, limit = world.sleep, [1055.0]

    def interrupted(seconds):
        sleep(seconds)
        if world.time > limit[0]:
            limit[0] += 20
            raise KeyboardInterrupt

    monkeypatch.setattr(world, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt), meter.window() as window:
        load.set(world.time, BUSY)
        world.work(10)
        load.set(world.time, IDLE)
    assert world.appointments == []
    close(window.reading.energy, 10 * BUSY)
    said(window.reading.notes, "interrupted", "KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt), meter.window() as window:
        pytest.fail("the body must not run")
    assert world.appointments == []
    limit[0] = math.inf
    reading, _ = run(meter, 10, load)
    close(reading.net, 10 * (BUSY - IDLE))


def test_windows_of_one_meter_may_lie_within_each_other(scripted, world):
    """Only the outermost one waits for idle power and samples."""
    load = Steps((0.0, IDLE))
    gpu = Gpu("GPU-a", load)
    meter = scripted(world, gpu, idle_seconds=30)
    with meter.window("outer") as outer:
        begin = world.time
        load.set(begin, 200.0)
        world.work(5)
        readings = []
        for watts in (100.0, 300.0):
            load.set(world.time, watts)
            reading, edges = run(meter, 6.03)
            readings.append((reading, gpu.joules(*edges)))
        assert len(world.appointments) == 1
        assert world.time - begin < 18  # 5 + 2 x 6.03 s, and no idle time
        end = world.time
        load.set(world.time, IDLE)
    for reading, truth in readings:
        close(reading.energy, truth)
        close(reading.net, truth - 6.03 * IDLE)
    close(outer.reading.energy, gpu.joules(begin, end))
    close(outer.reading.net, gpu.joules(begin, end) - IDLE * (end - begin))
    assert 60 <= world.time - 1000 - (end - begin) < 64
    assert world.appointments == []


def test_windows_of_two_meters_may_lie_within_each_other(scripted, world):
    gpu = Gpu("GPU-a", Square(100.0, 300.0, 3.0))
    one, two = scripted(world, gpu), scripted(world, gpu, idle_seconds=10)
    with one.window() as outer:
        begin = world.time
        inner, edges = run(two, 6.03)
        end = world.time
    close(inner.energy, gpu.joules(*edges))
    close(outer.reading.energy, gpu.joules(begin, end))
    assert world.appointments == []


def test_an_inner_window_that_fails_leaves_the_outer_one_whole(scripted, world):
    gpu = Gpu("GPU-a", Square(100.0, 300.0, 3.0))
    meter = scripted(world, gpu)
    with meter.window() as outer:
        begin = world.time
        with pytest.raises(ValueError, match="planted"), meter.window():
            world.work(3)
            raise ValueError("planted")
        assert len(world.appointments) == 1
        world.work(7)
        end = world.time
    close(outer.reading.energy, gpu.joules(begin, end))
    assert world.appointments == []


class Real(World):
    """The scripted boards under the real clock."""

    time = property(lambda self: time.perf_counter(), lambda self, value: None)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "fwdonly-meter"]


@pytest.fixture
def escaped(monkeypatch):
    """What threads raised and nobody caught."""
    found = []
    monkeypatch.setattr(threading, "excepthook", found.append)
    return found


def test_no_exception_of_a_sensor_escapes_from_the_thread(scripted, escaped):
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)), period=0.01)
    meter = scripted(Real(), gpu, interval=0.05, clock=Clock())
    errors = itertools.cycle([ZeroDivisionError("planted"), OSError("planted"), StopIteration(), KeyError("planted")])
    board, main, calls = meter.sensors[0], threading.current_thread(), []
    board.shortest = 0.1

    def only_in_main(read):
        def call():
            if threading.current_thread() is not main:
                calls.append(threading.current_thread())
                raise next(errors)
            return read()

        return call

    for name in ("joules", "watts", "utilisation"):
        setattr(board, name, only_in_main(getattr(board, name)))
    with meter.window() as window:
        assert len(threads()) == 1
        time.sleep(0.5)
    assert len(calls) >= 6
    assert threads() == escaped == []
    close(window.reading.energy, 250 * window.reading.seconds.value, 0.2)
    said(window.reading.parts[0].notes, "ZeroDivisionError")


def test_control_an_exception_in_the_thread_is_seen(escaped):
    def fail():
        raise ZeroDivisionError

    end, _ = Clock().every(0.05, fail)
    time.sleep(0.15)
    end()
    assert [own.exc_type for own in escaped] == [ZeroDivisionError]


def test_the_real_thread_ends_with_an_exception_in_the_body(scripted, escaped):
    meter = scripted(Real(), Gpu("GPU-a", Steps((0.0, 250.0)), period=0.01), interval=0.05, clock=Clock())
    with pytest.raises(ValueError, match="planted"), meter.window():
        assert len(threads()) == 1
        time.sleep(0.1)
        raise ValueError("planted")
    assert threads() == escaped == []


def test_a_driver_that_hangs_is_given_up(scripted, monkeypatch):
    """It answers the thread after 1 s, where 0.2 s are the most that is waited for it."""
    monkeypatch.setattr(meter_module, "HANGS", 0.2)
    meter = scripted(Real(), Gpu("GPU-a", Steps((0.0, 250.0)), period=0.01), interval=0.05, clock=Clock())
    board, main, released = meter.sensors[0], threading.current_thread(), threading.Event()
    watts = board.watts
    board.watts = lambda: watts() if threading.current_thread() is main else released.wait(20) and watts()
    start = time.perf_counter()
    with meter.window() as window:
        time.sleep(0.2)
        body = time.perf_counter()
        threading.Timer(1.0, released.set).start()
    assert body - start < 2
    assert time.perf_counter() - body < 3
    unmeasured(window.reading.energy)
    said(window.reading.notes, "has not answered")
    assert threads() == []


# Marks, repeats, samples


def test_marks_lie_where_they_were_set(scripted, world):
    with scripted(world, Gpu("GPU-a", Steps((0.0, 250.0)))).window("train") as window:
        world.work(3)
        window.mark("epoch 1")
        world.work(4)
        window.mark("epoch 2")
    assert window.reading.name == "train"
    assert [name for _, name in window.reading.marks] == ["epoch 1", "epoch 2"]
    assert [at for at, _ in window.reading.marks] == pytest.approx([3, 7])


def test_repeat_lasts_long_enough_and_counts(scripted, world):
    gpu = Gpu("GPU-a", Square(100.0, 300.0, 3.0))
    began = []

    def f():
        began.append(world.time)
        world.work(0.7)
        return jnp.zeros(3)

    reading = scripted(world, gpu).repeat(f, seconds=5, name="step")
    assert (reading.repeats, len(began), reading.name) == (8, 8, "step")  # 7 x 0.7 = 4.9 s, 8 x 0.7 = 5.6 s
    assert reading.seconds.value == pytest.approx(5.6)
    close(reading.energy, gpu.joules(began[0], began[0] + 5.6))
    assert (scripted(world, gpu).repeat(f, seconds=0).repeats, len(began)) == (1, 9)
    assert run(scripted(world, gpu), 5)[0].repeats == 1


def test_the_warm_up_lies_between_idle_power_and_the_window(scripted, world):
    load, began = Steps((0.0, IDLE)), []

    def f():
        began.append(world.time)
        load.set(world.time, BUSY)
        world.work(0.7)
        load.set(world.time, IDLE)
        return jnp.zeros(3)

    gpu = Gpu("GPU-a", load)
    reading = scripted(world, gpu, idle_seconds=10).repeat(f, seconds=5, warm_up=2)
    assert (reading.repeats, len(began)) == (8, 3 + 8)  # 3 x 0.7 = 2.1 s
    assert began[0] >= 1010
    assert reading.seconds.value == pytest.approx(5.6)
    close(reading.energy, gpu.joules(began[3], began[3] + 5.6))
    close(reading.parts[0].idle, IDLE)


def test_a_host_that_asks_for_samples_gets_one_every_50_ms_at_most(scripted, world):
    meter = scripted(world, Gpu("GPU-a", Steps((0.0, 250.0))), interval=0.5)
    asked = len(world.log)
    meter.sample()
    assert len(world.log) == asked  # no window is open
    own = []
    with meter.window() as window:
        begin = world.time
        for _ in range(250):
            world.work(0.02)
            asked = len(world.log)
            meter.sample()
            if len(world.log) > asked:
                own.append(world.time - begin)
    asked = len(world.log)
    meter.sample()
    assert len(world.log) == asked
    trace = np.array([at for at, _ in window.reading.parts[0].trace])
    for at in own:
        assert at - max(trace[trace < at - 1e-9]) >= 0.05 - 1e-9  # the thread's samples count too
    assert len(own) > 60  # one in three calls, less what the thread took every 0.5 s


def test_a_loop_that_asks_for_samples_does_not_wait_for_the_sensor(scripted, monkeypatch):
    """On a real clock: every reading takes 0.1 s, and 20 requests 20 ms apart take 0.4 s and bring samples."""
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)), period=0.01)
    meter, seconds = scripted(Real(), gpu, interval=0.5, clock=Clock()), []
    monkeypatch.setattr(meter.sensors[0], "watts", lambda: time.sleep(0.1) or 250.0)
    with meter.window():
        before = len(meter._samples["GPU-a"])
        for _ in range(20):
            time.sleep(0.02)
            start = time.perf_counter()
            meter.sample()
            seconds.append(time.perf_counter() - start)
        assert len(meter._samples["GPU-a"]) > before + 1  # 0.5 s of the thread alone would bring one at most
    assert np.median(seconds) < 0.02
    start = time.perf_counter()
    meter._take()  # the control: whoever reads by himself waits
    assert time.perf_counter() - start > 0.09


def test_a_reading_is_plain_json_without_its_trace(scripted, world):
    meter = scripted(world, Gpu("GPU-a", Steps((0.0, 250.0))), idle_seconds=10)
    with meter.window() as window:
        world.work(5)
        window.mark("here")
        world.work(5)
    reading = window.reading
    assert len(reading.parts[0].trace) > 90
    plain = json.loads(json.dumps(reading.as_json()))
    assert "trace" not in plain["parts"][0]
    assert plain["energy"]["value"] == pytest.approx(2500, rel=0.01)
    assert (plain["energy"]["unit"], plain["energy"]["status"]) == ("J", "measured")
    assert plain["marks"] == [[pytest.approx(5), "here"]]
    assert "trace" not in plain["parts"][0]
    assert json.loads(json.dumps(reading.energy.as_json())) == plain["energy"]


# Quantities and carbon

A = Quantity(2.0, "J", "measured", "nvml_counter")
B = Quantity(3, "J", "estimated", "model")
GONE = unavailable("J", "no sensor")


@pytest.mark.parametrize(
    ("terms", "value", "status"),
    [
        ([A], 2, "measured"),
        ([A, A], 4, "measured"),
        ([A, B], 5, "estimated"),
        ([B, A], 5, "estimated"),
        ([A, GONE], None, "unavailable"),
        ([GONE, A, B], None, "unavailable"),
        ([], None, "unavailable"),
    ],
)
def test_a_sum_has_the_worst_label_of_its_terms(terms, value, status):
    sum_ = total(terms, "J")
    assert (sum_.value, sum_.unit, sum_.status) == (value, "J", status)
    assert status != "unavailable" or sum_.reason
    assert GONE not in terms or "no sensor" in sum_.reason


def test_a_sum_names_its_sources_and_its_unit_is_one():
    assert total([A, B, A], "J").source == "nvml_counter+model"
    assert not total([A, B], "J").derived
    assert total([A, B.times(2, "J")], "J").derived
    with pytest.raises(UsageError, match="cannot add J to W"):
        total([A], "W")


@pytest.mark.parametrize(
    ("value", "status", "reason"),
    [
        (0.0, "unavailable", "gone"),
        (None, "unavailable", None),
        (None, "measured", "why"),
        (math.nan, "measured", None),
        (math.inf, "estimated", None),
    ],
)
def test_a_quantity_that_lies_is_refused(value, status, reason):
    with pytest.raises(UsageError) as error:
        Quantity(value, "J", status, "source", reason)
    assert "\n" not in str(error.value)


def test_an_unknown_status_is_refused():
    with pytest.raises(Exception, match="guessed"):
        Quantity(1.0, "J", "guessed", "source")


def test_a_quantity_times_a_number_is_derived():
    step = A.times(0.25, "J/step")
    assert (step.value, step.unit, step.status, step.source, step.derived) == (
        0.5,
        "J/step",
        "measured",
        A.source,
        True,
    )
    gone = GONE.times(3, "g")
    assert (gone.value, gone.unit, gone.status, gone.reason) == (None, "g", "unavailable", "no sensor")
    assert "2 J (measured, nvml_counter)" in str(A)
    assert str(GONE) == "unavailable (no sensor)"


def test_carbon_is_kilowatt_hours_times_intensity_times_overhead(scripted, world):
    """1800 W for 10 s are 5 Wh; at 662 g/kWh and PUE 1.2 that is 0.005 x 662 x 1.2 = 3.972 g."""
    reading, _ = run(scripted(world, Gpu("GPU-a", Steps((0.0, 1800.0)))), 10)
    grams = reading.carbon(Intensity(662, "KOBiZE, table 4", 2024, pue=1.2))
    close(grams, 3.972)
    assert (grams.unit, grams.status, grams.derived) == ("g", "estimated", True)
    for word in ("KOBiZE, table 4", "2024", "662", "1.2", "nvml_counter"):
        assert word in grams.source
    assert carbon(A, Intensity(0, "own wind turbine")).value == 0


@pytest.mark.parametrize("citation", ["", " "])
def test_an_intensity_without_a_citation_is_refused(citation):
    with pytest.raises(UsageError, match="citation"):
        carbon(A, Intensity(662, citation))


@pytest.mark.parametrize(
    "intensity", [Intensity(-1, "x"), Intensity(100, "x", pue=0.9), Intensity(math.nan, "x"), Intensity(math.inf, "x")]
)
def test_a_carbon_intensity_that_cannot_be_is_refused(intensity):
    with pytest.raises(UsageError) as error:
        carbon(A, intensity)
    assert "\n" not in str(error.value)


def test_carbon_is_of_energy_and_of_what_is_unavailable_there_is_none():
    with pytest.raises(UsageError, match="W"):
        carbon(Quantity(250.0, "W", "measured", "x"), Intensity(662, "x"))
    unmeasured(carbon(GONE, Intensity(662, "x")), "no sensor")
    assert carbon(GONE, Intensity(662, "x")).unit == "g"


# Second opinions


class Watching:
    """An opinion that remembers, and fails where it is told to."""

    def __init__(self, name="watching", fails=()):
        self.name, self.fails, self.calls = name, fails, []

    def _do(self, what):
        self.calls.append(what)
        if what in self.fails:
            raise ZeroDivisionError(f"planted in {what}\nand more")

    def start(self):
        self._do("start")

    def stop(self):
        self._do("stop")
        return {self.name: Quantity(7, "J", "estimated", "guess")}


def test_opinions_run_beside_the_meter(scripted, world):
    opinion = Watching()
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)))
    reading, edges = run(scripted(world, gpu, opinions=[opinion]), 10)
    assert reading.opinions == {"watching": Quantity(7, "J", "estimated", "guess")}
    assert opinion.calls == ["start", "stop"]
    close(reading.energy, gpu.joules(*edges))
    assert isinstance(opinion, measure.Opinion)
    assert isinstance(measure.Zeus(), measure.Opinion)


@pytest.mark.parametrize("fails", ["start", "stop"])
def test_an_opinion_that_fails_is_unavailable_and_harms_nothing(scripted, world, fails):
    bad, good = Watching("bad", [fails]), Watching("good")
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)))
    reading, edges = run(scripted(world, gpu, opinions=[bad, good], idle_seconds=10), 10)
    unmeasured(reading.opinions["bad"], f"planted in {fails}")
    assert "\n" not in reading.opinions["bad"].reason
    assert reading.opinions["good"].value == 7
    said(reading.notes, "bad", f"planted in {fails}")
    close(reading.energy, gpu.joules(*edges))
    assert reading.net.value is not None
    assert bad.calls == (["start"] if fails == "start" else ["start", "stop"])


def test_the_opinion_of_the_whole_survives_a_window_within(scripted, world):
    """Most tools watch one window at a time: only the outermost one has an opinion."""
    opinion = Watching()
    meter = scripted(world, Gpu("GPU-a", Steps((0.0, 250.0))), opinions=[opinion])
    with meter.window() as outer:
        inner, _ = run(meter, 3)
        run(meter, 3)
    assert outer.reading.opinions["watching"].value == 7
    assert inner.opinions == {}
    assert opinion.calls == ["start", "stop"]


def test_an_opinion_is_stopped_where_the_body_is_interrupted(scripted, world):
    opinion = Watching()
    meter = scripted(world, Gpu("GPU-a", Steps((0.0, 250.0))), opinions=[opinion])
    with pytest.raises(KeyboardInterrupt), meter.window() as window:
        world.work(3)
        raise KeyboardInterrupt
    assert opinion.calls == ["start", "stop"]
    assert window.reading.opinions["watching"].value == 7


@pytest.mark.parametrize(("name", "module"), [("CodeCarbon", "codecarbon"), ("Zeus", "zeus.monitor")])
def test_a_tool_that_is_not_installed_is_unavailable_and_harms_nothing(scripted, world, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    opinion = measure.CodeCarbon("POL") if name == "CodeCarbon" else measure.Zeus()
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)))
    reading, edges = run(scripted(world, gpu, opinions=[opinion]), 10)
    unmeasured(reading.opinions[opinion.name], module, "ModuleNotFoundError")
    close(reading.energy, gpu.joules(*edges))


@pytest.mark.parametrize("country", [None, "", "PL", "Poland", "P0L"])
def test_codecarbon_wants_a_country_or_an_intensity(country):
    with pytest.raises(UsageError) as error:
        measure.CodeCarbon(country)
    assert "\n" not in str(error.value)
    measure.CodeCarbon("POL"), measure.CodeCarbon(g_per_kwh=100)  # control


@pytest.fixture
def connections(monkeypatch):
    """Attempts to reach another machine; each is refused."""
    tried = []

    def refuse(*args, **kwargs):
        tried.append(args)
        raise OSError("no network in this test")

    for owner, name in (
        (socket.socket, "connect"),
        (socket.socket, "connect_ex"),
        (socket, "create_connection"),
        (socket, "getaddrinfo"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    return tried


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.fixture
def codecarbon(monkeypatch, tmp_path):
    """CodeCarbon in an empty home and working folder."""
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CODECARBON")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(measure.opinions, "SHORTEST", 0.2)
    return monkeypatch


def opinion_of(opinion, tmp_path, seconds=0.3):
    with Meter(idle_seconds=0, powercap=tmp_path / "none", opinions=[opinion]).window() as window:
        time.sleep(seconds)
    return window.reading.opinions


def test_codecarbon_estimates_and_reaches_for_nothing(codecarbon, connections, tmp_path):
    codecarbon.setenv("CODECARBON_ELECTRICITYMAPS_API_TOKEN", "planted")  # with it CodeCarbon would ask a server
    codecarbon.setenv("CODECARBON_CO2_SIGNAL_API_TOKEN", "planted")
    found = opinion_of(measure.CodeCarbon("pol"), tmp_path)
    assert connections == []
    assert files(tmp_path) == []
    assert {"codecarbon_cpu", "codecarbon_ram", "codecarbon_co2e"} <= set(found)
    assert {quantity.status for quantity in found.values()} == {"estimated"}
    assert {name: quantity.unit for name, quantity in found.items() if name.endswith("e")} == {"codecarbon_co2e": "g"}
    assert all(quantity.unit == "J" for name, quantity in found.items() if name != "codecarbon_co2e")
    assert found["codecarbon_ram"].value > 0
    assert "POL" in found["codecarbon_co2e"].source.upper()


def test_codecarbon_has_no_opinion_of_a_window_shorter_than_its_period(codecarbon, tmp_path):
    codecarbon.setattr(measure.opinions, "SHORTEST", 15.0)
    unmeasured(opinion_of(measure.CodeCarbon("POL"), tmp_path, 0.01)["codecarbon"], "15 s")


def test_codecarbon_logs_nothing(codecarbon, tmp_path):
    """Its tracker speaks before it looks at the level that it is given."""
    import codecarbon as tool

    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("codecarbon")
    before = log.level
    log.addHandler(handler)
    try:
        opinion_of(measure.CodeCarbon("POL"), tmp_path)
        assert not lines and log.level == before
        log.setLevel("INFO")
        tool.OfflineEmissionsTracker(country_iso_code="POL", output_methods=[], log_level="critical")
        assert lines  # the control
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def test_control_the_network_and_the_files_are_watched(codecarbon, connections, tmp_path):
    """CodeCarbon's own default asks for a place and writes a table."""
    import codecarbon as tool

    tracker = tool.EmissionsTracker(log_level="critical", allow_multiple_runs=True)
    tracker.start()
    tracker.stop()
    assert connections
    assert files(tmp_path)


def test_codecarbons_carbon_is_its_energy_times_the_given_intensity(codecarbon, connections, tmp_path):
    """3.6 MJ are a kWh."""
    codecarbon.setenv("CODECARBON_FORCE_CARBON_INTENSITY_G_CO2E_KWH", "9999")  # the caller's word counts
    found = opinion_of(measure.CodeCarbon(g_per_kwh=500), tmp_path)
    joules = sum(quantity.value for quantity in found.values() if quantity.unit == "J")
    assert found["codecarbon_co2e"].value == pytest.approx(joules / 3.6e6 * 500, rel=1e-6)
    assert "500 g/kWh" in found["codecarbon_co2e"].source
    assert connections == []


def test_a_country_that_codecarbon_does_not_know_is_not_passed_off(codecarbon, tmp_path):
    """CodeCarbon takes the world's average for it."""
    found = opinion_of(measure.CodeCarbon("XYZ"), tmp_path)
    unmeasured(found["codecarbon_co2e"], "XYZ")
    assert found["codecarbon_ram"].status == "estimated"


def test_codecarbon_that_swallows_its_own_failure_is_unavailable(codecarbon, tmp_path, monkeypatch):
    import codecarbon as tool

    class Broken(tool.OfflineEmissionsTracker):
        def start(self):
            pass

        def stop(self):
            return None

    monkeypatch.setattr(tool, "OfflineEmissionsTracker", Broken)
    found = opinion_of(measure.CodeCarbon("POL"), tmp_path)
    unmeasured(found["codecarbon"], "CodeCarbon failed", "logged")


def fake_zeus(monkeypatch, joules, calls, seconds=10.0):
    class ZeusMonitor:
        def __init__(self, *, gpu_indices, cpu_indices, sync_execution_with):
            assert sync_execution_with == "jax"  # not torch, which zeus takes by default
            assert cpu_indices == []  # reading RAPL spawns a process
            calls.append(("made", gpu_indices))

        def begin_window(self, key, sync_execution=True):
            assert sync_execution is False
            calls.append(("begin", key))

        def end_window(self, key, sync_execution=True):
            assert sync_execution is False
            calls.append(("end", key))
            return types.SimpleNamespace(time=seconds, gpu_energy=joules)

    monkeypatch.setitem(sys.modules, "zeus", types.ModuleType("zeus"))
    module = types.ModuleType("zeus.monitor")
    module.ZeusMonitor = ZeusMonitor
    monkeypatch.setitem(sys.modules, "zeus.monitor", module)


def test_zeus_is_asked_without_its_own_waiting(scripted, world, monkeypatch):
    calls = []
    fake_zeus(monkeypatch, {0: 1000.0, 1: 500.5}, calls)
    gpu = Gpu("GPU-a", Steps((0.0, 250.0)))
    reading, _ = run(scripted(world, gpu, opinions=[measure.Zeus([0, 1])]), 10)
    assert reading.opinions == {"zeus_gpu": Quantity(1500.5, "J", "measured", "zeus")}
    assert [name for name, _ in calls] == ["made", "begin", "end"]
    assert calls[0] == ("made", [0, 1])
    assert calls[1][1] == calls[2][1]


def test_zeus_has_no_opinion_of_a_window_in_which_no_tick_may_lie(scripted, world, monkeypatch):
    fake_zeus(monkeypatch, {0: 0.0}, [], seconds=1.5)
    reading, _ = run(scripted(world, Gpu("GPU-a", Steps((0.0, 250.0))), opinions=[measure.Zeus()]), 1.5)
    unmeasured(reading.opinions["zeus_gpu"], "1.50 s")


def test_zeus_without_a_gpu_has_no_opinion(scripted, world, monkeypatch):
    """A sum over nothing is not 0 J."""
    fake_zeus(monkeypatch, {}, [])
    reading, _ = run(scripted(world, Gpu("GPU-a", Steps((0.0, 250.0))), opinions=[measure.Zeus()]), 10)
    assert all(quantity.value is None for quantity in reading.opinions.values())
    assert reading.opinions


# Spans within a window


TRAINING, VALIDATION = 300.0, 120.0


def epochs(meter, load, count, train, validate):
    """A training whose validations draw other power than its steps; the reading and the validations' true joules."""
    world, joules = meter.clock, 0.0
    with meter.window() as window:
        for _ in range(count):
            load.set(world.time, TRAINING)
            world.work(train)
            load.set(world.time, VALIDATION)
            with window.span("validation"):
                world.work(validate)
            joules += VALIDATION * validate
        load.set(world.time, IDLE)
    return window.reading, joules


def test_spans_long_enough_for_the_counter_are_measured_by_it(scripted, world):
    load = Steps((0.0, IDLE))
    reading, truth = epochs(scripted(world, Gpu("GPU-a", load, period=0.1)), load, 4, 12.03, 8.07)
    span = reading.spans["validation"]
    assert (span.count, span.energy.status, span.energy.source) == (4, "measured", "nvml_counter")
    close(span.seconds, 4 * 8.07, 1e-6)
    close(span.energy, truth, 0.03)
    by_time = reading.energy.value * span.seconds.value / reading.seconds.value
    assert by_time > 1.5 * truth  # the control: a share of the seconds takes them for steps
    assert reading.without("in groups").spans["validation"].energy.value is None


def test_shorter_spans_are_estimated_from_the_power_samples_in_them_and_called_so(scripted, world):
    load = Steps((0.0, IDLE))
    reading, truth = epochs(scripted(world, Gpu("GPU-a", load, period=0.1)), load, 40, 0.61, 0.37)
    span = reading.spans["validation"]
    assert span.energy.status == "estimated" and "power samples x seconds" in span.energy.source
    assert "too short for a counter" in span.energy.reason
    close(span.energy, truth, 0.03)
    assert reading.energy.status == "measured"


def test_spans_that_nothing_can_tell_apart_have_the_windows_mean_power_and_say_so(rapl, world, tmp_path):
    """RAPL has no power samples, and a counter that ticks once a second knows nothing of 0.1 s."""
    load = Steps((0.0, IDLE))
    Rapl(world, tmp_path / "intel-rapl:0", "package-0", load, period=1.0)
    reading, truth = epochs(rapl(world), load, 40, 1.0, 0.1)
    span = reading.spans["validation"]
    assert (span.energy.status, span.energy.source) == ("estimated", "mean power of the whole window x seconds")
    close(span.energy, reading.energy.value * span.seconds.value / reading.seconds.value, 1e-9)
    assert span.energy.value > 2 * truth  # what it cannot know


def test_packages_add_up_and_a_window_that_could_not_be_read_has_spans_without_energy(rapl, world, tmp_path):
    load = Steps((0.0, IDLE))
    for at in (0, 1):
        Rapl(world, tmp_path / f"intel-rapl:{at}", f"package-{at}", load)
    reading, truth = epochs(rapl(world), load, 3, 6.0, 6.0)
    assert reading.spans["validation"].energy.status == "measured"
    close(reading.spans["validation"].energy, 2 * truth, 0.03)
    (tmp_path / "none").mkdir()
    reading, _ = epochs(Meter(idle_seconds=0, powercap=tmp_path / "none", clock=world), load, 2, 1.0, 1.0)
    unmeasured(reading.spans["validation"].energy)
    close(reading.spans["validation"].seconds, 2.0)
