"""The benchmarks of energy and of scaling: their arithmetic against closed forms, and runs that measure nothing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fwdonly import RULES, Batch, measure, nets

SOURCE = Path(__file__).parents[2] / "benchmarks" / "energy.py"


@pytest.fixture(scope="module")
def energy():
    spec = importlib.util.spec_from_file_location("energy_benchmark", SOURCE)
    sys.modules["energy_benchmark"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rules_take_turns_and_every_cell_has_all_its_windows(energy):
    options = energy.Options(rules=("bp", "mf", "ff"), batches=(128, 4096), sweeps=(1, 10), windows=4)
    order = energy.order(options)
    assert len(order) == len(set(order)) == 3 * 2 * 2 * 2 * 4
    for block in range(4):
        turns = [cell.rule for at, cell in order if at == block]
        one = ["bp", "mf", "ff"] if block % 2 == 0 else ["ff", "mf", "bp"]
        assert turns == one * 8


def window(block, rule, joules, seconds, reason=None):
    figure = lambda value: {"value": value, "reason": reason}
    return {
        "block": block,
        "cell": [rule, "784-64", 32, 1],
        "per_image": {"energy": figure(joules), "net": figure(joules)},
        "seconds_per_step": figure(seconds),
        "reading": {"energy": figure(joules), "mean_power": figure(None), "parts": [], "seconds": figure(30.0)}
        | {"notes": [f"idle power was {block}.5 W"]},
        "memory": figure(1e6),
        "device_peak": figure(None),
        "finite": True,
    }


def test_differences_are_paired_by_block_so_drift_common_to_both_rules_falls_out(energy):
    """MF takes 0.8 of BP's time in every block while the machine slows down threefold; energies are missing."""
    drift = [1.0, 1.7, 2.4, 3.0]
    windows = [window(b, "bp", None, d, "no sensor") for b, d in enumerate(drift)]
    windows += [window(b, "mf", None, 0.8 * d * (1.01, 0.99)[b % 2], "no sensor") for b, d in enumerate(drift)]
    windows.append({"block": 9, "cell": ["mf", "784-64", 32, 1], "error": "killed"})
    content, cell = {"windows": windows}, energy.Cell("mf", "784-64", 32, 1)
    found = energy.ratios(content, cell, energy.seconds)
    np.testing.assert_allclose(found, [0.808, 0.792, 0.808, 0.792])
    assert not len(energy.ratios(content, cell, energy.joules))
    mean, low, high = (
        float(word) for word in energy.difference(found).replace("[", "").replace("]", "").replace(",", "").split()[:3]
    )
    # Closed form: log ratios m ± s, standard error sqrt(4/3) s / 2, t(3 degrees, 0.975) = 3.1824.
    logs = np.log([0.808, 0.792])
    half = 3.1824 * np.sqrt(4 / 3) * np.ptp(logs) / 2 / 2
    expected = 100 * (np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]) - 1)
    np.testing.assert_allclose([mean, low, high], expected, atol=0.06)
    unpaired = np.std(np.log([w["seconds_per_step"]["value"] for w in windows[:4]]))
    assert unpaired > 20 * np.std(np.log(found))  # the control: without pairs the drift would drown it
    header, rows = energy.table(content)
    assert [row[header.index("mJ/image")] for row in rows] == ["-", "-"]
    assert rows[1][header.index("energy to BP, %")] == "-" and rows[1][header.index("time to BP, %")].startswith(
        "-20.0"
    )
    counts = [measure.macs(RULES[rule], nets.mlp([64]), (784,), num_classes=10, batch=1) for rule in ("mf", "bp")]
    assert rows[1][header.index("to BP")] == f"{counts[0] / counts[1]:.3f}"
    words = "\n".join(energy.remarks(content))
    assert "8 windows, such as: idle power was 0.5 W" in words and words.count("such as") == 1
    assert "no energy percentage" in words and "a claim needs 10" in words and "no sensor" in words


def run(energy, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["energy.py", *map(str, arguments)])
    code = energy.main()
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_run_without_a_sensor_measures_time_memory_and_arithmetic_and_is_completed(
    energy, monkeypatch, capsys, tmp_path
):
    output = tmp_path / "out.json"
    code, out, err = run(energy, monkeypatch, capsys, "--smoke", "--output", output)
    assert code == 0 and "energy unavailable" in out and "window 4/4" in err and "min left" in err
    content = json.loads(output.read_text())
    assert content["finished"] and len(content["windows"]) == 4 and content["environment"]["packages"]["jax"]
    for own in content["windows"]:
        assert own["seconds_per_step"]["value"] > 0 and own["memory"]["value"] > 0 and own["finite"]
        assert own["per_image"]["energy"]["value"] is None and own["per_image"]["energy"]["reason"]
        assert own["images"] == 32 * own["steps"]
    assert output.with_suffix(".png").stat().st_size > 3000
    assert str(tmp_path) not in output.read_text()
    code, _, err = run(energy, monkeypatch, capsys, "--smoke", "--output", output)
    assert code == 2 and err.count("\n") == 1 and "--resume" in err
    chunk = content["windows"][0]["chunk"]
    assert chunk > 0 and {own["chunk"] for own in content["windows"]} == {chunk}  # as many steps for every rule
    content["windows"] = [*content["windows"][:3], {"block": 1, "cell": ["bp", "784-64", 32, 1], "error": "killed"}]
    output.write_text(json.dumps(content))
    monkeypatch.setattr(energy, "_in_a_process", lambda cell, options, chunk: {"again": [*cell, chunk]})
    monkeypatch.setattr(energy, "table", lambda content: (["a"], [["b"]]))
    monkeypatch.setattr(energy, "remarks", lambda content: [])
    monkeypatch.setattr(energy, "figure", lambda path, content: None)
    assert run(energy, monkeypatch, capsys, "--smoke", "--resume", "--output", output)[0] == 0
    windows = json.loads(output.read_text())["windows"]
    assert len(windows) == 4 and [own for own in windows if "again" in own] == [
        {"block": 1, "cell": ["bp", "784-64", 32, 1], "again": ["bp", "784-64", 32, 1, chunk]}
    ]


def test_bad_input_is_one_line(energy, monkeypatch, capsys, tmp_path):
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{")
    cases = {
        "windows": ["--windows", 0],
        "batches": ["--batches", -1],
        "seconds": ["--seconds", 0],
        "cool-down": ["--cool-down", -1],
        "damaged": ["--resume", "--output", damaged],
        "writable": ["--output", "/proc/none/out.json"],
    }
    for word, arguments in cases.items():
        arguments = arguments if "--output" in arguments else [*arguments, "--output", tmp_path / "new.json"]
        code, _, err = run(energy, monkeypatch, capsys, *arguments)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and word in err, (word, err)
    assert damaged.read_text() == "{" and not (tmp_path / "new.json").exists()


# ---------------------------------------------------------------------------------------------------------------------
# scaling.py


@pytest.fixture(scope="module")
def scaling():
    folder = SOURCE.parent
    sys.path.insert(0, str(folder))
    import scaling

    yield scaling
    sys.path.remove(str(folder))


TINY = {"how": "map", "precision": "float32", "rounds": 1, "window": 0.001, "product": 8}


def measured(scaling, cell, rules=("mf", "bp"), left=1e3, **settings):
    budget = scaling.Budget(left, lambda: 0.0)
    return scaling.measure_cell(cell, rules, scaling.Settings(**TINY | settings), budget, scaling.Pace(1e9, {}, {}))


def test_one_axis_is_varied_at_a_time(scaling):
    base = scaling.Cell(seeds=1, devices=1, batch=128, width=1000, depth=2)
    assert scaling.GRID.base == base and set(scaling.GRID.axes) == set(base._fields)
    for axis, values in scaling.GRID.axes.items():
        cells = scaling.GRID.cells(axis)
        same = base._replace(seeds=8) if axis == "devices" else base  # the same eight seeds on every number of them
        assert [getattr(cell, axis) for cell in cells] == list(values) == sorted(values)
        assert all(cell._replace(**{axis: getattr(same, axis)}) == same for cell in cells)
    spans = {"seeds": (1, 256), "devices": (1, 8), "batch": (32, 4096), "width": (128, 4096), "depth": (1, 20)}
    assert {axis: (values[0], values[-1]) for axis, values in scaling.GRID.axes.items()} == spans
    assert base._replace(seeds=4).macs("mf") == 4 * 128 * 3_628_000


def test_calls_are_long_enough_for_what_they_copy(scaling):
    """A rule that takes 1 ns per multiply-accumulate: one step of the base point takes 0.464 s, of MF."""
    pace, cell = scaling.Pace(1.0, {"mf": 1e-9}, {"mf": 5.0}), scaling.Cell()
    settings = scaling.Settings(**TINY | {"window": 2.0, "rounds": 3})
    step = 128e-9 * 3_628_000
    assert pace.step("mf", cell) == pytest.approx(step) and pace.count("mf", cell, settings) == 4
    assert pace.seconds("mf", cell, settings) == pytest.approx(5 + 2 * 4 * step + 3 * (4 * step + 2.0))
    several = cell._replace(seeds=2)
    assert pace.count("mf", several, settings) == 32 and pace.count("mf", several, settings._replace(how="vmap")) == 4
    assert pace.seconds("mf", several, settings) == pytest.approx(5 + (2 + 3 * 2) * 32 * 2 * step)


def test_rates_follow_from_the_seconds_of_a_call(scaling, monkeypatch):
    """Three seeds, batch 4: 10 steps take 20 ms; a product of 100 rows takes 1 ms, 2e9 operations a second."""
    cell, settings = scaling.Cell(seeds=3, batch=4), scaling.Settings(**TINY | {"product": 100})
    times = {("product", ""): [1e-3, 9.0, 1e-4], ("mf", "fwdonly"): [0.02, 0.05, 0.01]}
    monkeypatch.setattr(scaling, "take_turns", lambda contenders, rounds, seconds: dict(times))

    def holds():
        rows = {"mf": {"macs_per_step": cell.macs("mf")}}
        made, pace = {"mf": scaling.Prepared(lambda: lambda: None, 10, 0.0, 0)}, scaling.Pace(1.0, {}, {})
        scaling.take_their_turns(cell, {"mf": lambda: None}, rows, made, settings, pace)
        row = rows["mf"]
        found = [row[f"seconds_{name}"] for name in ("per_step", "min", "max")]
        found += [row["steps_per_second"], row["samples_per_second"], row["ceiling_flops"], row["over_ideal"]]
        macs = 3 * 4 * (2 * (784 * 1000 + 1000 * 1000) + 3 * 10 * 2000)
        return np.allclose(found, [2e-3, 1e-3, 5e-3, 1500, 6000, 2e9, 2e-3 / (2 * macs / 2e9)])

    assert holds()
    right = scaling.Cell.macs
    monkeypatch.setattr(scaling.Cell, "macs", lambda self, rule: right(self, rule) / self.seeds)  # of one run
    assert not holds()


def test_the_steps_that_are_timed_are_those_of_the_rule(scaling):
    """Three steps of two runs against `update` by hand, each run with batches of its own."""
    rule, start = scaling.begin("mf", 5, 1)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.random((scaling.BATCHES, 4, *scaling.SHAPE)), jnp.float32)
    shared = Batch(x, jnp.asarray(rng.integers(0, 10, (scaling.BATCHES, 4)), jnp.int32))
    job = scaling.Job(rule, scaling.Setup("map", None, "float32"))
    seeds = jnp.arange(2, dtype=jnp.uint32)
    both = jax.tree.map(lambda a: jnp.stack([a, a]), start)
    states, _ = scaling.Programs()(scaling._steps, job, both, seeds, shared, static=(3,))
    update = jax.jit(rule.update)

    def by_hand(first):
        state = start
        for number in range(3):
            at = (first + number) % scaling.BATCHES
            state, _ = update(state, Batch(shared.x[at], shared.y[at]), jax.random.key(0))  # MF draws nothing
        return jax.tree.leaves(state.params)

    def same(run, first):
        pairs = zip(jax.tree.leaves(states.params), by_hand(first), strict=True)
        return all(np.allclose(own[run], hand, atol=1e-6) for own, hand in pairs)

    assert same(0, 0) and same(1, 1) and not same(1, 0)  # the control: the batches of the other run


def test_cells_that_do_not_fit_say_why(scaling, monkeypatch):
    cell = scaling.Cell(batch=4, width=8, depth=1)
    assert all("no time: it may take" in row["skipped"] for row in measured(scaling, cell, left=0.0))
    row = measured(scaling, cell._replace(seeds=99, devices=99), ["mf"])[0]
    assert "refused: devices must be 1 to" in row["skipped"]
    monkeypatch.setattr(scaling, "free_bytes", lambda: 1000)
    rows = measured(scaling, cell)
    assert all("no memory: it needs" in row["skipped"] and row["needs_bytes"] > 1000 for row in rows)

    free, groups, turns = iter([10**9, 1000, 10**9]), [], scaling.take_turns  # BP does not fit beside MF, but alone

    def noted(contenders, *rest):
        groups.append([name for name, _ in contenders])
        return turns(contenders, *rest)

    monkeypatch.setattr(scaling, "free_bytes", lambda: next(free))
    monkeypatch.setattr(scaling, "take_turns", noted)
    rows = measured(scaling, cell)
    assert groups == [["product", "mf"], ["product", "bp"]] and all(row["seconds_per_step"] > 0 for row in rows)

    def full(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    monkeypatch.setattr(scaling, "free_bytes", lambda: None)  # nobody knows
    monkeypatch.setattr(scaling, "take_turns", full)
    assert measured(scaling, cell, ["mf"])[0]["skipped"] == "no memory: RESOURCE_EXHAUSTED: out of memory"


def test_a_process_that_fails_or_takes_too_long_costs_its_cell_alone(scaling, monkeypatch):
    cell, settings = scaling.Cell(seeds=2, devices=2), scaling.Settings(**TINY)

    def found(run, left=60.0):
        monkeypatch.setattr(subprocess, "run", run)
        budget = scaling.Budget(left, lambda: 0.0)
        return scaling.on_devices(cell, ["mf", "bp"], settings, budget, scaling.Pace(1e9, {}, {}))

    def late(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    broken = lambda *_, **__: subprocess.CompletedProcess([], 1, "", "Traceback\nMemoryError: none")
    assert [row["failed"] for row in found(broken)] == ["MemoryError: none"] * 2
    assert all("took longer" in row["skipped"] for row in found(late))
    assert all("no time" in row["skipped"] for row in found(late, left=1.0))


def test_scaling_writes_what_it_measured_and_what_it_left_out(scaling, capsys, tmp_path):
    output = tmp_path / "out.json"
    words = ["--smoke", "--rules", "mf", "--axes", "devices", "seeds", "--output", str(output)]
    assert scaling.main(words) == 0
    out, content = capsys.readouterr().out, json.loads(output.read_text())
    assert content["finished"] and list(content["axes"]) == ["seeds", "devices", "batch", "width", "depth"]
    assert all("not asked for" in content["axes"][name]["skipped"] for name in ("batch", "width", "depth"))
    assert content["axes"]["devices"]["simulated"] and "simulated" not in content["axes"]["seeds"]
    cells = {name: content["axes"][name]["cells"] for name in ("seeds", "devices")}
    assert [(row["seeds"], row["devices"]) for row in cells["seeds"]] == [(1, 1), (2, 1)]
    assert [(row["seeds"], row["devices"]) for row in cells["devices"]] == [(2, 1), (2, 2)]
    for row in [*cells["seeds"], *cells["devices"]]:
        assert row["rule"] == "mf" and (row["batch"], row["width"], row["depth"]) == (4, 16, 1)
        assert row["macs_per_step"] == row["seeds"] * 4 * (2 * 784 * 16 + 3 * 10 * 16)
        assert 0 < row["seconds_min"] <= row["seconds_per_step"] <= row["seconds_max"] and row["compile_seconds"] > 0
        assert row["needs_bytes"] > 0 and row["over_ideal"] > 0 and len(row["rounds"]) == 1
    assert content["ceiling"]["flops"] > 0 and content["environment"]["packages"]["jax"]
    assert "| devices (simulated) |" in out and "batch: not asked for" in out and "left] devices 2 (simulated)" in out
    assert output.with_suffix(".png").stat().st_size > 3000
    assert str(tmp_path) not in output.read_text()


def test_bad_input_of_scaling_is_one_line(scaling, capsys, tmp_path):
    there = tmp_path / "there.json"
    there.write_text("{}")
    cases = {
        "--minutes": ["--minutes", "0"],
        "--seconds": ["--seconds", "nan"],
        "--rounds": ["--rounds", "-1"],
        "invalid choice": ["--rules", "cwc"],
        "invalid choice: 'time'": ["--axes", "time"],
        "twice": ["--rules", "mf", "mf"],
        "exists": ["--output", str(there)],
    }
    for word, arguments in cases.items():
        with pytest.raises(SystemExit) as stopped:
            scaling.main(["--smoke", *arguments])
        err = capsys.readouterr().err
        assert stopped.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and word in err, err
    unwritable = {"writable": ["--output", "/proc/none/out.json"], "needs an accelerator": ["--precision", "tf32"]}
    for word, arguments in unwritable.items():
        assert scaling.main(["--smoke", "--output", str(tmp_path / "new.json"), *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and word in err
    assert there.read_text() == "{}" and not (tmp_path / "new.json").exists()


def test_a_piece_must_fit_into_what_its_section_has_left(monkeypatch):
    monkeypatch.syspath_prepend(str(SOURCE.parent))
    Budget = importlib.import_module("_shared").Budget
    now = [0.0]
    budget = Budget(10.0, lambda: now[0])
    assert budget.lacks() is None and budget.lacks(11.0)
    with budget.piece():
        now[0] = 6.0
    assert "4 of the section's 10 s were left, and it may take 6 s" in budget.lacks()
    now[0] = 12.0
    assert "0 of the section's 10 s" in budget.lacks()
