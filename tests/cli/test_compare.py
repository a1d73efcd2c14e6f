"""Search, comparison and reproduction as a user runs them, on scikit-learn's digits with a tiny network."""

import csv
import json
import re
import shlex

import numpy as np
import pytest

from fwdonly import results
from fwdonly.cli import compare, train
from fwdonly.cli.options import names_first
from fwdonly.study import design, published, rules
from fwdonly.study.published import Cell, Row, Table

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


def test_a_comparison_ends_in_verdicts_and_a_report_from_paired_runs(command, tmp_path):
    folder = tmp_path / "c"
    code, out, _ = command("compare", "mf", "bp", *TINY, "--seeds", 3, "--epochs", 3, "--output-dir", folder)
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


def test_turns_alternate_and_a_rule_alone_gives_the_numbers_of_its_own_command(command, tmp_path):
    from fwdonly.study import turns

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
    assert (
        command("compare", "mf", "bp", *shared, "--mf.learning-rate", "0.003", "--output-dir", tmp_path / "c")[0] == 0
    )
    own = ["--optimizer", "adamw", "--lr-schedule", "constant", "--patience", "10"]
    assert command("train", "mf", *shared, *own, "--learning-rate", 0.003, "--output-dir", tmp_path / "m")[0] == 0
    together = numbers(tmp_path / "m")
    assert {key: value for key, value in numbers(tmp_path / "c").items() if key[0] == "mf"} == together


def test_matched_passes_are_the_same_number_of_images_for_every_rule_stages_included(command, tmp_path):
    folder = tmp_path / "c"
    rules = ["mf-greedy-m0", "mf", "bp", "--protocol", "matched-passes", "--passes", 7]
    code, _, _ = command("compare", *rules, *TINY, "--seeds", 2, "--output-dir", folder)
    assert code == 0
    found = {rule["rule"]: rule["runs"] for rule in read(folder)["rules"]}
    images = {run["images"] for runs in found.values() for run in runs}
    assert len(images) == 1 and images.pop() % (7 * 64) == 0
    assert {run["epochs"] for runs in found.values() for run in runs} == {7}
    assert found["mf-greedy-m0"][0]["stage_epochs"] == [3, 2, 2] and found["bp"][0]["stage_epochs"] == [7]
    assert found["mf"][0]["kept_epoch"] == 7  # the last state, not the best
    # The control: every stage given all of the passes is three times as many.
    code, _, _ = command("compare", "mf-greedy-m0", "bp", *TINY, "--epochs", 7, "--patience", "None",
                        "--seeds", 2, "--output-dir", tmp_path / "own")  # fmt: skip
    assert code == 0 and {run["epochs"] for run in read(tmp_path / "own")["rules"][0]["runs"]} == {21}


def test_to_target_counts_passes_to_the_first_of_two_validations_and_keeps_the_misses(command, tmp_path):
    folder = tmp_path / "c"
    rules = ["mf", "bp", "--protocol", "to-target", "--target", 0.8, "--epochs", 12]
    code, out, _ = command("compare", *rules, *TINY, "--mf.learning-rate", "1e-5", "--seeds", 2, "--output-dir", folder)
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


def test_a_killed_comparison_repeats_no_finished_run(command, tmp_path, monkeypatch):
    from fwdonly.study import execute

    arguments = ["compare", "mf", "bp", *TINY, "--seeds", 2, "--epochs", 2, "--output-dir", tmp_path / "c"]
    real, trained = execute.sweep, []

    def dies(make_rule, *args, **more):
        if more.get("checkpoint") is not None:
            trained.append(more["checkpoint"].name)
            if len(trained) == 3:
                raise KeyboardInterrupt
        return real(make_rule, *args, **more)

    monkeypatch.setattr(execute, "sweep", dies)
    assert command(*arguments)[0] == 130
    assert not read(tmp_path / "c")["finished"] and len(numbers(tmp_path / "c")) == 2
    code, _, error = command(*arguments)
    assert code == 2 and "--resume" in error
    code, _, error = command(*arguments, "--resume", "--no-alone")
    assert code == 2 and "alone" in error  # seeds together would be added to those alone
    assert command(*arguments, "--resume")[0] == 0
    assert [name.split(".")[0] for name in trained] == ["mf-0", "bp-0", "bp-1", "bp-1", "mf-1"]
    monkeypatch.setattr(execute, "sweep", real)
    assert command(*arguments[:-1], tmp_path / "whole")[0] == 0
    assert numbers(tmp_path / "c") == numbers(tmp_path / "whole") and untimed(tmp_path / "c") == untimed(
        tmp_path / "whole"
    )
    found, whole = (results.read_predictions(tmp_path / name / "predictions.npz") for name in ("c", "whole"))
    assert sorted(found.runs) == sorted(numbers(tmp_path / "whole"))
    assert all((found.runs[key] == whole.runs[key]).all() for key in whole.runs)
    for key, (accuracy, *_) in numbers(tmp_path / "c").items():
        assert abs((found.runs[key] == found.labels).mean() - accuracy) < 1e-6
    assert re.search(r"\d over seeds and test images", (tmp_path / "c" / "report.md").read_text())
    assert read(tmp_path / "c")["data"]["classes"] == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mf"], "two or more different rules"),
        (["mf", "mf"], "two or more different rules"),
        (["mf", "nonsense"], "there is no rule 'nonsense'"),
        (["mf", "bp", "--protocol", "to-target"], "needs --target"),
        (["mf", "bp", "--target", "0.9"], "belongs to --protocol to-target"),
        (["mf", "bp", "--protocol", "to-target", "--target", "95"], "target is an accuracy"),
        (["mf-greedy", "bp", "--protocol", "matched-passes", "--passes", "1"], "at least as many --passes"),
        (["mf", "bp", "--reference", "foton"], "not among the rules"),
        (["mf", "bp", "--ff.peer", "1"], "not among mf, bp"),
        (["mf", "bp", "--bp.preset", "mnist"], "a preset of bp would also set data and stopping"),
        (["mf", "bp", "--bp.normalise", "none"], "--normalise is the same for all rules"),
        (["mf", "bp", "--bp.net", "mlp:8"], "--net is the same for all rules"),
        (["mf", "bp", "--bp.epochs", "9", "--protocol", "matched-passes"], "--epochs is the same for all rules"),
        (["mf", "bp", "--bp.target", "0.3", "--protocol", "to-target", "--target", "0.5"], "--target is the same"),
        (["mf", "bp", "--protocol", "to-target", "--target", "0.5", "--passes", "7"], "--passes does not belong to"),
        (["mf", "bp", "--protocol", "matched-passes", "--patience", "3"], "--patience does not belong to"),
        (["ff", "bp"], "--monitor accuracy --keep best_accuracy"),
        (["cwc", "bp", "--net", "cwc:7,14"], "multiples of the 10 classes"),
        (["foton", "bp", "--net", "cnn:4;pool=max"], "pools by max, which is not linear"),
        (["dfa", "bp", "--dfa.error-clip", "0"], "error_clip is a bound, above 0"),
        (["mf", "bp", "--tuned", "nowhere"], "not a result folder of fwdonly tune"),
        (["mf", "bp", "--margin", "0"], "must be above 0"),
    ],
)
def test_comparisons_that_cannot_be_are_refused_in_one_line(command, tmp_path, arguments, words):
    rules, more = names_first(arguments)
    small = [word for word in TINY if "--net" not in more or word not in ("--net", "mlp:16,16")]
    code, _, error = command("compare", *rules, *small, "--seeds", 2, *more, "--output-dir", tmp_path / "c")
    assert code == 2 and words in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "c" / "config.json").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("compare", ["mf", "bp", "--protocol", "nonsense"], "nonsense"),
        ("tune", ["nonsense"], "nonsense"),
        ("tune", ["mf", "bp"], "takes one rule"),
        ("train", ["nonsense"], "nonsense"),
        ("train", [], "takes one rule"),
        ("reproduce", ["nonsense"], "nonsense"),
        ("list", ["nonsense"], "nonsense"),
        ("report", [], "one result folder or more"),
        ("nonsense", [], "there is no command 'nonsense'"),
    ],
)
def test_unknown_names_are_refused(command, name, arguments, words):
    code, _, error = command(name, *arguments)
    assert code == 2 and words in error


def test_an_option_that_a_rule_does_not_have_is_refused(command, tmp_path):
    code, _, error = command("compare", "mf", "bp", *TINY, "--bp.peer", "1", "--output-dir", tmp_path / "c")
    assert code == 2 and "--peer" in error and "fwdonly compare ... --bp." in error


def test_a_search_prints_the_command_that_trains_the_best_settings(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "tune-mf-digits-MLP-16-16"
    arguments = ["tune", "mf", *TINY, "--trials", 7, "--seeds", 2, "--epochs"]
    code, out, _ = command(*arguments, 4)
    assert code == 0 and {"best.json", "trials.csv", "search.png"} <= {path.name for path in folder.iterdir()}
    best = read(folder, "best.json")
    assert best["trials"] == 7 and best["val_accuracy"] == pytest.approx(np.mean(best["per_seed"]))
    words = re.search(r"fwdonly (train mf .*)", out)[1]
    more = ["--first-seed", 1000, "--seeds", 2, "--output-dir", tmp_path / "b"]
    assert command(*shlex.split(words), *more)[0] == 0
    assert [run["val_accuracy"] for run in read(tmp_path / "b")["rules"][0]["runs"]] == pytest.approx(best["per_seed"])
    # A finished search trains nothing more.
    before = (folder / "trials.csv").read_text()
    assert command(*arguments, 4)[0] == 0 and (folder / "trials.csv").read_text() == before
    code, _, error = command(*arguments, 5)
    assert code == 2 and "is another one: about.settings.epochs is 4 there and 5 here" in error
    # And its settings reach a comparison.
    compared = [*TINY, "--seeds", 1, "--epochs", 1, "--tuned", folder, "--output-dir", tmp_path / "c"]
    assert command("compare", "mf", "bp", *compared)[0] == 0
    rules = read(tmp_path / "c", "config.json")["configuration"]["rules"]
    assert rules["mf"]["learning_rate"] == best["values"]["learning_rate"] != rules["bp"]["learning_rate"]


def test_settings_of_a_rule_that_depart_are_told(command, tmp_path):
    own = ["--bp.patience", "1", "--bp.learning-rate", "0.01"]
    assert (
        command("compare", "mf-greedy", "bp", *TINY, *own, "--seeds", 1, "--epochs", 2, "--output-dir", tmp_path / "c")[
            0
        ]
        == 0
    )
    notes = read(tmp_path / "c")["protocol"]["notes"]
    assert notes == ["MF, greedy has settings from no search.", "BP stops by a rule of its own: patience 1."]
    assert [rule["tuned"] for rule in read(tmp_path / "c")["rules"]] == [False, True]


def test_the_command_of_a_search_says_what_differs_from_the_rules_own_recipe(command, tmp_path):
    small = ["--dataset", "digits", "--net", "cnn:4,4;pool=max", "--quiet", "--trials", 1, "--seeds", 1, "--epochs", 1]
    code, out, _ = command("tune", "cafo", *small, "--batch-size", 64, "--output-dir", tmp_path / "t")
    assert code == 0 and "first guess" in out
    words = re.search(r"fwdonly train (cafo .*)", out)[1]
    for part in ("--batch-size 64", "--epochs 1", "--keep best_loss", "--optimizer adamw"):
        assert part in words
    assert "--head-start" not in words  # it is as the rule has it
    study = train.study_of(shlex.split(words))
    arm = study.arms[0]
    assert (arm.plan.batch_size, arm.plan.epochs, arm.plan.keep, str(arm.net).split(";")[0]) == (
        64,
        1,
        "best_loss",
        "cnn:4,4",
    )


def test_every_rule_searches_numbers_of_its_own_over_as_many_decades():
    decades = {}
    for name in rules.NAMES:
        rule = rules.load(name)
        arm = design.make_arm(rule, rule.defaults(compared=True))
        assert arm.name == name and arm.rule.label
        for key, space in rule.space.items():
            changed = arm.changed({key: 0.5 * (space.low + space.high)})
            assert changed.value(key) != arm.value(key)
        decades[name] = [np.log10(own.high / own.low).round(6) for own in rule.space.values() if own.log]
    assert set(map(tuple, decades.values())) == {(3.0, 3.0)}


def test_a_table_is_reproduced_row_by_row_and_says_what_was_not_run(command, tmp_path, monkeypatch):
    about = {"n": 2, "repeated": True}
    row = Row(
        "digits",
        shlex.join(["train", "bp", *TINY, "--epochs", "2"]),
        (Cell("bp", 12.0, 0.5, **about), Cell("bp", 2, 0.0, metric="epochs", note="odd", **about)),
    )
    missing = Row("nowhere", "train bp --dataset nowhere", (Cell("bp", 50.0, None, None),))
    monkeypatch.setitem(published.tables(), "mf-2025", Table("somewhere", (row, missing), "Joules are left out."))
    folder, digits = tmp_path / "r", tmp_path / "r" / "digits"
    arguments = ["reproduce", "mf-2025", "--margin", 1.0, "--output-dir", folder, "--seeds"]
    code, out, _ = command(*arguments, 3, "--list")
    assert code == 0 and "Joules are left out." in out and "12 ± 0.5 (2 distinct seeds)" in out and not folder.exists()
    code, _, error = command(*arguments, 3)
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
    assert command(*arguments, 3, "--only", "digits")[0] == 0  # what is finished is not trained again
    assert ((digits / "summary.json").stat().st_mtime_ns, (digits / "metrics.csv").stat().st_mtime_ns) == written
    # Folders of other runs are no result of this row, unless it is left out.
    fault = f"error: {digits} holds another run"
    config = read(digits, "config.json")
    other = json.loads(json.dumps(config))
    other["configuration"]["rules"]["bp"]["split"] = "paper"
    for more, damage, words in (
        ([4], config, "(bp.seeds is 3 there and 4 here)"),
        ([3, "--first-seed", 1], config, "(bp.first_seed is 0 there and 1 here)"),
        ([3, "--quick"], config, "(bp.epochs is 2 there and 3 here)"),
        ([3], other, "(bp.split is paper there and fixed here)"),
        ([3], {}, "(no config.json says which)"),
    ):
        (digits / "config.json").write_text(json.dumps(damage))
        code, _, error = command(*arguments, *more)
        assert (code, error) == (2, f"{fault} {words}; give another --output-dir\n")
    (digits / "config.json").unlink()
    assert command(*arguments, 3)[2].startswith(fault)
    assert command(*arguments, 3, "--only", "nowhere")[0] == 0
    assert read(folder, "reproduction.json")["cells"][0]["values"] is None


def test_a_quick_table_reproduces_nothing_and_a_changed_preset_is_another_run(command, tmp_path, monkeypatch):
    words = ["train", "bp", "--preset", "mnist", *TINY, "--normalise", "pixel"]
    row = Row("digits", shlex.join(words), (Cell("bp", 50, 9, 3),))
    monkeypatch.setitem(published.tables(), "mf-2025", Table("somewhere", (row,)))
    arguments = ["reproduce", "mf-2025", "--quick", "--output-dir", tmp_path / "q"]
    assert command(*arguments)[0] == 0
    cells = read(tmp_path / "q", "reproduction.json")["cells"]
    assert len(cells[0]["values"]) == 3 and cells[0]["outcome"].startswith("not run: the quick form")
    assert "published" not in read(tmp_path / "q" / "digits")["rules"][0]
    monkeypatch.setitem(published.presets()["bp"]["mnist"].settings, "patience", 21)
    code, _, error = command(*arguments)
    assert code == 2 and "(bp.patience is 10 there and 21 here)" in error and len(error.splitlines()) == 1


def test_every_row_of_every_table_is_a_command_of_ours():
    for name, table in published.tables().items():
        for row in table.rows:
            study = train.study_of(shlex.split(row.command)[1:])
            found = {arm.name: arm for arm in study.arms}
            assert {cell.rule for cell in row.cells} <= set(found)
            assert all(cell.sd is None for cell in row.cells if cell.n == 1)
            plans = {rule: arm.plan for rule, arm in found.items()}
            if name.startswith("mf-2026") and "_2026" in row.command:
                assert all(plan.keep == "last" and plan.patience in (20, None) for plan in plans.values())
            if "--against" in row.command and "train mf" not in row.command:  # fairness.md, sections 3.3, 5 and 6.6
                twin, plan = found["bp"].optimizer, plans["bp"]
                assert (twin.optimizer, twin.lr_schedule, plan.batch_size, plan.epochs) == (
                    "adamw",
                    "constant",
                    128,
                    100,
                )
                assert (plan.monitor, plan.min_delta, plan.keep) == ("loss", 0.0, "best_accuracy")
                assert plan.patience == 20 if "_2026" in row.command else plan.patience in (10, 20, 30, 40)
    cells = {
        (row.name, cell.rule, cell.metric): cell for row in published.tables()["mf-2025"].rows for cell in row.cells
    }
    epochs = [cells[name, "bp", "epochs"] for name in ("mnist", "fashion_mnist", "cifar10", "cifar100")]
    assert [(cell.value, cell.sd, cell.n) for cell in epochs] == [
        (17, 0, 3),
        (18.67, 1.15, 3),
        (51.67, 2.08, 3),
        (22.33, 2.31, 2),
    ]
    assert cells["cifar10", "mf", "test_accuracy"][2:4] == (None, 1)  # one run, three times over


@pytest.mark.parametrize(
    ("names", "reference"),
    [("bp-frozen mf bp", "bp"), ("mf bp-frozen", "bp-frozen"), ("mf bp-deep bp-frozen", "bp-deep"), ("mf ff", "ff")],
)
def test_the_reference_is_bp_where_it_is_among_the_rules(names, reference):
    study = compare.study_of([*names.split(), "--monitor", "accuracy", "--keep", "best_accuracy"])
    assert study.protocol["reference"] == reference


def test_a_comparison_tells_who_has_batch_normalisation():
    names = ["cwc", "bp", "--net", "cwc:10,20"]
    told = [line for line in compare.study_of(names).protocol["notes"] if "normalisation" in line]
    assert told == ["CwC has batch normalisation.", "BP has no batch normalisation."]
    fair = compare.study_of([*names, "--bp.batch-norm"])
    assert not any("normalisation" in line for line in fair.protocol["notes"])
    for name in ("cafo", "cwc"):
        assert train.study_of([name, "--against", "bp"]).arms[1].options["batch_norm"]
    assert not train.study_of(["mf", "--against", "bp"]).arms[1].options["batch_norm"]


def test_rules_whose_signal_never_ends_have_tanh_unless_a_network_says_otherwise_and_the_report_says_so():
    names = ("drtp", "sdfa", "dfa", "bp")
    study = compare.study_of([*names, "--net", "mlp:8"])
    assert [str(arm.net) for arm in study.arms] == ["mlp:8;activation=tanh"] * 2 + ["mlp:8"] * 2
    told = [line for line in study.protocol["notes"] if "activation" in line]
    assert told == [
        f"{label} has the activation {a}."
        for label, a in zip(("DRTP", "sDFA", "DFA", "BP"), ("tanh", "tanh", "relu", "relu"), strict=True)
    ]
    study = compare.study_of([*names, "--net", "mlp:8;activation=relu"])  # the control: said, so kept, and alike
    assert {str(arm.net) for arm in study.arms} == {"mlp:8;activation=relu"}
    assert not any("activation" in line for line in study.protocol["notes"])
    assert str(train.study_of(["drtp"]).arms[0].net) == "mlp:500;activation=tanh"
