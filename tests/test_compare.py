"""Search, comparison and reproduction as a user runs them, on scikit-learn's digits with a tiny network."""

import csv
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("quickest_compilation")

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TINY = ["--dataset", "digits", "--net", "mlp:16,16", "--batch-size", "64", "--quiet"]


def read(folder, name="summary.json"):
    return json.loads((folder / name).read_text())


def rows(folder):
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


def untimed(folder):
    """What a run found, without what the clock says."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(folder)]


def numbers(folder):
    return {
        (rule["rule"], run["seed"]): (run["test_accuracy"], run["val_loss"], run["epochs"], run["kept_epoch"])
        for rule in read(folder)["rules"]
        for run in rule["runs"]
    }


def test_a_comparison_ends_in_verdicts_and_a_report_from_paired_runs(script, tmp_path):
    folder = tmp_path / "c"
    code, out, _ = script("compare", *TINY, "--seeds", 3, "--epochs", 3, "--output-dir", folder)
    assert code == 0 and "3 seeds" in out and (folder / "report.html").stat().st_size > 10_000
    summary = read(folder)
    assert summary["finished"] and summary["protocol"]["reference"] == "bp"
    for rule in summary["rules"]:
        assert [run["seed"] for run in rule["runs"]] == [0, 1, 2]
        assert len({run["test_accuracy"] for run in rule["runs"]}) > 1 and rule["memory"]["value"] > 0
        for run in rule["runs"]:
            assert run["train_seconds"] > 0 and run["arithmetic"]["value"] > 0
            assert run["images"] == 3 * 64 * (summary["data"]["train"] // 64)
    assert all(row["seconds"] for row in rows(folder))


def test_turns_alternate_and_a_rule_alone_gives_the_numbers_of_its_own_script(script, tmp_path):
    from _common import turns

    assert [(arm, seed[0]) for arm, seed in turns([range(3)] * 2, True)] == [
        (0, 0),
        (1, 0),
        (1, 1),
        (0, 1),
        (0, 2),
        (1, 2),
    ]
    second_of_two = [(arm, seed[0]) for arm, seed in turns([[1, 3], [1, 3]], True, 2)]  # which has every other seed
    assert second_of_two == [(0, 1), (1, 1), (1, 3), (0, 3)]
    shared = [*TINY, "--seeds", 2, "--epochs", 2, "--keep", "best_loss"]
    assert script("compare", *shared, "--set", "mf=--learning-rate 0.003", "--output-dir", tmp_path / "c")[0] == 0
    own = ["--optimizer", "adamw", "--lr-schedule", "constant", "--patience", "10", "--no-compare"]
    assert script("mf_mlp", *shared, *own, "--learning-rate", 0.003, "--output-dir", tmp_path / "m")[0] == 0
    together = numbers(tmp_path / "m")
    assert {key: value for key, value in numbers(tmp_path / "c").items() if key[0] == "mf"} == together


def test_matched_passes_are_the_same_number_of_images_for_every_rule_stages_included(script, tmp_path):
    folder = tmp_path / "c"
    rules = ["--rules", "mf-greedy-m0", "mf", "bp", "--protocol", "matched-passes", "--passes", 7]
    code, _, _ = script("compare", *TINY, *rules, "--seeds", 2, "--output-dir", folder)
    assert code == 0
    found = {rule["rule"]: rule["runs"] for rule in read(folder)["rules"]}
    images = {run["images"] for runs in found.values() for run in runs}
    assert len(images) == 1 and images.pop() % (7 * 64) == 0
    assert {run["epochs"] for runs in found.values() for run in runs} == {7}
    assert found["mf-greedy-m0"][0]["stage_epochs"] == [3, 2, 2] and found["bp"][0]["stage_epochs"] == [7]
    assert found["mf"][0]["kept_epoch"] == 7  # the last state, not the best
    # The control: every stage given all of the passes is three times as many.
    code, _, _ = script("compare", *TINY, "--rules", "mf-greedy-m0", "bp", "--epochs", 7, "--patience", "None",
                        "--seeds", 2, "--output-dir", tmp_path / "own")  # fmt: skip
    assert code == 0 and {run["epochs"] for run in read(tmp_path / "own")["rules"][0]["runs"]} == {21}


def test_to_target_counts_passes_to_the_first_of_two_validations_and_keeps_the_misses(script, tmp_path):
    folder = tmp_path / "c"
    rules = ["--rules", "mf", "bp", "--protocol", "to-target", "--target", 0.8, "--epochs", 12]
    code, out, _ = script(
        "compare", *TINY, *rules, "--set", "mf=--learning-rate 1e-5", "--seeds", 2, "--output-dir", folder
    )
    assert code == 0 and "0 of 2" in out
    summary = {rule["rule"]: rule["runs"] for rule in read(folder)["rules"]}
    assert all(run["target_epoch"] is None and run["epochs"] == 12 for run in summary["mf"])
    for run in summary["bp"]:
        accuracy = [
            float(r["val_accuracy"]) for r in rows(folder) if r["rule"] == "bp" and r["seed"] == str(run["seed"])
        ]
        both = [i for i in range(len(accuracy) - 1) if accuracy[i] >= 0.8 and accuracy[i + 1] >= 0.8]
        assert run["target_epoch"] == both[0] + 1 and run["epochs"] == both[0] + 2 == len(accuracy)
        assert 0 < run["target_seconds"] < run["train_seconds"]


def test_a_killed_comparison_repeats_no_finished_run(script, tmp_path, monkeypatch):
    import _common

    arguments = ["compare", *TINY, "--seeds", 2, "--epochs", 2, "--output-dir", tmp_path / "c"]
    real, trained = _common.sweep, []

    def dies(make_rule, *args, **more):
        if more.get("checkpoint") is not None:
            trained.append(more["checkpoint"].name)
            if len(trained) == 3:
                raise KeyboardInterrupt
        return real(make_rule, *args, **more)

    monkeypatch.setattr(_common, "sweep", dies)
    assert script(*arguments)[0] == 130
    assert not read(tmp_path / "c")["finished"] and len(numbers(tmp_path / "c")) == 2
    code, _, error = script(*arguments)
    assert code == 2 and "--resume" in error
    code, _, error = script(*arguments, "--resume", "--no-alone")
    assert code == 2 and "alone" in error  # seeds together would be added to those alone
    assert script(*arguments, "--resume")[0] == 0
    assert [name.split(".")[0] for name in trained] == ["mf-0", "bp-0", "bp-1", "bp-1", "mf-1"]
    monkeypatch.setattr(_common, "sweep", real)
    assert script(*arguments[:-1], tmp_path / "whole")[0] == 0
    assert numbers(tmp_path / "c") == numbers(tmp_path / "whole") and untimed(tmp_path / "c") == untimed(
        tmp_path / "whole"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rules", "mf"], "two or more different rules"),
        (["--rules", "mf", "mf"], "two or more different rules"),
        (["--rules", "mf", "cafo"], "compared on one network"),
        (["--protocol", "to-target"], "needs --target"),
        (["--target", "0.9"], "belongs to --protocol to-target"),
        (["--protocol", "to-target", "--target", "95"], "target is an accuracy"),
        (["--protocol", "matched-passes", "--rules", "mf-greedy", "bp", "--passes", "1"], "at least as many --passes"),
        (["--reference", "foton"], "not among --rules"),
        (["--set", "ff=--peer 1"], "a rule among mf, bp"),
        (["--set", "bp='--x"], "No closing quotation"),
        (["--set", "bp=--preset mnist"], "a preset of bp would also set data and stopping"),
        (["--set", "bp=--normalise none"], "--normalise is the same for all rules"),
        (["--set", "bp=--epochs 9", "--protocol", "matched-passes"], "--epochs is the same for all rules"),
        (["--set", "bp=--target 0.3", "--protocol", "to-target", "--target", "0.5"], "--target is the same"),
        (["--protocol", "to-target", "--target", "0.5", "--passes", "7"], "--passes does not belong to"),
        (["--protocol", "matched-passes", "--patience", "3"], "--patience does not belong to"),
        (["--rules", "ff", "bp"], "--monitor accuracy --keep best_accuracy"),
        (["--rules", "cafo", "bp-cwc", "--channels", "10", "20"], "compared on one network"),
        (["--tuned", "nowhere"], "not a result folder of tune.py"),
        (["--margin", "0"], "must be above 0"),
    ],
)
def test_comparisons_that_cannot_be_are_refused_in_one_line(script, tmp_path, arguments, words):
    code, _, error = script("compare", *TINY, "--seeds", 2, *arguments, "--output-dir", tmp_path / "c")
    assert code == 2 and words in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "c" / "config.json").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("compare", ["--rules", "mf", "nonsense"], "nonsense"),
        ("compare", ["--protocol", "nonsense"], "nonsense"),
        ("tune", ["--rule", "nonsense"], "nonsense"),
        ("reproduce", ["--table", "nonsense"], "nonsense"),
    ],
)
def test_unknown_names_are_refused(script, name, arguments, words):
    code, _, error = script(name, *arguments)
    assert code == 2 and words in error


def test_an_option_that_the_rules_script_does_not_have_is_refused(script, tmp_path):
    code, _, error = script("compare", *TINY, "--set", "bp=--peer 1", "--output-dir", tmp_path / "c")
    assert code == 2 and "bp_mlp.py, which trains bp, does not take --peer 1" in error


def test_a_search_prints_the_command_that_trains_the_best_settings(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "tune-mf-digits-MLP-16-16"
    arguments = ["tune", "--rule", "mf", *TINY, "--trials", 7, "--seeds", 2, "--epochs"]
    code, out, _ = script(*arguments, 4)
    assert code == 0 and {"best.json", "trials.csv", "search.png"} <= {path.name for path in folder.iterdir()}
    best = read(folder, "best.json")
    assert best["trials"] == 7 and best["val_accuracy"] == pytest.approx(np.mean(best["per_seed"]))
    command = re.search(r"python experiments/mf_mlp.py (.*)", out)[1]
    more = ["--first-seed", 1000, "--seeds", 2, "--no-compare", "--output-dir", tmp_path / "b"]
    assert script("mf_mlp", *shlex.split(command), *more)[0] == 0
    assert [run["val_accuracy"] for run in read(tmp_path / "b")["rules"][0]["runs"]] == pytest.approx(best["per_seed"])
    # A finished search trains nothing more.
    before = (folder / "trials.csv").read_text()
    assert script(*arguments, 4)[0] == 0 and (folder / "trials.csv").read_text() == before
    code, _, error = script(*arguments, 5)
    assert code == 2 and "is another one: about.settings.epochs is 4 there and 5 here" in error
    # And its settings reach a comparison.
    compared = [*TINY, "--seeds", 1, "--epochs", 1, "--tuned", folder, "--output-dir", tmp_path / "c"]
    assert script("compare", *compared)[0] == 0
    rules = read(tmp_path / "c", "config.json")["configuration"]["rules"]
    assert rules["mf"]["learning_rate"] == best["values"]["learning_rate"] != rules["bp"]["learning_rate"]


def test_settings_of_a_rule_that_depart_are_told(script, tmp_path):
    own = ["--set", "bp=--patience 1 --learning-rate 0.01", "--rules", "mf-greedy", "bp"]
    assert script("compare", *TINY, *own, "--seeds", 1, "--epochs", 2, "--output-dir", tmp_path / "c")[0] == 0
    notes = read(tmp_path / "c")["protocol"]["notes"]
    assert notes == ["MF, greedy has settings from no search.", "BP stops by a rule of its own: patience 1."]
    assert [rule["tuned"] for rule in read(tmp_path / "c")["rules"]] == [False, True]


def test_the_command_of_a_twin_says_its_own_options(script, tmp_path):
    small = ["--dataset", "digits", "--channels", "4", "4", "--quiet", "--trials", 1, "--seeds", 1, "--epochs", 1]
    code, out, _ = script("tune", "--rule", "bp-cafo", *small, "--batch-size", 64, "--output-dir", tmp_path / "t")
    assert code == 0 and "first guess" in out
    command = re.search(r"python experiments/cafo_cnn.py (.*)", out)[1]
    for words in (
        "--bp.batch-size 64",
        "--bp.epochs 1",
        "--bp.keep best_loss",
        "--bp.patience None",
        "--bp.learning-rate",
    ):
        assert words in command


def test_every_rule_of_the_table_searches_numbers_of_its_own_script_alike(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    from _common import Shared
    from _rules import RULES, arm_of, options_of, value_of

    decades = {}
    for name, rule in RULES.items():
        options = options_of(name, Shared())
        assert arm_of(name, options).name == name
        for key in rule.space:
            changed = arm_of(name, options, {key: 0.5 * (rule.space[key].low + rule.space[key].high)})
            assert getattr(changed.options, key, None) != value_of(name, options, key) or key not in dir(
                changed.options
            )
        decades[name] = [np.log10(own.high / own.low).round(6) for own in rule.space.values() if own.log]
    assert set(map(tuple, decades.values())) == {(3.0, 3.0)}


def test_a_table_is_reproduced_row_by_row_and_says_what_was_not_run(script, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import _tables

    about = {"n": 2, "repeated": True}
    row = _tables.Run(
        "digits",
        shlex.join(["bp_mlp.py", *TINY, "--epochs", "2"]),
        (_tables.Cell("bp", 12.0, 0.5, **about), _tables.Cell("bp", 2, 0.0, metric="epochs", note="odd", **about)),
    )
    missing = _tables.Run("nowhere", "bp_mlp.py --dataset nowhere", (_tables.Cell("bp", 50.0, None, None),))
    monkeypatch.setitem(_tables.TABLES, "mf-2025", _tables.Table("somewhere", (row, missing), "Joules are left out."))
    folder, digits = tmp_path / "r", tmp_path / "r" / "digits"
    arguments = ["reproduce", "--table", "mf-2025", "--margin", 1.0, "--output-dir", folder, "--seeds"]
    code, out, _ = script(*arguments, 3, "--list")
    assert code == 0 and "Joules are left out." in out and "12 ± 0.5 (2 distinct seeds)" in out and not folder.exists()
    code, _, error = script(*arguments, 3)
    assert code == 0 and "nowhere" in error
    cells = read(folder, "reproduction.json")["cells"]
    assert cells[0]["outcome"].startswith("not reproduced") and len(cells[0]["values"]) == 3
    assert cells[1]["outcome"] == "reproduced; published from 2 distinct seeds" and cells[1]["values"] == [2.0] * 3
    assert cells[2]["outcome"].startswith("not run: ") and cells[2]["why"] and cells[2]["values"] is None
    assert "Joules are left out." in (folder / "reproduction.md").read_text()
    # The published numbers lie beside the measured ones, and are shown.
    summary = read(digits)
    assert summary["finished"] and summary["statistics"] and len(summary["rules"][0]["runs"]) == 3
    assert summary["rules"][0]["published"] == [
        {"metric": "test_accuracy", "value": 12.0, "sd": 0.5, "n": 2, "unit": "%", "source": "somewhere"},
        {"metric": "epochs", "value": 2, "sd": 0.0, "n": 2, "unit": "passes", "source": "somewhere; odd"},
    ]
    page = (digits / "report.html").read_text()
    assert "published 12.00 ± 0.50 (n = 2)" in page and "somewhere; odd" in page
    written = (digits / "summary.json").stat().st_mtime_ns, (digits / "metrics.csv").stat().st_mtime_ns
    assert script(*arguments, 3, "--only", "digits")[0] == 0  # what is finished is not trained again
    assert ((digits / "summary.json").stat().st_mtime_ns, (digits / "metrics.csv").stat().st_mtime_ns) == written
    # Folders of other runs are no result of this row, unless it is left out.
    fault = f"error: {digits} holds another run"
    config = read(digits, "config.json")
    script_path, rest = config["command"].split("bp_mlp.py")
    for more, damage, words in (
        ([4], config, "(--seeds is 3 there and 4 here)"),
        ([3, "--first-seed", 1], config, "(--first-seed is 0 there and 1 here)"),
        ([3, "--quick"], config, "(--epochs is 2 there and 3 here)"),
        ([3], config | {"command": f"{script_path}mf_mlp.py{rest}"}, "(of mf_mlp.py, not bp_mlp.py)"),
        ([3], config | {"command": config["command"] + " --split paper"}, "(--split is paper there and None here)"),
        ([3], {}, "(no config.json says which)"),
    ):
        (digits / "config.json").write_text(json.dumps(damage))
        code, _, error = script(*arguments, *more)
        assert (code, error) == (2, f"{fault} {words}; give another --output-dir\n")
    (digits / "config.json").unlink()
    assert script(*arguments, 3)[2].startswith(fault)
    assert script(*arguments, 3, "--only", "nowhere")[0] == 0
    assert read(folder, "reproduction.json")["cells"][0]["values"] is None


def test_a_quick_table_reproduces_nothing_and_a_changed_preset_is_another_run(script, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import _presets
    import _tables

    words = ["bp_mlp.py", "--preset", "mnist", *TINY, "--normalise", "pixel"]
    row = _tables.Run("digits", shlex.join(words), (_tables.Cell("bp", 50, 9, 3),))
    monkeypatch.setitem(_tables.TABLES, "mf-2025", _tables.Table("somewhere", (row,)))
    arguments = ["reproduce", "--table", "mf-2025", "--quick", "--output-dir", tmp_path / "q"]
    assert script(*arguments)[0] == 0
    cells = read(tmp_path / "q", "reproduction.json")["cells"]
    assert len(cells[0]["values"]) == 3 and cells[0]["outcome"].startswith("not run: the quick form")
    assert "published" not in read(tmp_path / "q" / "digits")["rules"][0]
    monkeypatch.setitem(_presets.PUBLISHED["mnist"]["bp"], "patience", 21)
    code, _, error = script(*arguments)
    assert code == 2 and "(patience is 10 there and 21 here)" in error and len(error.splitlines()) == 1


def test_every_row_of_every_table_is_a_command_of_ours(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import _common
    import _tables

    runs = [run for table in _tables.TABLES.values() for run in table.runs]
    seen = {}
    monkeypatch.setattr(_common, "main", lambda name, *rest: seen.update({f"{name}.py": rest}) or 0)
    for name in {run.command.split()[0] for run in runs}:
        with pytest.raises(SystemExit):
            runpy.run_path(str(EXPERIMENTS / name), run_name="__main__")
    for run in runs:
        words = shlex.split(run.command)
        kind, presets, arms = seen[words[0]]
        monkeypatch.setattr(sys, "argv", words)
        found = {arm.name: arm.options for arm in arms(_common.parse(kind, presets))}
        assert {cell.rule for cell in run.cells} <= set(found)
        assert all(cell.sd is None for cell in run.cells if cell.n == 1)
        if words[0] == "mf_mlp.py" and "_2026" in run.command:
            assert all(own.keep == "last" and own.patience in (20, None) for own in found.values())
        if "--compare" in words:  # fairness.md, sections 3.3, 5 and 6.6
            twin = found["bp"]
            assert (twin.optimizer, twin.lr_schedule, twin.batch_size, twin.epochs) == ("adamw", "constant", 128, 100)
            assert (twin.monitor, twin.min_delta, twin.keep) == ("loss", 0.0, "best_accuracy")
            assert twin.patience == 20 if "_2026" in run.command else twin.patience in (10, 20, 30, 40)
    cells = {(run.name, cell.rule, cell.metric): cell for run in _tables.TABLES["mf-2025"].runs for cell in run.cells}
    epochs = [cells[name, "bp", "epochs"] for name in ("mnist", "fashion_mnist", "cifar10", "cifar100")]
    assert [(cell.value, cell.sd, cell.n) for cell in epochs] == [
        (17, 0, 3),
        (18.67, 1.15, 3),
        (51.67, 2.08, 3),
        (22.33, 2.31, 2),
    ]
    assert cells["cifar10", "mf", "test_accuracy"][2:4] == (None, 1)  # one run, three times over


CHILD = """
import signal, sys, time
from pathlib import Path

def ask(*_):
    print("stopping", file=sys.stderr, flush=True)
    if "stubborn" not in sys.argv:
        time.sleep(1.5)  # more than Python's subprocess gives
        Path(sys.argv[1]).write_text("saved")
        sys.exit(130)

signal.signal(signal.SIGINT, ask)
print("training", file=sys.stderr, flush=True)
for _ in range(300):
    time.sleep(0.1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of process groups")
@pytest.mark.parametrize("stubborn", [False, True])
def test_ctrl_c_waits_for_the_checkpoint_and_a_second_one_does_not(tmp_path, stubborn):
    (tmp_path / "child.py").write_text(CHILD)
    words = [str(tmp_path / "child.py"), str(tmp_path / "checkpoint"), *["stubborn"] * stubborn]
    work = f"import reproduce, pathlib; print(reproduce.train({words}, pathlib.Path({str(tmp_path)!r})))"
    parent = subprocess.Popen(
        [sys.executable, "-c", work],
        cwd=EXPERIMENTS,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert parent.stderr.readline() == "training\n"  # at once, not at the end
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.stderr.readline() == "stopping\n"
        if stubborn:
            time.sleep(0.5)
            assert parent.poll() is None
            os.killpg(parent.pid, signal.SIGINT)
        out, _ = parent.communicate(timeout=20)
    finally:
        parent.kill()
    assert out == "interrupted\n" and (tmp_path / "checkpoint").exists() != stubborn
