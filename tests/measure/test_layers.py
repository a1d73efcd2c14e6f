"""Scores and outputs of every layer: right, no dearer than a prediction, in the history, the tables and the figures."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fwdonly import RULES, Batch, LearningRule, Plan, UsageError, bp, cafo, cwc, fit, mf, nets, sweep
from fwdonly.measure import probe
from fwdonly.training.steps import in_batches, layer_accuracy

TX = optax.adam(3e-3)
NET = nets.mlp([9, 12, 6])
SCORED = {
    "mf": mf.rule(NET, TX, num_classes=3),
    "mf_input": mf.rule(NET, TX, num_classes=3, input_readout=True),
    "ff": RULES["ff"].rule(NET, TX, num_classes=3),
    "cafo": cafo.rule(NET, TX, num_classes=3),
    "cwc": cwc.rule(NET, TX, num_classes=3),
    "bp_deep": bp.rule(NET, TX, num_classes=3, readouts="deep"),
}


def started(rule, batch):
    """A state some steps from the start."""
    state = rule.init(jax.random.key(0), batch.x)
    for step in range(3):
        state, _ = rule.update(state, batch, jax.random.key(step))
    return state


def softmax_loss(scores, y):
    scores = np.asarray(scores, np.float64)
    return np.mean(np.log(np.exp(scores).sum(-1)) - scores[..., np.arange(len(y)), y], axis=-1)


@pytest.mark.parametrize("name", ["mf", "mf_input", "cafo", "bp_deep"])
def test_a_layers_scores_are_those_whose_loss_it_descends(name, batch):
    rule = SCORED[name]
    state = started(rule, batch)
    _, metrics = rule.grads(state, batch, jax.random.key(9))
    scores = rule.layer_scores(state, batch.x)
    assert scores.shape == (len(metrics["layer_loss"]), *batch.y.shape, 3)
    np.testing.assert_allclose(softmax_loss(scores, batch.y), metrics["layer_loss"], rtol=1e-5)
    assert not np.allclose(softmax_loss(scores[::-1], batch.y), metrics["layer_loss"], rtol=1e-3)  # the control


@pytest.mark.parametrize("name", SCORED)
def test_the_prediction_follows_from_the_layers_scores(name, batch):
    rule = SCORED[name]
    state = started(rule, batch)
    scores = np.asarray(rule.layer_scores(state, batch.x), np.float64)
    softmax = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    wanted = {"cafo": np.log(softmax.mean(0)), "ff": scores[1:].sum(0)}.get(name, scores[-1])  # FF: from layer 2 on
    np.testing.assert_allclose(rule.predict(state, batch.x), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SCORED)
def test_scores_of_all_layers_cost_one_prediction(name):
    """In operations as XLA counts them; L readouts in the place of one are the difference."""
    net = nets.mlp([120, 120, 120])
    made = {"mf_input": (mf, {"input_readout": True}), "bp_deep": (bp, {"readouts": "deep"})}
    module, options = made.get(name, (RULES.get(name), {}))
    rule = module.rule(net, TX, num_classes=3, **options)
    x = jnp.ones((50, 100))
    state = rule.init(jax.random.key(0), x)

    def operations(read):
        return jax.jit(read).lower(state, x).compile().cost_analysis()["flops"]

    assert operations(rule.layer_scores) < 1.1 * operations(rule.predict)
    assert operations(lambda state, x: [rule.layer_scores(state, x), rule.predict(state, x + 1)]) > 1.8 * operations(
        rule.predict
    )


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("ff", "phyll")])
def test_every_rule_tells_its_layers_outputs(name, batch):
    net = nets.mlp([9, 6], kernel_init=nets.orthogonal, bias="none") if name == "foton" else nets.mlp([9, 6])
    rule = RULES[name].rule(net, TX, num_classes=3)
    state = rule.init(jax.random.key(0), batch.x)
    first, last = rule.activations(state, batch.x)
    assert (first.shape, last.shape) == ((6, 9), (6, 6))
    if name in ("bp", "feedback", "foton", "pepita"):
        scores = last @ state.params.W + (0 if state.params.b is None else state.params.b[None, :])
        np.testing.assert_allclose(rule.predict(state, batch.x), scores, rtol=1e-5, atol=1e-6)
    if name == "mf":
        np.testing.assert_allclose(rule.predict(state, batch.x), last @ state.params[-1].M.T, rtol=1e-5)


def test_accuracy_by_layer_counts_every_sample_once():
    """701 samples do not fill their batches of 500: what fills them up is not counted."""
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(2, 701, 4)).astype(np.float32), rng.integers(0, 4, 701)
    found = layer_accuracy(lambda at: jnp.asarray(scores)[:, at], jnp.asarray(y, jnp.int32))
    np.testing.assert_allclose(found, (scores.argmax(-1) == y).mean(-1), rtol=1e-6)
    assert sum(int(real.sum()) for real in in_batches(701)[1]) == 701


@pytest.fixture(scope="module")
def swept(tiny):
    plan = Plan(epochs=3, batch_size=20, layer_accuracy=True)
    make = lambda learning_rate: mf.rule(nets.mlp([16, 8]), optax.adam(learning_rate), num_classes=4)
    return sweep(make, tiny, plan, seeds=[3, 5], hyper={"learning_rate": [1e-3, 1e-2]}, at_once=1)


def test_the_last_layers_accuracy_is_the_predictions(swept):
    for row, accuracy in zip(swept.history["layer_accuracy"], swept.history["val_accuracy"], strict=True):
        assert row.shape == (2, 2)
        np.testing.assert_array_equal(row[:, -1], accuracy)
    np.testing.assert_array_equal(swept.layer_accuracy[:, -1], swept.val_accuracy)  # of the kept epoch


def test_stages_tell_the_layers_that_they_have(tiny):
    rules = mf.stages(nets.mlp([16, 8]), TX, num_classes=4)
    found = fit(rules, tiny, Plan(epochs=1, batch_size=20, layer_accuracy=True))
    assert [len(row) for row in found.history["layer_accuracy"]] == [1, 2]
    assert found.layer_accuracy.shape == (2,) and found.layer_accuracy[-1] == found.val_accuracy


def test_a_result_shows_layers_seeds_and_hyper_and_draws_itself(swept):
    np.testing.assert_array_equal(swept.seeds, [3, 5])
    np.testing.assert_allclose(swept.hyper["learning_rate"], [1e-3, 1e-2], rtol=1e-6)
    text = repr(swept)
    assert "by layer" in text and "seeds      3, 5" in text and "learning_rate 0.001, 0.01" in text
    frame = swept.to_dataframe()
    assert frame.groupby("run")["seed"].first().tolist() == [3, 5] and len(frame) == 6
    assert frame["learning_rate"].nunique() == 2
    loss, accuracy, depth = swept.plot().axes
    assert len(loss.lines) == len(accuracy.lines) == len(depth.lines) == 2
    np.testing.assert_allclose(depth.lines[1].get_ydata(), 100 * swept.layer_accuracy[1])
    np.testing.assert_allclose(loss.lines[0].get_ydata(), swept.history["train_loss"][:, 0])


def test_without_the_request_nothing_is_noted(tiny):
    found = fit(mf.rule(nets.mlp([8]), TX, num_classes=4), tiny, Plan(epochs=1, batch_size=20))
    assert found.layer_accuracy is None and "layer_accuracy" not in found.history and len(found.plot().axes) == 2


def test_a_rule_whose_layers_have_no_scores_says_what_to_do(tiny):
    with pytest.raises(UsageError, match=r"layer_accuracy needs a rule whose layers have scores.*probe") as refused:
        fit(bp.rule(nets.mlp([8]), TX, num_classes=4), tiny, Plan(epochs=1, layer_accuracy=True))
    assert "\n" not in str(refused.value)


def test_a_command_prints_and_draws_accuracy_over_depth(command, tmp_path):
    words = ["train", "mf", "--against", "bp", "--dataset", "digits", "--net", "mlp:12,8", "--epochs", "1"]
    code, out, _ = command(*words, "--seeds", "2", "--layer-accuracy", "--output-dir", tmp_path / "run", "--quiet")
    assert code == 0 and "layer_accuracy.png" in out and "Layers of BP have no scores of their own" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    by_rule = {s["rule"]: [run.get("layer_accuracy") for run in s["runs"]] for s in summary["rules"]}
    assert by_rule["bp"] == [None, None]
    runs = np.array(by_rule["mf"])
    np.testing.assert_allclose(runs[:, -1], [run["val_accuracy"] for run in summary["rules"][0]["runs"]])
    mean, sd = 100 * runs.mean(0), 100 * runs.std(0, ddof=1)
    for layer in range(2):
        assert f"| MF | {layer + 1} | {mean[layer]:.2f} ± {sd[layer]:.2f} |" in (tmp_path / "run/table.md").read_text()
    assert command("report", tmp_path / "run")[0] == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Accuracy by layer" in page


def linear_rule(outputs):
    """A rule whose only layer gives what the test says."""
    return LearningRule(lambda key, x: (), lambda s, b, k: (s, {}), lambda s, x: x, activations=outputs)


def test_a_probe_is_at_the_optimum_of_its_convex_problem():
    """Against scikit-learn's logistic regression, whose C is 1 / (N ridge) and whose intercept is free, too."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(300, 5)).astype(np.float32), rng.integers(0, 3, 300).astype(np.int32)
    x[:, 0] += y  # some of it can be known
    train, test = (Batch(jnp.asarray(x[part]), jnp.asarray(y[part])) for part in (slice(200), slice(200, 300)))
    found = probe(linear_rule(lambda state, x: (x, 0 * x)), (), train, test, ridge=0.01)
    scaled = (x.astype(np.float64) - x[:200].mean(0)) / x[:200].std(0)
    rival = LogisticRegression(C=1 / (200 * 0.01), tol=1e-8, max_iter=1000).fit(scaled[:200], y[:200])
    assert found.gradient[0] < 1e-5
    one = 1e-6 + 1 / 100  # sample, which may lie on a border
    assert found.accuracy[0] == pytest.approx(rival.score(scaled[200:], y[200:]), abs=one)
    assert found.train_accuracy[0] == pytest.approx(rival.score(scaled[:200], y[:200]), abs=one)
    common = np.bincount(y[:200]).argmax()  # an output that never changes: the probe has its bias alone
    assert found.accuracy[1] == pytest.approx((y[200:] == common).mean(), abs=1e-6)


def test_probes_that_cannot_be_are_one_line(batch):
    rule = bp.rule(NET, TX, num_classes=3)
    state = rule.init(jax.random.key(0), batch.x)
    for refused, words in ((lambda: probe(rule._replace(activations=None), state, batch, batch), "layers' outputs"),
                           (lambda: probe(rule, state, batch, batch, ridge=0.0), "ridge must be above 0")):  # fmt: skip
        with pytest.raises(UsageError, match=words) as error:
            refused()
        assert "\n" not in str(error.value)
