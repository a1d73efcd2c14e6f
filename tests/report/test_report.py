"""Result files and what is made of them: every number as it was measured, missing ones as missing."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from fwdonly import Quantity, Result, UsageError, report, results, study
from fwdonly.measure import Part, Reading


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
    summary = study.summarise("mf", [4, 5, 6], result)
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
    header, rows = report.table_rows([study.summarise("mf", [4, 5, 6], result)])
    assert [row[1] for row in rows] == ["4", "5", "6 diverged", "mean of 2"]
    assert rows[0][header.index("test %")] == "88.00" and rows[2][header.index("test %")] == "-"
    assert rows[3][header.index("test %")] == "79.50 ± 12.02"
    assert [row[header.index("softmax test %")] for row in rows] == ["70.00", "50.00", "-", "60.00 ± 14.14"]
    assert report.markdown_table(header, rows).count("\n") == 6


def alone(value: float, seconds: float, note: str = "", status: str = "measured") -> dict:
    """A reading of one run of a board that idles at 60 W."""
    joules = {"value": value, "unit": "J", "status": status, "source": "nvml_counter", "reason": None, "derived": False}
    part = {"name": "GPU-a", "idle": joules | {"value": 60.0}, "utilisation": 0.5, "about": {}, "notes": []}
    own = {"energy": joules, "net": joules | {"value": value - 60 * seconds}, "seconds": joules | {"value": seconds}}
    return own | {"mean_power": joules, "parts": [part], "opinions": {}, "notes": [note] if note else []}


def test_runs_trained_alone_have_their_own_seconds_and_energy_in_the_table(result):
    summary = study.summarise("mf", [4, 5, 6], result)
    for run, seconds, energy in zip(summary["runs"], (40.0, 50.0, 20.0), (4000.0, 6000.0, 1000.0), strict=True):
        run |= {"train_seconds": seconds, "energy": alone(energy, seconds, "other processes" if energy == 6000 else "")}
    header, rows = report.table_rows([summary])
    columns = {name: [row[header.index(name)] for row in rows] for name in ("train s", "energy J", "net J")}
    assert columns["train s"] == ["40.0", "50.0", "20.0", "45.0 ± 7.1"]  # the seed that diverged is not counted
    assert columns["energy J"] == ["4000", "6000", "1000", "5000 ± 1414"]
    assert columns["net J"][:2] == ["1600", "3000"]
    notes = "\n".join(report.footnotes([summary]))
    assert report.tables.ALONE in notes and report.tables.FOOTNOTE not in notes
    assert report.tables.METERED_ALONE in notes and report.tables.METERED not in notes
    assert "MF: energy measured (nvml_counter); GPU-a idle 60 W, busy 50 %; 1 of 3 windows under 30 s" in notes
    assert "other processes (1 of 3 runs)" in notes
    assert report.tables.ACCURACY in notes and "arXiv 2312.02741" in report.tables.ACCURACY
    summary["runs"][0]["energy"] = alone(1.0, 40.0, status="estimated")
    assert "energy of 1 runs estimated (nvml_counter) and of 2 runs measured" in report.footnotes([summary])[-1]


def test_precision_and_processes_side_by_side_are_said(result):
    plain = study.summarise("mf", [4, 5, 6], result)
    assert not any("factors" in note or "side by side" in note for note in report.footnotes([plain]))
    rounded = study.summarise("mf", [4, 5, 6], dataclasses.replace(result, precision="tf32"))
    rounded["runs"][1]["processes"] = 2
    notes = report.footnotes([rounded])
    assert "MF: matrix products and convolutions of tf32 factors." in notes
    assert f"Seconds: {report.tables.SIDE_BY_SIDE}." in notes
    both = [rounded, study.summarise("bp", [4, 5, 6], result)]
    for cost in ("time", "energy"):
        assert report.comparisons._why_not(cost, both, target=False) == report.tables.SIDE_BY_SIDE
    assert report.comparisons._why_not("passes", both, target=False) is None


def test_rules_of_which_the_same_is_said_share_a_footnote(result):
    first, second = (study.summarise(rule, [4, 5, 6], result) for rule in ("mf", "bp"))
    for run in (*first["runs"], *second["runs"]):
        run |= {"train_seconds": 40.0, "energy": alone(4000.0, 40.0)}
    third = study.summarise("ff", [4, 5, 6], result) | {"label": "FF, greedy"}
    lines = report.footnotes([first, second, third])
    assert [line.split(":")[0] for line in lines[-2:]] == ["MF, BP", "FF, greedy"]
    assert report.tables.ALONE in lines and report.tables.FOOTNOTE in lines


def test_the_part_of_validation_in_the_seconds_is_said(result):
    together = study.summarise("mf", [4, 5, 6], result) | {"train_seconds": 20.0, "validation_seconds": 3.0}
    apart = study.summarise("ff", [4, 5, 6], result)
    for run, spent in zip(apart["runs"], (4.0, 5.0, 6.0), strict=True):
        run |= {"train_seconds": 10.0, "validation_seconds": spent}
    line = "Part of validation in train s: MF: 15 %, FF: 50 %."
    assert line in report.footnotes([together, apart])
    for run, part in zip(apart["runs"], (500.0, 1000.0, 1500.0), strict=True):
        energy = alone(part, 40.0, status="estimated")["energy"]
        run["energy"] = alone(4000.0, 40.0) | {"spans": {"validation": {"seconds": energy, "energy": energy}}}
    assert f"{line} Part of validation in energy J: FF: 25 % (estimated)." in report.footnotes([together, apart])
    old = study.summarise("mf", [4, 5, 6], result)  # the control: a folder of before has no such number
    assert not any("validation in train s" in note for note in report.footnotes([{**old, "validation_seconds": None}]))


def test_arithmetic_that_no_larger_batch_adds_to_is_said_where_it_is_much(result):
    shares = {"foton": 0.926, "bp": 0.0, "pepita": 0.02}
    summaries = [study.summarise(rule, [4, 5, 6], result) | {"arithmetic_per_step": a} for rule, a in shares.items()]
    said = [line for line in report.footnotes(summaries) if "arithmetic" in line]
    assert said == ["FOTON: 93 % of its arithmetic is the same for every batch size; larger batches share it."]


def test_before_any_run_has_ended_nothing_is_said_of_seconds(result):
    unfinished = study.summarise("mf", [4, 5, 6], result) | {"runs": []}
    assert report.footnotes([]) == [] == report.footnotes([unfinished])
    assert report.footnotes([study.summarise("mf", [4, 5, 6], result)]) == [report.tables.FOOTNOTE]  # the control


def test_every_run_has_its_machine_and_several_are_said(result, monkeypatch):
    found = results.environment()
    short = f"{found['cpu']}, {found['cores']} cores, {found['device']}, jax {found['packages']['jax']}"
    assert results.machine() == short
    first = study.summarise("mf", [4, 5], result)
    assert {run["machine"] for run in first["runs"]} == {short}
    changed = found | {"cpu": None, "device": "NVIDIA H200"}
    monkeypatch.setattr(results.machines, "environment", lambda: changed)
    second = study.summarise("mf", [6, 7], result)
    elsewhere = f"unknown CPU, {found['cores']} cores, NVIDIA H200, jax {found['packages']['jax']}"
    assert second["runs"][0]["machine"] == elsewhere
    both = results.join([first, second])
    assert report.machines([both]) == {short: {"MF": [4, 5]}, elsewhere: {"MF": [6, 7]}}
    assert f"Seconds and energies are of different machines ({short}; {elsewhere})." in report.footnotes([both])
    assert "different machines" not in "".join(report.footnotes([first]))


def trace(result: Result, seeds: list[int], watts: float, seconds: int) -> list[dict]:
    """Rows of ``power.csv`` of one window of two boards that idle at 60 W."""
    none = Quantity(None, "J", "unavailable", "none", "not asked for")
    plain = {"energy": none, "net": none, "mean_power": none}
    idle = Quantity(60.0, "W", "measured", "nvml_counter")
    rest = {"integral": none, "disagreement": None, "utilisation": None, "period": None, "notes": ()}
    rest |= plain | {"about": {}, "begin": {}, "end": {}, "kind": "gpu", "idle": idle}
    samples = tuple((float(at), watts + at) for at in range(seconds))
    parts = tuple(Part(name=name, trace=samples, **rest) for name in ("GPU-a", "GPU-b"))
    marks = ((3.0, "epoch 1"), (6.0, "epoch 2"))
    more = {"name": "train", "seconds": none, "opinions": {}, "repeats": 1, "notes": ()}
    reading = Reading(parts=parts, marks=marks, **plain, **more)
    return study.power_rows("mf", seeds, dataclasses.replace(result, energy=reading))


def lines_of(rows, tmp_path, monkeypatch):
    """Of the panel of the power figure: traces and other lines, and the labels."""
    drawn = []
    monkeypatch.setattr(report.png, "_save", lambda figure, path: drawn.append(figure))
    report.power_figure(tmp_path / "power.png", rows, "title")
    axis = drawn[0].axes[0]
    others = [line for line in axis.lines if line.get_linestyle() != "-"]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    return [line for line in axis.lines if line not in others], others, labels, axis.get_title()


def test_the_power_of_runs_trained_alone_is_a_line_each_and_survives_the_file(result, tmp_path, monkeypatch):
    rows = trace(result, [4], 100.0, 9) + trace(result, [5], 200.0, 7)
    results.write_rows(tmp_path / "power.csv", results.POWER_COLUMNS, rows)
    assert (tmp_path / "power.csv").read_text().startswith("rule,seed,seconds,device,watts,mark\n")
    assert results.read_power(tmp_path / "power.csv") == rows and {row["seed"] for row in rows} == {4, 5}
    traces, others, labels, title = lines_of(rows, tmp_path, monkeypatch)
    assert [list(line.get_xdata()) for line in traces] == 2 * [list(range(9)), list(range(7))]
    assert [line.get_ydata()[0] for line in traces] == 2 * [100.0, 200.0]
    assert [line.get_color() for line in traces] == ["C0", "C0", "C1", "C1"]
    assert sorted(labels) == ["GPU-a", "GPU-a, idle", "GPU-b", "GPU-b, idle"]
    assert len(others) == 2 + 2  # the ends of epochs of the first seed, and its idle power of each board
    assert title == "MF, 2 runs; dotted and dashed: of seed 4"
    zigzag = lines_of([row | {"seed": None} for row in rows], tmp_path, monkeypatch)[0]  # the control
    assert [list(line.get_xdata()) for line in zigzag] == 2 * [[*range(9), *range(7)]]


def test_power_of_seeds_trained_together_or_of_an_old_file_has_no_seed(result, tmp_path, monkeypatch):
    rows = trace(result, [4, 5], 100.0, 9)
    old = [{name: value for name, value in row.items() if name != "seed"} for row in rows]
    results.write_rows(tmp_path / "power.csv", ["rule", "seconds", "device", "watts", "mark"], old)
    assert "seed" not in (tmp_path / "power.csv").read_text()
    assert results.read_power(tmp_path / "power.csv") == rows and {row["seed"] for row in rows} == {None}
    traces, others, _, title = lines_of(rows, tmp_path, monkeypatch)
    assert (len(traces), len(others), title) == (2, 4, "MF")


def test_metrics_leave_out_epochs_that_were_not_trained_and_survive_the_file(result, tmp_path):
    rows = study.metric_rows("mf", [4, 5, 6], result)
    assert [(row["seed"], row["epoch"]) for row in rows] == [(4, 1), (5, 1), (6, 1), (4, 2), (5, 2), (4, 3)]
    results.write_metrics(tmp_path / "metrics.csv", rows)
    back = results.read_metrics(tmp_path / "metrics.csv")
    accuracies = [row["val_accuracy"] if row["val_accuracy"] == row["val_accuracy"] else None for row in back]
    assert accuracies == [row["val_accuracy"] for row in rows]
    assert math.isnan(back[2]["train_loss"]) and rows[2]["train_loss"] is None


def test_the_figure_is_drawn_also_for_one_epoch_one_seed_and_stages(result, tmp_path):
    rows = study.metric_rows("mf", [4, 5, 6], result)
    staged = [row | {"rule": "bp", "stage": stage} for row in rows for stage in (0, 1)]
    for name, some in (("a.png", rows), ("b.png", rows[:1]), ("c.png", rows + staged)):
        report.learning_curves(tmp_path / name, some, "title")
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_alignment_is_cut_to_the_epochs_that_all_seeds_trained(result, tmp_path):
    result.history["cosine"] = [np.array([[0.1, 0.3, 1.0]] * 3) + 0.1 * at for at in range(3)]
    result.history["norm_ratio"] = [np.ones((3, 3))] * 3
    rows = study.metric_rows("fa", [4, 5, 6], result)
    assert report.png._by_run(rows, "cosine").tolist() == [[[0.1, 0.3, 1.0]]] * 3  # seed 6 diverged in the first epoch
    assert report.png._by_run(rows[:1] + rows[3:4] + rows[5:], "cosine").shape == (1, 3, 3)
    report.alignment_curves(tmp_path / "alignment.png", [*rows, {"rule": "mf", "seed": 4}], "title")
    assert (tmp_path / "alignment.png").read_bytes().startswith(b"\x89PNG")


def test_angles_of_the_last_epoch_are_told_in_degrees_per_layer_and_seed():
    sent = {"cosine": "0.5 1", "norm_ratio": "2 1", "feedback_cosine": "-0.5", "error_cosine": "0"}
    plain = {"cosine": "0 nan", "norm_ratio": "1 1"}
    rows = [{"rule": "fa", "seed": 1, **plain}] + [{"rule": "fa", "seed": seed, **sent} for seed in (1, 2)]
    rows += [{"rule": "mf", "seed": 1, **plain}, {"rule": "bp", "seed": 1}]
    header, table = report.angle_rows(rows, {"fa": "FA"})
    assert header == ["rule", "layer", "direction °", "norm ratio", "B to W °", "errors °"]
    assert table == [
        ["FA", "1", "60.00 ± 0.00", "2.00 ± 0.00", "120.00 ± 0.00", "90.00 ± 0.00"],
        ["FA", "2", "0.00 ± 0.00", "1.00 ± 0.00", "-", "-"],
        ["MF", "1", "90.00", "1.00", "-", "-"],
        ["MF", "2", "nan", "1.00", "-", "-"],
    ]
    assert report.angle_rows([{"rule": "bp", "seed": 1}])[1] == []


def test_the_figure_of_angles_has_two_panels_more_where_errors_travel_by_other_matrices(tmp_path):
    rows = [{"rule": "mf", "seed": 1, "epoch": 1, "cosine": "0.5 1", "norm_ratio": "2 1"}]
    sent = [row | {"rule": "fa", "feedback_cosine": "-0.5", "error_cosine": "0"} for row in rows]
    full, less = tmp_path / "full.png", tmp_path / "less.png"
    report.alignment_curves(full, rows + sent, "title")
    report.alignment_curves(less, rows, "title")
    widths = [int.from_bytes(path.read_bytes()[16:20], "big") for path in (full, less)]
    assert widths[0] > widths[1]


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


def test_a_narrow_terminal_leaves_columns_out_and_breaks_no_row(capsys, monkeypatch):
    header = ["rule", "seed", *[f"column {at}" for at in range(6)]]
    rows = [["MF", "0", *["123.45 ± 6.78"] * 6], ["MF", "mean of 1", *["123.45 ± 6.78"] * 6]]
    monkeypatch.setenv("NO_COLOR", "1")
    for width, terminal, gone in ((80, "1", 3), (60, "1", 4), (200, "1", 0), (80, "", 0)):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TTY_COMPATIBLE", terminal or "0")
        report.print_table("title", header, rows, spare=[f"column {at}" for at in (5, 4, 3, 2)])
        out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        shown = [name for name in header if f" {name} " in out.replace("\n", " \n")]
        assert len(header) - len(shown) == gone, (width, out)
        assert ("left out" in out) == bool(gone) and out.count("123.45 ± 6.78") == 2 * (6 - gone)
        assert not terminal or all(len(line.rstrip()) <= width for line in out.splitlines() if "left out" not in line)
