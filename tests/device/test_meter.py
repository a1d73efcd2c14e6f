"""The meter against the device's own sensors."""

import time

import jax
import jax.numpy as jnp
import pytest

from fwdonly import Meter


@pytest.fixture(scope="module")
def work():
    """A call that keeps the device busy for some milliseconds, and does not wait."""
    size = 64 if jax.default_backend() == "cpu" else 4096
    a = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
    call = jax.jit(lambda a, c: jax.lax.fori_loop(0, 8, lambda _, c: a @ c, c))
    jax.block_until_ready(call(a, a))
    return lambda: call(a, a)


def test_counter_and_integrated_power_agree_and_idle_power_is_told_apart(work, on_cpu):
    seconds = 0.1 if on_cpu else 20.0
    meter = Meter(idle_seconds=0 if on_cpu else 2)
    reading = meter.repeat(work, seconds=seconds, warm_up=0 if on_cpu else 1, name="products")
    assert reading.seconds.value >= seconds
    if on_cpu:
        assert reading.energy.value is not None or reading.energy.reason
        return
    (board,) = [part for part in reading.parts if part.kind == "gpu"]
    assert board.energy.source == "nvml_counter" and abs(board.disagreement) < 0.05
    assert 0 < board.idle.value < board.mean_power.value
    assert reading.net.value < reading.energy.value


def test_two_windows_nested(work, on_cpu):
    meter = Meter(idle_seconds=0)
    with meter.window("outer") as outer:
        begin = time.perf_counter()
        with meter.window("inner") as inner:
            while time.perf_counter() - begin < (0.1 if on_cpu else 6):
                jax.block_until_ready(work())
        if not on_cpu:
            time.sleep(3)
    assert inner.reading.seconds.value <= outer.reading.seconds.value
    if not on_cpu:
        assert inner.reading.energy.value < outer.reading.energy.value


def test_the_window_waits_for_the_device(work, on_cpu):
    """Its end lies after the work that was asked for: a window around a call that does not wait lasts as long."""
    count = 2 if on_cpu else 40
    begin = time.perf_counter()
    for _ in range(count):
        last = work()
    jax.block_until_ready(last)
    waited = time.perf_counter() - begin
    with Meter(idle_seconds=0).window("asked") as window:
        for _ in range(count):
            work()
    assert window.reading.seconds.value > (0 if on_cpu else 0.5 * waited)
    assert jnp.isfinite(last).all()
