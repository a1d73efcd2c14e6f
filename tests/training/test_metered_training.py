"""Energy of a training: the loop's window, what it must not change, and what files and figures show of it."""

import json
import re
import sys
import time

import jax
import numpy as np
import optax
import pytest
from fake_power import Gpu, World, nvml
from test_train import MF, STAGES, identical

from fwdonly import Meter, Plan, Quantity, fit, measure, mf, nets, report, results, study, sweep

WATTS = 250.0


class Now(World):
    """The scripted board in real time."""

    time = property(lambda self: time.perf_counter(), lambda self, value: None)


@pytest.fixture
def meter(monkeypatch):
    """Of a board that draws 250 W, whose counter ticks fast enough for short windows."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml(Now(), [Gpu("GPU-a", lambda t: WATTS, period=0.005)]))
    made = Meter(["GPU-a"], idle_seconds=0.3)
    made.sensors[0].shortest = 0.1  # a real board is refused windows below 2 s
    return made


PLAN = Plan(epochs=60, batch_size=10, chunk_steps=4)


def test_the_energy_is_that_of_the_training_alone_and_epochs_are_marked(meter, tiny):
    fresh = mf.rule(nets.mlp([16, 11]), optax.adam(0.01), num_classes=4)  # compiles, which must lie before the window
    result = fit(fresh, tiny, PLAN, meter=meter)
    reading = result.energy
    assert reading.energy.status == "measured" and reading.energy.source == "nvml_counter"
    np.testing.assert_allclose(reading.energy.value, WATTS * reading.seconds.value, rtol=0.02)
    assert abs(reading.net.value) < 0.02 * reading.energy.value  # a board that draws as much when idle
    assert reading.seconds.value < result.train_seconds + 0.1 < result.train_seconds + result.compile_seconds
    assert [name for _, name in reading.marks] == [f"epoch {n}" for n in range(1, 61)]
    span = reading.spans["validation"]
    assert span.count == 60 and 0 < span.seconds.value <= result.validation_seconds + 0.1
    assert span.energy.status == "estimated"  # spans of milliseconds
    np.testing.assert_allclose(span.energy.value, WATTS * span.seconds.value, rtol=0.02)
    assert f"{span.energy.value:.3g} J of it validation, estimated" in repr(result)
    at = [second for second, _ in reading.marks]
    assert at == sorted(at) and at[0] > 0 and at[-1] <= reading.seconds.value


@pytest.mark.parametrize("rule", [MF, STAGES], ids=["mf", "mf-stages"])
def test_a_meter_changes_no_number(rule, meter, tiny):
    plan = Plan(epochs=3, batch_size=10, chunk_steps=4)
    plain, metered = fit(rule, tiny, plan), fit(rule, tiny, plan, meter=meter)
    assert identical(plain.state, metered.state) and plain.energy is None
    np.testing.assert_array_equal(plain.history["val_loss"], metered.history["val_loss"])
    assert not identical(plain.state, fit(rule, tiny, plan, seed=1).state)  # the control
    names = [name for _, name in metered.energy.marks]
    stages = len(STAGES) if rule is STAGES else 1
    assert len(names) == 3 * stages and names[-1] == ("epoch 3" if stages == 1 else f"stage {stages} epoch 3")


def test_nothing_is_compiled_within_the_window(meter, tiny, monkeypatch):
    """Not for later stages, nor for the features of frozen layers either."""
    open_when_compiled, compile_program = [], jax.stages.Lowered.compile

    def spied(self, *args, **kwargs):
        open_when_compiled.append(meter._open)
        return compile_program(self, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", spied)
    stages = mf.stages(nets.mlp([13, 7, 5]), optax.adam(0.01), num_classes=4)
    fit(stages, tiny, Plan(epochs=1, batch_size=30, chunk_steps=4), meter=meter)
    assert len(open_when_compiled) > 6 and set(open_when_compiled) == {0}
    with meter.window():
        jax.jit(lambda x: x + 1).lower(1.0).compile()
    assert open_when_compiled[-1] == 1  # the control


def test_a_meter_that_fails_in_every_way_costs_the_reading_and_nothing_else(meter, tiny, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("the driver is gone")

    plan = Plan(epochs=3, batch_size=10, chunk_steps=4)
    plain = fit(MF, tiny, plan)
    for name in ("joules", "watts", "utilisation", "state", "about"):
        monkeypatch.setattr(meter.sensors[0], name, fail)
    result = fit(MF, tiny, plan, meter=meter)
    assert identical(plain.state, result.state)
    assert result.energy.energy.value is None and result.energy.energy.status == "unavailable"
    assert "the driver is gone" in " ".join(result.energy.parts[0].notes)


def test_an_interrupted_training_keeps_its_reading_and_a_resumed_one_claims_no_total(meter, tiny, tmp_path):
    path, plan = tmp_path / "run.npz", Plan(epochs=4, batch_size=10, chunk_steps=4)
    idle = []
    meter._idle = lambda notes: idle.append(1) or {}
    stopped = fit(MF, tiny, plan, meter=meter, checkpoint=path, callback=lambda progress: progress.epoch == 2)
    assert not stopped.finished and stopped.energy.seconds.value > 0
    assert len(idle) == 1  # before; who stops does not wait for the idle power after
    rest = fit(MF, tiny, plan, meter=meter, checkpoint=path, resume=True)
    assert rest.energy.energy.value is None and "resumed" in rest.energy.energy.reason
    assert identical(rest.state, fit(MF, tiny, plan).state)


def test_a_sweep_is_one_window_and_files_table_and_figure_say_what_it_was(meter, tiny, tmp_path):
    make = lambda learning_rate: mf.rule(nets.mlp([16, 12]), optax.adam(learning_rate), num_classes=4)
    result = sweep(make, tiny, PLAN, seeds=[0, 1], hyper={"learning_rate": 0.01}, meter=meter)
    intensity = measure.Intensity(662, "CodeCarbon 3.3.2, Poland", 2024)
    summary = study.summarise("mf", [0, 1], result, intensity)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    joules = summary["energy"]["energy"]["value"]
    assert summary["energy"]["co2e"]["status"] == "estimated"
    np.testing.assert_allclose(summary["energy"]["co2e"]["value"], joules / 3.6e6 * 662)
    header, rows = report.table_rows([summary])
    assert header[-4:] == ["energy J", "net J", "mean W", "CO2e g"]
    assert rows[0][-4:] == [""] * 4  # a seed has no share of it
    assert float(rows[-1][-4]) == pytest.approx(joules, rel=1e-3) and float(rows[-1][-2]) == pytest.approx(
        250, rel=0.02
    )
    notes = "\n".join(report.footnotes([summary]))
    assert "measured (nvml_counter)" in notes and "all seeds together" in notes and "662 g/kWh" in notes
    powers = study.power_rows("mf", [0, 1], result)
    assert {row["seed"] for row in powers} == {None}  # the trace is of both
    assert {row["seed"] for row in study.power_rows("mf", [3], result)} == {3}
    results.write_rows(tmp_path / "power.csv", results.POWER_COLUMNS, powers)
    assert results.read_power(tmp_path / "power.csv") == powers
    assert [row["watts"] for row in powers if row["mark"] == "idle"] == [pytest.approx(WATTS, rel=0.02)]
    report.power_figure(tmp_path / "power.png", powers, "a title")
    assert (tmp_path / "power.png").stat().st_size > 5000


def test_what_is_unavailable_is_a_dash_and_a_reason_in_the_table_never_zero(tiny, tmp_path):
    result = sweep(
        lambda: MF, tiny, Plan(epochs=1, batch_size=20), seeds=[0], meter=Meter(idle_seconds=0, powercap=tmp_path)
    )
    summary = study.summarise("mf", [0], result)
    _, rows = report.table_rows([summary])
    assert rows[-1][-3:] == ["-", "-", "-"] and summary["energy"]["energy"]["value"] is None
    assert re.search(r"MF: energy unavailable: .*RAPL", "\n".join(report.footnotes([summary])))
    assert study.power_rows("mf", [0], result) == []
    measured = Quantity(0.0, "J", "measured", "nvml_counter")
    assert report.numbers.figure_of(measured.as_json()) == "0"  # the control: a value that is there is shown


def test_a_driver_that_hangs_holds_no_training_up(meter, tiny, monkeypatch):
    """In the thread, for ever: without a limit on the wait for it the window would never end."""
    import threading

    released, main, read = threading.Event(), threading.current_thread(), meter.sensors[0].watts
    monkeypatch.setattr(measure.meter, "HANGS", 0.2)
    monkeypatch.setattr(
        meter.sensors[0],
        "watts",
        lambda: read() if threading.current_thread() is main else released.wait(60) and None,
    )
    plan = Plan(epochs=30, batch_size=10, chunk_steps=4)
    meter.idle_seconds, began = 0, time.perf_counter()
    monkeypatch.setattr(threading.Thread, "join", lambda self, timeout=None: None)
    result = fit(MF, tiny, plan, meter=meter, callback=lambda progress: time.sleep(0.01))
    assert time.perf_counter() - began < 30 and identical(result.state, fit(MF, tiny, plan).state)
    assert result.energy.energy.value is None and "not answered" in " ".join(result.energy.notes)
    released.set()


def test_more_programs_than_the_cache_remembers_are_compiled_before_the_window_too(meter, tiny, monkeypatch):
    import functools

    from fwdonly.training import programs

    monkeypatch.setattr(programs, "program", functools.lru_cache(maxsize=2)(programs.program.__wrapped__))
    open_when_compiled, compile_program = [], jax.stages.Lowered.compile

    def spied(self, *args, **kwargs):
        open_when_compiled.append(meter._open)
        return compile_program(self, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", spied)
    stages = mf.stages(nets.mlp([13, 6]), optax.adam(0.01), num_classes=4)
    fit(stages, tiny, Plan(epochs=1, batch_size=30, chunk_steps=4), meter=meter)
    assert len(open_when_compiled) > 2 and set(open_when_compiled) == {0}


def test_who_is_in_a_hurry_waits_for_no_idle_power(meter):
    meter.idle_seconds, began = 60, time.perf_counter()
    meter.hurry = lambda: True
    with meter.window() as window:
        pass
    assert time.perf_counter() - began < 5 and "idle power of GPU-a could not" in " ".join(window.reading.notes)
