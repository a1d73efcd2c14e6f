"""Search, comparison and reproduction as a user runs them, on scikit-learn's digits with a tiny network."""

import csv
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("quick_compilation")

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TINY = ["--dataset", "digits", "--widths", "16", "16", "--batch-size", "64", "--quiet"]


@pytest.fixture
def script(monkeypatch, capsys):
    """Run a script in this process: ``script("compare", *arguments) -> (exit code, stdout, stderr)``."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"experiments/{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(EXPERIMENTS / f"{name}.py"), run_name="__main__")
        out = capsys.readouterr()
        return stopped.value.code, out.out, out.err

    return call


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

    assert [(arm, seed[0]) for arm, seed in turns(2, 3, True)] == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]
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


def test_a_search_prints_the_command_that_trains_the_best_settings(script, tmp_path):
    arguments = [
        "tune",
        "--rule",
        "mf",
        *TINY,
        "--trials",
        7,
        "--seeds",
        2,
        "--epochs",
        4,
        "--output-dir",
        tmp_path / "t",
    ]
    code, out, _ = script(*arguments)
    assert code == 0 and {"best.json", "trials.csv", "search.png"} <= {path.name for path in (tmp_path / "t").iterdir()}
    best = read(tmp_path / "t", "best.json")
    assert best["trials"] == 7 and best["val_accuracy"] == pytest.approx(np.mean(best["per_seed"]))
    command = re.search(r"python experiments/mf_mlp.py (.*)", out)[1]
    more = ["--first-seed", 1000, "--seeds", 2, "--no-compare", "--output-dir", tmp_path / "b"]
    assert script("mf_mlp", *shlex.split(command), *more)[0] == 0
    assert [run["val_accuracy"] for run in read(tmp_path / "b")["rules"][0]["runs"]] == pytest.approx(best["per_seed"])
    # A finished search trains nothing more.
    before = (tmp_path / "t" / "trials.csv").read_text()
    assert script(*arguments)[0] == 0 and (tmp_path / "t" / "trials.csv").read_text() == before
    code, _, error = script(*arguments[:-2], "--epochs", 5, "--output-dir", tmp_path / "t")
    assert code == 2 and "begun with another about" in error
    # And its settings reach a comparison.
    compared = [*TINY, "--seeds", 1, "--epochs", 1, "--tuned", tmp_path / "t", "--output-dir", tmp_path / "c"]
    assert script("compare", *compared)[0] == 0
    rules = read(tmp_path / "c", "config.json")["configuration"]["rules"]
    assert rules["mf"]["learning_rate"] == best["values"]["learning_rate"] != rules["bp"]["learning_rate"]


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

    own = [*TINY, "--epochs", "2"]
    row = _tables.Run(
        "digits",
        shlex.join(["bp_mlp.py", *map(str, own)]),
        (_tables.Cell("bp", 12.0, 0.5, 3), _tables.Cell("bp", 2, 0.1, 3, "epochs")),
    )
    missing = _tables.Run("nowhere", "bp_mlp.py --dataset nowhere", (_tables.Cell("bp", 50.0, None, None),))
    monkeypatch.setitem(_tables.TABLES, "mf-2025", _tables.Table("somewhere", (row, missing)))
    arguments = ["reproduce", "--table", "mf-2025", "--seeds", 3, "--margin", 1.0, "--output-dir", tmp_path / "r"]
    assert script(*arguments)[0] == 0
    cells = read(tmp_path / "r", "reproduction.json")["cells"]
    assert cells[0]["outcome"].startswith("not reproduced") and len(cells[0]["values"]) == 3
    assert cells[1]["outcome"] == "reproduced" and cells[1]["values"] == [2.0] * 3
    assert cells[2]["outcome"].startswith("not run: ") and cells[2]["why"] and cells[2]["values"] is None
    written = (tmp_path / "r" / "digits" / "summary.json").stat().st_mtime_ns
    assert script(*arguments, "--quick")[0] == 0  # what is finished is not trained again
    assert (tmp_path / "r" / "digits" / "summary.json").stat().st_mtime_ns == written
    assert all(cell["outcome"].startswith("not run") for cell in read(tmp_path / "r", "reproduction.json")["cells"])
