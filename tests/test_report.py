"""Result files and what is made of them: every number as it was measured, missing ones as missing."""

import json
import math

import numpy as np
import pytest

from fwdonly import Result, UsageError, figures, report, results


@pytest.fixture
def result() -> Result:
    """Three seeds over three epochs: one runs through, one stops after two epochs, one diverges in its first."""
    nan = math.nan
    history = {
        "stage": np.zeros(3, int),
        "epoch": np.arange(1, 4),
        "train_loss": np.array([[0.5, 0.6, nan], [0.4, 0.5, nan], [0.3, nan, nan]]),
        "val_loss": np.array([[0.6, 0.7, nan], [0.5, 0.8, nan], [0.4, nan, nan]]),
        "val_accuracy": np.array([[0.8, 0.7, nan], [0.85, 0.6, nan], [0.9, nan, nan]]),
        "trained": np.array([[True, True, True], [True, True, False], [True, False, False]]),
        "layer_loss": [np.full((3, 2), 0.25)] * 3,
    }
    return Result(
        state=None,
        history=history,
        epochs=np.array([3, 2, 1]),
        kept_epoch=np.array([3, 1, 0]),
        target_epoch=np.array([0, 0, 0]),
        val_loss=np.array([0.4, 0.7, nan]),
        val_accuracy=np.array([0.9, 0.7, nan]),
        test_loss=np.array([0.45, 0.72, nan]),
        test_accuracy=np.array([0.88, 0.71, nan]),
        readouts={"softmax": {"val_accuracy": np.array([0.8, 0.6, nan]), "test_accuracy": np.array([0.7, 0.5, nan])}},
        diverged=np.array([False, False, True]),
        finished=True,
        compile_seconds=2.0,
        train_seconds=12.0,
    )


def test_the_summary_is_json_without_nan_and_shares_seconds_by_epochs(result):
    summary = results.summarise("mf", [4, 5, 6], result)
    text = json.dumps(summary, allow_nan=False)
    runs = json.loads(text)["runs"]
    assert [run["train_seconds_share"] for run in runs] == [6.0, 4.0, 2.0]
    assert runs[2]["test_accuracy"] is None and runs[2]["diverged"]
    statistics = results.statistics_of(summary)
    assert (statistics["n"], statistics["diverged"]) == (2, 1)
    np.testing.assert_allclose(statistics["test_accuracy"]["mean"], 0.795)
    np.testing.assert_allclose(statistics["test_accuracy"]["sd"], 0.17 / math.sqrt(2))  # n - 1
    np.testing.assert_allclose(statistics["softmax_test_accuracy"]["mean"], 0.6)


def test_the_table_has_every_seed_and_says_how_many_the_mean_covers(result):
    header, rows = report.table_rows([results.summarise("mf", [4, 5, 6], result)])
    assert [row[1] for row in rows] == ["4", "5", "6 diverged", "mean of 2"]
    assert rows[0][header.index("test %")] == "88.00" and rows[2][header.index("test %")] == "-"
    assert rows[3][header.index("test %")] == "79.50 ± 12.02"
    assert [row[header.index("softmax test %")] for row in rows] == ["70.00", "50.00", "-", "60.00 ± 14.14"]
    assert report.markdown(header, rows).count("\n") == 6


def alone(value: float, seconds: float, note: str = "", status: str = "measured") -> dict:
    """A reading of one run of a board that idles at 60 W."""
    joules = {"value": value, "unit": "J", "status": status, "source": "nvml_counter", "reason": None, "derived": False}
    part = {"name": "GPU-a", "idle": joules | {"value": 60.0}, "utilisation": 0.5, "about": {}, "notes": []}
    own = {"energy": joules, "net": joules | {"value": value - 60 * seconds}, "seconds": joules | {"value": seconds}}
    return own | {"mean_power": joules, "parts": [part], "opinions": {}, "notes": [note] if note else []}


def test_runs_trained_alone_have_their_own_seconds_and_energy_in_the_table(result):
    summary = results.summarise("mf", [4, 5, 6], result)
    for run, seconds, energy in zip(summary["runs"], (40.0, 50.0, 20.0), (4000.0, 6000.0, 1000.0), strict=True):
        run |= {"train_seconds": seconds, "energy": alone(energy, seconds, "other processes" if energy == 6000 else "")}
    header, rows = report.table_rows([summary])
    columns = {name: [row[header.index(name)] for row in rows] for name in ("train s", "energy J", "net J")}
    assert columns["train s"] == ["40.0", "50.0", "20.0", "45.0 ± 7.1"]  # the seed that diverged is not counted
    assert columns["energy J"] == ["4000", "6000", "1000", "5000 ± 1414"]
    assert columns["net J"][:2] == ["1600", "3000"]
    notes = "\n".join(report.footnotes([summary]))
    assert report.ALONE in notes and report.FOOTNOTE not in notes
    assert report.METERED_ALONE in notes and report.METERED not in notes
    assert "MF: energy measured (nvml_counter); GPU-a idle 60 W, busy 50 %; 1 of 3 windows under 30 s" in notes
    assert "other processes (1 of 3 runs)" in notes
    summary["runs"][0]["energy"] = alone(1.0, 40.0, status="estimated")
    assert "energy of 1 runs estimated (nvml_counter) and of 2 runs measured" in report.footnotes([summary])[-1]


def test_rules_of_which_the_same_is_said_share_a_footnote(result):
    first, second = (results.summarise(rule, [4, 5, 6], result) for rule in ("mf", "bp"))
    for run in (*first["runs"], *second["runs"]):
        run |= {"train_seconds": 40.0, "energy": alone(4000.0, 40.0)}
    third = results.summarise("ff", [4, 5, 6], result) | {"label": "FF, greedy"}
    lines = report.footnotes([first, second, third])
    assert [line.split(":")[0] for line in lines[-2:]] == ["MF, BP", "FF, greedy"]
    assert report.ALONE in lines and report.FOOTNOTE in lines


def test_metrics_leave_out_epochs_that_were_not_trained_and_survive_the_file(result, tmp_path):
    rows = results.metric_rows("mf", [4, 5, 6], result)
    assert [(row["seed"], row["epoch"]) for row in rows] == [(4, 1), (5, 1), (6, 1), (4, 2), (5, 2), (4, 3)]
    results.write_metrics(tmp_path / "metrics.csv", rows)
    back = results.read_metrics(tmp_path / "metrics.csv")
    accuracies = [row["val_accuracy"] if row["val_accuracy"] == row["val_accuracy"] else None for row in back]
    assert accuracies == [row["val_accuracy"] for row in rows]
    assert math.isnan(back[2]["train_loss"]) and rows[2]["train_loss"] is None


def test_the_figure_is_drawn_also_for_one_epoch_one_seed_and_stages(result, tmp_path):
    rows = results.metric_rows("mf", [4, 5, 6], result)
    staged = [row | {"rule": "bp", "stage": stage} for row in rows for stage in (0, 1)]
    for name, some in (("a.png", rows), ("b.png", rows[:1]), ("c.png", rows + staged)):
        figures.learning_curves(tmp_path / name, some, "title")
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_alignment_is_cut_to_the_epochs_that_all_seeds_trained(result, tmp_path):
    result.history["cosine"] = [np.array([[0.1, 0.3, 1.0]] * 3) + 0.1 * at for at in range(3)]
    result.history["norm_ratio"] = [np.ones((3, 3))] * 3
    rows = results.metric_rows("fa", [4, 5, 6], result)
    assert figures._by_run(rows, "cosine").tolist() == [[[0.1, 0.3, 1.0]]] * 3  # seed 6 diverged in the first epoch
    assert figures._by_run(rows[:1] + rows[3:4] + rows[5:], "cosine").shape == (1, 3, 3)
    figures.alignment_curves(tmp_path / "alignment.png", [*rows, {"rule": "mf", "seed": 4}], "title")
    assert (tmp_path / "alignment.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_cannot_be_written_is_one_clear_line_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "summary.json"
    results.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(UsageError, match="writable folder"):
        results.write_json(tmp_path / "no" / "summary.json", {})
    with pytest.raises(UsageError, match="writable folder"):
        results.write_metrics(tmp_path / "no" / "metrics.csv", [])


def test_the_environment_names_software_and_hardware():
    found = results.environment()
    assert found["packages"]["jax"] and found["cores"] >= 1 and found["backend"] == "cpu"
    json.dumps(found, allow_nan=False)
