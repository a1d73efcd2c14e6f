"""Unequal classes are said, and balanced accuracy stands beside accuracy; oracle: scikit-learn's."""

import json

import numpy as np
import optax
import pytest

from fwdonly import Plan, data, fit, mf, nets, results, sweep

PLAN = Plan(epochs=2, batch_size=20)


def uneven(counts=(150, 60, 30), held=(40, 16, 8), **more):
    """Noisy templates of three classes."""
    rng = np.random.default_rng(0)
    templates = rng.integers(0, 90, (3, 5, 5, 1))
    parts = []
    for sizes in (counts, held):
        y = rng.permutation(np.repeat(np.arange(3), sizes))
        parts += [(templates[y] + rng.integers(0, 160, (len(y), 5, 5, 1))).astype(np.uint8), y]
    return data.Dataset("uneven", "made here", *parts, 3, **more)


def make(learning_rate):
    return mf.rule(nets.mlp([8]), optax.adam(learning_rate), num_classes=3)


@pytest.mark.parametrize(
    "counts, held, imbalance",
    [((150, 60, 30), (8, 8, 8), 5.0), ((40, 40, 40), (16, 8, 8), 2.0), ((30, 20, 20), (8,) * 3, 1.5)],
)
def test_imbalance_is_that_of_the_part_where_it_is_more(counts, held, imbalance):
    found = uneven(counts, held)
    assert found.imbalance == imbalance and found.unequal == (imbalance > 1.5)
    assert bool(found.balance()) == found.unequal


def test_a_class_without_samples_does_not_count():
    with pytest.warns(data.DataWarning, match="1 of 3 classes"):
        assert uneven((40, 40, 40), (8, 0, 8)).imbalance == 1


def test_the_words():
    line = "classes are unequal: of the training samples '2' has 30, '0' has 150; balanced accuracy is shown beside "
    assert uneven().balance() == line + "accuracy"
    assert "'c' has 30, 'a' has 150;" in uneven(class_names=("a", "b", "c")).balance()


def test_balanced_accuracy_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    made = uneven()
    found = fit(make(0.003), made, PLAN)
    expected = metrics.balanced_accuracy_score(made.y_test, found.predictions)
    assert found.test_balanced_accuracy == pytest.approx(expected)
    assert abs(expected - found.test_accuracy) > 0.02  # control: it is another number
    swept = sweep(make, made, PLAN, seeds=[0, 1, 2], hyper={"learning_rate": 0.003}, at_once=2)
    assert swept.test_balanced_accuracy.shape == (3,)
    for own, predicted in zip(swept.test_balanced_accuracy, swept.predictions, strict=True):
        assert own == pytest.approx(metrics.balanced_accuracy_score(made.y_test, predicted))


def test_it_is_there_only_where_classes_are_unequal_and_a_test_is_asked_for(tiny):
    rule = mf.rule(nets.mlp([8]), optax.adam(0.003), num_classes=4)
    assert fit(rule, tiny, PLAN).test_balanced_accuracy is None
    assert fit(make(0.003), uneven(), PLAN, test=False).test_balanced_accuracy is None


def test_a_diverged_run_has_none():
    found = sweep(make, uneven(), PLAN, seeds=[0, 1], hyper={"learning_rate": [0.003, np.inf]})
    assert found.diverged.tolist() == [False, True] and np.isnan(found.test_balanced_accuracy).tolist() == [False, True]


def test_a_study_shows_it(tmp_path, script):
    made = uneven()
    parts = {name: getattr(made, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "mine.npz", **parts)
    out = tmp_path / "out"
    code, text, err = script(
        "mf_mlp", "--dataset", tmp_path / "mine.npz", "--net", "mlp:8", "--seeds", 2, "--epochs", 1, "--output-dir", out
    )
    assert code == 0, err
    assert "note: classes are unequal: of the training samples '2' has 30, '0' has 150" in text
    assert "balanced %" in text and "balanced %" in (out / "table.md").read_text()
    summary = json.loads((out / "summary.json").read_text())
    predictions = results.read_predictions(out / "predictions.npz")
    for run in summary["rules"][0]["runs"]:
        found = predictions.runs[summary["rules"][0]["rule"], run["seed"]]
        shares = [np.mean(found[made.y_test == label] == label) for label in range(3)]
        assert run["test_balanced_accuracy"] == pytest.approx(np.mean(shares))
    assert summary["statistics"]["mf"]["test_balanced_accuracy"]["sd"] is not None
