"""The energy benchmark: its order, its pairs against closed forms, and a run through that measures nothing."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fwdonly import cost, nets

SOURCE = Path(__file__).parents[1] / "benchmarks" / "energy.py"


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
    counts = [cost.macs(rule, nets.mlp([64]), (784,), num_classes=10, batch=1) for rule in ("mf", "bp")]
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
