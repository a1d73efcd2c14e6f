"""Rules learn real data, scikit-learn's digits, and learn nothing from shuffled labels."""

import dataclasses
from functools import cache
from math import sqrt

import numpy as np
import optax
import pytest

import fwdonly
from fwdonly import bp, mf, nets

MLP, CNN = nets.mlp([64, 64]), nets.cnn([16, 32])
DENSE = fwdonly.Plan(epochs=6, batch_size=32, keep="last")
CONVOLUTIONAL = fwdonly.Plan(epochs=12, batch_size=32, keep="last")
TX = optax.adam(3e-3)
RULES = {
    "mf": (mf.rule(MLP, TX, num_classes=10), DENSE),
    "mf_greedy": (mf.stages(MLP, TX, num_classes=10), DENSE),
    "mf_sum": (mf.rule(MLP, TX, num_classes=10, prediction="sum"), DENSE),
    "mf_cnn": (mf.rule(CNN, TX, num_classes=10), CONVOLUTIONAL),
    "bp": (bp.rule(MLP, TX, num_classes=10), DENSE),
}


@pytest.fixture(scope="module")
def digits():
    return fwdonly.data.load("digits")


@cache
def trained(name, digits):
    rule, plan = RULES[name]
    return fwdonly.fit(rule, digits, plan)


def test_every_rule_is_trained():
    assert {name.partition("_")[0] for name in RULES} == set(fwdonly.RULES)


@pytest.mark.parametrize("name", RULES)
def test_digits_are_learnt(name, digits):
    result = trained(name, digits)
    assert result.test_accuracy >= 0.90
    losses = result.history["train_loss"][result.history["stage"] == 0]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", ["mf", "bp"])
def test_control_shuffled_labels_teach_nothing(name, digits):
    y = np.random.default_rng(0).permutation(digits.y_train)
    rule, plan = RULES[name]
    result = fwdonly.fit(rule, dataclasses.replace(digits, y_train=y), plan)
    chance, tests = 0.1, len(digits.y_test)
    assert result.test_accuracy <= chance + 3 * sqrt(chance * (1 - chance) / tests)
    assert result.test_loss > 2.2  # nats; guessing costs ln 10 = 2.30


def test_the_readout_of_another_layer_predicts_badly(digits):
    state = trained("mf", digits).state
    x = fwdonly.data.normalise(digits.x_test, *fwdonly.data.statistics(digits))

    def accuracy(readout):
        params = (state.params[0], state.params[1]._replace(M=readout))
        return (mf.predict(state._replace(params=params), x, net=MLP).argmax(1) == digits.y_test).mean()

    assert accuracy(state.params[1].M) == pytest.approx(float(trained("mf", digits).test_accuracy))
    assert accuracy(state.params[0].M) < 0.5


def test_the_two_predictions_come_from_one_training_and_disagree_on_some_images(digits):
    last, total = trained("mf", digits), trained("mf_sum", digits)
    np.testing.assert_array_equal(last.history["train_loss"], total.history["train_loss"])
    assert last.test_loss != total.test_loss
