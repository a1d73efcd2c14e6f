"""The search: what a trial is worth, that it never sees the test set, resumption, groups, and bad input."""

import contextlib
import dataclasses
import functools
import os
import platform
import types

import jax
import numpy as np
import optax
import pytest

from fwdonly import Plan, UsageError, data, mf, nets, sweep, tune
from fwdonly.training import memory, programs

optuna = pytest.importorskip("optuna")

PLAN = Plan(epochs=4, batch_size=20, keep="best_loss")
SPACE = {"learning_rate": tune.Range(1e-4, 1.0), "weight_decay": tune.Range(1e-6, 1e-3)}


def rule_of(width):
    def rule(learning_rate, weight_decay=0.0):
        tx = optax.adamw(learning_rate, weight_decay=weight_decay)
        return mf.rule(nets.mlp([width]), tx, num_classes=4)

    return rule


RULE = {width: rule_of(width) for width in (8, 12)}  # one function each: equal functions share compiled programs


def make(width=8):
    return RULE[width], PLAN


def search(tiny, **more):
    return tune.tune(make, SPACE, tiny, **{"trials": 8, "seeds": [5, 6], "parallel": 3, "name": "s"} | more)


def table(study):
    """Settings and values of the trials that were told, in the order in which they were asked for."""
    told = [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED")]
    return [(t.params, t.state.name, t.value, t.user_attrs["per_seed"]) for t in told]


def test_a_trial_is_worth_the_mean_validation_accuracy_of_its_seeds(tiny):
    study = search(tiny, prune=False)
    assert len(study.trials) == 8 and {t.state.name for t in study.trials} == {"COMPLETE"}
    for trial in study.trials[:4]:
        plain = sweep(RULE[8], tiny, PLAN, seeds=[5, 6], hyper=trial.params)
        np.testing.assert_array_equal(plain.val_accuracy, trial.user_attrs["per_seed"])
        assert trial.value == pytest.approx(plain.val_accuracy.mean())
        assert trial.user_attrs["epochs"] == [4, 4] and trial.user_attrs["train_seconds"] > 0
    best = tune.best(study)
    assert best.value == max(t.value for t in study.trials)
    assert len({t.value for t in study.trials}) > 1  # control: the settings matter


PROGRAMS = 4
"""Programs of a sweep: start, steps, end of an epoch, and the further readouts of the kept state."""


def test_the_test_set_decides_nothing_and_a_leaking_objective_is_caught(tiny, monkeypatch):
    poisoned = dataclasses.replace(tiny, x_test=255 - tiny.x_test, y_test=3 - tiny.y_test)
    monkeypatch.setattr(data.Dataset, "digest", "the same")  # which test images there are is part of it
    assert table(search(tiny)) == table(search(poisoned))

    def leaks(*args, **more):
        result = sweep(*args, **more | {"test": True})
        return dataclasses.replace(result, val_accuracy=result.test_accuracy)

    monkeypatch.setattr(tune.search, "sweep", leaks)
    assert table(search(tiny)) != table(search(poisoned))


def test_several_trials_and_seeds_are_one_sweep_of_four_programs(tiny, monkeypatch):
    programs.program.cache_clear()
    sizes = []

    def counts(*args, **more):
        sizes.append(len(more["seeds"]))
        return sweep(*args, **more)

    monkeypatch.setattr(tune.search, "sweep", counts)
    search(tiny, name="programs")  # 8 trials: the last round is one short
    assert sizes == [3 * 2] * 3 and 0 < programs.program.cache_info().currsize <= PROGRAMS


def test_settings_that_change_shapes_are_grouped(tiny):
    programs.program.cache_clear()
    study = tune.tune(make, SPACE | {"width": (8, 12)}, tiny, trials=6, seeds=[5], parallel=6, prune=False)
    widths = [trial.params["width"] for trial in study.trials]
    assert len(set(widths)) == 2 and programs.program.cache_info().currsize <= 2 * PROGRAMS
    for trial in study.trials[:3]:
        numbers = {name: trial.params[name] for name in SPACE}
        plain = sweep(RULE[trial.params["width"]], tiny, PLAN, seeds=[5], hyper=numbers)
        np.testing.assert_array_equal(plain.val_accuracy, trial.user_attrs["per_seed"])


def test_choices_may_be_tuples(tiny):
    seen = []

    def remembers(widths):
        seen.append(widths)
        return make()

    space = {"learning_rate": tune.Range(1e-3, 1e-1), "widths": ((8,), (8, 8))}
    study = tune.tune(remembers, space, tiny, trials=4, seeds=[5], parallel=4, first={"widths": (8, 8)})
    assert set(seen) <= {(8,), (8, 8)} and (8, 8) in seen and study.trials[0].params["widths"] == "json:[8, 8]"


def test_pruning_ends_hopeless_trials_early_and_changes_no_other(tiny):
    pruned, whole = search(tiny, trials=16, name="p"), search(tiny, trials=16, name="p", prune=False)
    early = [t for t in pruned.trials if t.state.name == "PRUNED"]
    assert early and all(max(t.user_attrs["epochs"]) < 4 for t in early)
    median = np.median([t.value for t in whole.trials])
    assert all(t.value < median for t in early)
    for one, other in zip(pruned.trials[:6], whole.trials[:6], strict=True):  # before anything is pruned
        assert one.params == other.params and one.value == other.value


def test_a_seed_that_stopped_early_keeps_its_accuracy_where_trials_are_judged(tiny):
    plan = dataclasses.replace(PLAN, epochs=8, patience=1)
    study = tune.tune(lambda: (RULE[8], plan), SPACE, tiny, trials=6, seeds=[5, 6, 7], parallel=6)
    uneven = [t for t in study.trials if len(set(t.user_attrs["epochs"])) > 1]
    assert uneven, "the scenario needs a trial whose seeds stop at different epochs"
    for trial in uneven:
        end = max(trial.intermediate_values)
        # Counted as 0, a stopped seed would take a third of the accuracy away.
        assert trial.intermediate_values[end] > 0.8 * np.mean(trial.user_attrs["per_seed"])


def test_a_trial_that_fails_is_not_tried_for_ever(tiny, tmp_path, monkeypatch):
    storage = str(tmp_path / "study.journal")
    monkeypatch.setattr(tune.search, "sweep", lambda *_, **__: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            search(tiny, storage=storage)
    monkeypatch.undo()
    monkeypatch.setattr(tune.workers, "CONNECT", 0.0)  # what a dead worker owed would be asked for at once
    study = search(tiny, storage=storage)
    assert [t.state.name for t in study.trials[:6]] == ["FAIL"] * 6 and len(table(study)) == 8
    assert not any("again" in trial.user_attrs for trial in study.trials)


def test_a_diverged_seed_counts_as_nothing_right(tiny):
    space = {"learning_rate": tune.Range(1e35, 1e38)}

    def diverges():
        return lambda learning_rate: mf.rule(nets.mlp([8]), optax.sgd(learning_rate), num_classes=4), PLAN

    study = tune.tune(diverges, space, tiny, trials=1, seeds=[5, 6], parallel=1)
    assert study.trials[0].value == 0.0 and study.trials[0].user_attrs["per_seed"] == [None, None]


def test_the_first_trial_is_what_was_asked_for_moved_into_the_space(tiny):
    study = search(tiny, trials=1, first={"learning_rate": 0.01, "weight_decay": 0.0, "unknown": 1})
    assert study.trials[0].params == {"learning_rate": 0.01, "weight_decay": 1e-6}


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_search_that_was_stopped_equals_one_that_was_not(tiny, tmp_path, kind):
    storage = {"journal": str(tmp_path / "study.journal"), "sqlite": f"sqlite:///{tmp_path}/study.db"}[kind]
    calls = []

    def stops_within_the_second_round(progress):
        calls.append(progress)
        return len(calls) == 6  # a round has four reports: in the middle of the second one

    search(tiny, storage=storage, watch=stops_within_the_second_round)
    stored = optuna.load_study(study_name="s", storage=tune.open_storage(storage))
    assert len(table(stored)) == 3 and [t.state.name for t in stored.trials].count("RUNNING") == 3
    for trial in stored.trials[3:]:  # as if that process had died
        stored._storage.set_trial_user_attr(trial._trial_id, "worker", [platform.node(), 2**22 + 1])
    seen = []
    resumed = search(tiny, storage=storage, callback=lambda found: seen.append(found.done) and None)
    assert seen == [6, 8] and table(resumed) == table(search(tiny))
    before = len(resumed.trials)
    assert len(search(tiny, storage=storage).trials) == before  # finished: nothing is trained
    with pytest.raises(UsageError, match=r"is another one: seeds is \[5, 6\] there and \[7, 8\] here"):
        search(tiny, storage=storage, seeds=[7, 8])
    with (
        jax.default_matmul_precision("bfloat16"),
        pytest.raises(UsageError, match=r"numerics.default_matmul_precision"),
    ):
        search(tiny, storage=storage)


class Killed(BaseException):
    """As SIGKILL: nothing of ours catches it."""


@pytest.fixture
def untrained(monkeypatch):
    """Trials that need no training: accuracies are a closed form of the settings, in steps of 0.1 so that some tie."""

    def reached(*_, hyper, callback, **__):
        rates = -np.log10(hyper["learning_rate"])
        value = np.round(np.exp(-((rates - 2) ** 2)), 1)
        return types.SimpleNamespace(finished=True, val_accuracy=value, epochs=np.ones(len(value)), train_seconds=1.0)

    monkeypatch.setattr(tune.search, "sweep", reached)


@pytest.fixture
def killed_at(monkeypatch):
    """``killed_at(n, do)``: do it, and die at the nth write to the journal, before it; how many writes there were."""
    from optuna.storages.journal import JournalFileBackend

    append = JournalFileBackend.append_logs

    def run(number, do):
        count = []

        def dies(self, logs):
            count.append(logs)
            if len(count) >= number:
                raise Killed
            append(self, logs)

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(JournalFileBackend, "append_logs", dies)
            do()
        return len(count)

    return run


@pytest.mark.parametrize(("trials", "step"), [(6, 5), (14, 7)])
def test_a_search_that_is_killed_at_any_write_equals_a_whole_one(
    trials, step, tiny, tmp_path, untrained, killed_at, monkeypatch
):
    """Twice: the second time in the repetition of what the first one left. Beyond ten trials proposals follow results.

    What is tried again twice may come after its neighbour.
    """
    monkeypatch.setattr(tune.workers, "CONNECT", 0.2)  # or a death at two places waits ten seconds
    options = {"trials": trials, "parallel": 2, "seeds": [5], "prune": False, "first": {"learning_rate": 0.1}}
    whole = sorted(table(search(tiny, **options)), key=str)
    writes = killed_at(10**9, lambda: search(tiny, storage=str(tmp_path / "all"), **options))
    assert len(whole) == trials and writes > 9 * trials
    for first in range(1, writes, step):
        where = str(tmp_path / f"{first}")
        for number in (first, 1 + first % 11):
            killed_at(number, functools.partial(search, tiny, storage=where, **options))
        assert sorted(table(search(tiny, storage=where, **options)), key=str) == whole, first


@pytest.mark.parametrize(("stops", "code"), [(True, 130), (False, 0)])
def test_a_search_that_is_stopped_in_its_last_round_says_so(tmp_path, monkeypatch, command, untrained, stops, code):
    """Its trials are under way nowhere."""
    usual, rounds = tune.search.sweep, []

    def stopped(*args, **more):
        rounds.append(usual(*args, **more))
        rounds[-1].finished = len(rounds) < 2 or not stops
        return rounds[-1]

    monkeypatch.setattr(tune.search, "sweep", stopped)
    words = ["tune", "mf", "--dataset", "digits", "--net", "mlp:8", "--trials", 2, "--parallel", 1, "--seeds", 1]
    found, out, _ = command(*words, "--quiet", "--output-dir", tmp_path / "r")
    assert found == code and ("the same command continues" in out) == stops and "elsewhere" not in out


def test_trials_of_a_living_worker_are_left_alone(tiny, tmp_path):
    storage = str(tmp_path / "study.journal")
    search(tiny, storage=storage, trials=3)
    study = optuna.load_study(study_name="s", storage=tune.open_storage(storage))
    theirs = study.ask(
        {name: optuna.distributions.FloatDistribution(*own[:2], log=True) for name, own in SPACE.items()}
    )
    with tune.workers.Pulse(optuna, [theirs], 0.05):
        theirs.set_user_attr("worker", [platform.node(), os.getppid()])
        found = search(tiny, storage=storage, heartbeat=0.05, grace=0.5)
    assert found.trials[theirs.number].state.name == "RUNNING" and len(table(found)) == 7  # and theirs is the eighth
    found = search(tiny, storage=storage, heartbeat=0.05, grace=0.5)  # control: it gives no sign of life any more
    assert found.trials[theirs.number].state.name == "FAIL" and found.trials[-1].params == theirs.params


def test_the_callback_may_end_the_search(tiny):
    assert len(search(tiny, callback=lambda found: found.done >= 3).trials) == 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"trials": 0}, "trials must be a whole number, at least 1"),
        ({"seeds": []}, "there are no seeds"),
        ({"seeds": [1, 1]}, "must differ"),
        ({"parallel": 0}, "parallel must be a whole number, at least 1"),
        ({"storage": "/nowhere/at/all/study.journal"}, "cannot open the storage"),
        ({"storage": "sqlite:////nowhere/at/all.db"}, "cannot open the storage"),
        ({"storage": "nonsense://host/name"}, "cannot open the storage"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(tiny, more, words):
    with pytest.raises(UsageError, match=words) as caught:
        search(tiny, **more)
    assert "\n" not in str(caught.value)


FLOAT = optuna.distributions.FloatDistribution


@pytest.mark.parametrize(
    ("directions", "drawn", "words"),
    [
        (["minimize"], None, "its direction is minimize"),
        (["maximize", "maximize"], None, "its direction is maximize and maximize"),
        (["maximize"], {"learning_rate": FLOAT(1e-4, 1.0, log=True)}, r"it has trials \(1\) and does not say of what"),
        (["maximize"], None, None),
    ],
    ids=["of optuna create-study", "two objectives", "trials of somebody", "empty, as if its maker had died"],
)
def test_a_study_that_is_not_ours_is_not_joined(tiny, tmp_path, directions, drawn, words):
    storage = tune.open_storage(str(tmp_path / "study.journal"))
    study = optuna.create_study(study_name="s", storage=storage, directions=directions)
    if drawn:
        study.tell(study.ask(drawn), 0.5)
    before = [trial.number for trial in study.trials]
    if words is None:
        assert table(search(tiny, storage=storage, trials=3)) == table(search(tiny, trials=3))
        return
    with pytest.raises(UsageError, match=rf"^[^\n]*the study s is another one: {words}[^\n]*$"):
        search(tiny, storage=storage)
    assert [trial.number for trial in study.trials] == before and not study.user_attrs


@pytest.mark.parametrize(
    "drawn",
    [
        {"learning_rate": FLOAT(1e-4, 10.0, log=True)},
        {"momentum": FLOAT(0.1, 0.9)},
        {"two\nlines": FLOAT(0.1, 0.9)},
    ],
    ids=["wider", "another name", "a forged name"],  # Optuna itself refuses a name that is of another kind
)
def test_trials_of_another_space_are_found_in_our_study(tiny, tmp_path, drawn):
    storage = tune.open_storage(str(tmp_path / "study.journal"))
    study = search(tiny, storage=storage, trials=3)
    study.tell(study.ask(drawn), 0.5)
    with pytest.raises(UsageError, match=r"^[^\n]*is another one: its trial 3 drew [\w ]+ from [^\n]*$"):
        search(tiny, storage=storage)


@pytest.mark.parametrize("fact", ["objective", "sampler", "numerics", "space"])
def test_a_study_without_one_of_our_facts_is_another_one(tiny, tmp_path, fact):
    storage = tune.open_storage(str(tmp_path / "study.journal"))
    study = search(tiny, storage=storage, trials=3)
    facts = study.user_attrs["facts"]
    study.set_user_attr("facts", {name: value for name, value in facts.items() if name != fact})
    with pytest.raises(UsageError, match=rf"^[^\n]*is another one: {fact}[^\n]*$"):
        search(tiny, storage=storage)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "nothing to search"),
        ({"learning_rate": tune.Range(1.0, 0.1)}, "low < high"),
        ({"learning_rate": tune.Range(0.0, 0.1)}, "low > 0"),
        ({"width": ()}, "no choices"),
    ],
)
def test_a_space_without_room_is_refused(tiny, space, words):
    with pytest.raises(UsageError, match=words):
        tune.tune(make, space, tiny, trials=1)


def test_without_optuna_the_extra_is_named(tiny, monkeypatch):
    import builtins
    import importlib

    def missing(name, *args):
        if name.startswith("optuna"):
            raise ImportError(name)
        return builtins.__import__(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match=r"fwdonly\[tune\]"):
        search(tiny)


def test_no_study_without_a_complete_trial_has_a_best_one(tiny):
    with pytest.raises(UsageError, match="no complete trial"):
        tune.best(optuna.create_study())


def test_a_round_that_does_not_fit_into_memory_is_one_line(tiny, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 1)
    with pytest.warns(UserWarning, match="would not fit"), pytest.raises(UsageError, match="fewer parallel trials"):
        search(tiny, trials=3)
