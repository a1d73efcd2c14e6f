"""The meter on the device's own sensors: counter against samples, edges, idle power, nested windows, what is missing.

In the dry run board and time are scripted (``fake_power``).
"""

import sys
import time

import jax
import jax.numpy as jnp
import pytest
from fake_power import Gpu, Steps, World, nvml

from fwdonly import Meter, measure

pytestmark = pytest.mark.alone  # the board's power is everybody's
IDLE, BUSY = 60.0, 300.0


class Load:
    """Work for the device, and the meter that watches it; in the dry run a scripted board."""

    def __init__(self, dry, patch, folder, **board):
        self.dry, self.curve, self.world = dry, Steps((0.0, IDLE)), World()
        self.settings = {"powercap": folder / "none"}
        if dry:
            patch.setitem(sys.modules, "pynvml", nvml(self.world, [Gpu("GPU-0", self.curve, **board)]))
            self.settings |= {"devices": ["GPU-0"], "clock": self.world}
            return
        self.a = jnp.ones((4096, 4096), jnp.bfloat16)
        self.step = jax.jit(lambda a: jax.lax.fori_loop(0, 50, lambda _, b: (b @ a) / 4096, a))
        self.step(self.a).block_until_ready()

    def meter(self, **options):
        return Meter(**self.settings | {"idle_seconds": 0} | options)

    def work(self, seconds):
        """Keep the device busy; the host runs ahead by one call."""
        if self.dry:
            self.curve.set(self.world.time, BUSY)
            self.world.work(seconds)
            self.curve.set(self.world.time, IDLE)
            return
        end, last = time.perf_counter() + seconds, self.a
        while time.perf_counter() < end:
            last, before = self.step(last), last
            before.block_until_ready()


@pytest.fixture
def load(dry, monkeypatch, tmp_path):
    return lambda **board: Load(dry, monkeypatch, tmp_path, **board)


def board_of(reading):
    (part,) = [part for part in reading.parts if part.kind == "gpu"]
    return part


@pytest.mark.slow_device
def test_the_counter_is_the_integral_of_power_and_idle_power_is_taken_off(load):
    """Twenty seconds of steps, three of rest before and after, and a window within the window."""
    one = load()
    meter = one.meter(idle_seconds=3)
    with meter.window("outer") as outer:
        one.work(10)
        with meter.window("inner") as inner:
            one.work(10)
    part, within = board_of(outer.reading), board_of(inner.reading)
    assert part.energy.status == "measured" and part.energy.value > 0, outer.reading
    assert part.disagreement is not None and abs(part.disagreement) < 0.05, part
    assert part.idle.value is not None and 0 < part.idle.value < part.mean_power.value, part
    seconds = outer.reading.seconds.value
    assert part.net.value == pytest.approx(part.energy.value - part.idle.value * seconds, rel=0.02)
    assert 19 < seconds < 25 and 9 < inner.reading.seconds.value < 13
    share = within.energy.value / part.energy.value
    assert abs(share - inner.reading.seconds.value / seconds) < 0.1  # alike at constant load
    assert outer.reading.energy.value == pytest.approx(part.energy.value)


def test_a_board_without_a_counter_falls_back_on_samples(load, dry, monkeypatch):
    one = load(counter=False)
    if not dry:
        import pynvml

        def missing(handle):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", missing)
    with one.meter().window() as window:
        one.work(7)
    part = board_of(window.reading)
    assert part.integral.value is None or part.integral.value > 0
    if part.energy.value is None:  # this driver gives means of a second, too slow for so short a window
        assert not dry and part.energy.reason
    else:
        assert part.energy.value == pytest.approx(part.integral.value, rel=0.01)
        assert part.disagreement is None


def test_a_window_lasts_until_the_device_has_finished(dry, tmp_path):
    """What is only dispatched in it is in it."""
    size = 1000 if dry else 4096
    a = jnp.ones((size, size))
    long = jax.jit(lambda a: jax.lax.fori_loop(0, 20 if dry else 1000, lambda _, b: (b @ a) / size, a))
    with jax.default_matmul_precision("highest"):
        long(a).block_until_ready()
        began = time.perf_counter()
        long(a).block_until_ready()
        alone = time.perf_counter() - began
        meter = Meter(devices=None, idle_seconds=0, powercap=tmp_path / "none")
        with meter.window() as window:
            began = time.perf_counter()
            kept = long(a)
            dispatch = time.perf_counter() - began
    assert window.reading.seconds.value > 0.5 * alone
    if not dry:
        assert dispatch < 0.2 * alone  # the control: the host itself did not wait
    assert kept.is_ready()


def test_what_is_missing_is_said(load, monkeypatch):
    """CodeCarbon is not installed on such machines: its opinion is a reason, and the reading is there."""
    one = load()
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with one.meter(opinions=[measure.CodeCarbon("POL")]).window() as window:
        one.work(3)
    said = window.reading.opinions["codecarbon"]
    assert said.value is None and "codecarbon" in said.reason
    assert board_of(window.reading).energy.value > 0
