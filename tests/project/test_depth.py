"""The benchmark of depth: it goes on from the rows that are there, and draws them."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "depth.py"


@pytest.fixture
def depth(monkeypatch):
    spec = importlib.util.spec_from_file_location("depth_benchmark", SOURCE)
    monkeypatch.setitem(sys.modules, "depth_benchmark", module := importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


def accuracy_row(name, depth, accuracies):
    seeds = list(range(len(accuracies)))
    row = {"rule": name, "label": name.upper(), "depth": depth, "seed": seeds, "test_accuracy": accuracies}
    return row | {"epochs": [3 + seed for seed in seeds], "probes": [0.9] * depth}


def test_rows_that_are_there_are_kept_and_drawn_and_others_are_added(depth, tmp_path, monkeypatch):
    asked = []

    def memory_row(name, layers, options):
        asked.append((name, layers))
        return [{"rule": name, "label": name, "depth": layers, "total": 2.0e6, "temporary": 1.0e6 * layers}]

    def accuracy_rows(name, layers, options):
        asked.append((name, layers))
        return [accuracy_row(name, layers, [0.9, None])]  # one of them diverged

    monkeypatch.setattr(depth, "memory_row", memory_row)
    monkeypatch.setattr(depth, "accuracy_rows", accuracy_rows)
    files = {"output": tmp_path / "d.json", "figure": tmp_path / "d.png", "memory": ("bp", "mf")}
    depth.main(depth.Options(depths=(2,), parts=("memory",), **files))
    assert asked == [("bp", 2), ("mf", 2)]
    depth.main(depth.Options(depths=(2, 3), **files))
    assert asked[2:] == [("bp", 3), ("mf", 3), ("mf", 2), ("bp", 2), ("mf", 3), ("bp", 3)]
    record = json.loads(files["output"].read_text())
    assert [len(record[part]) for part in ("memory", "accuracy")] == [4, 4]
    assert files["figure"].read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="other settings"):
        depth.main(depth.Options(depths=(2,), width=7, **files))


def test_memory_is_that_of_the_largest_stage(depth):
    options = depth.Options(width=16, batch=64)
    (row,) = depth.memory_row("bp", 2, options)
    assert 0 < row["temporary"] < row["total"] and row["depth"] == 2
    assert depth.net_of(3, options) == "mlp:16,16,16"
