"""Rules learn real data, scikit-learn's digits, and learn nothing from shuffled labels."""

import dataclasses
from functools import cache
from math import sqrt
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fwdonly
from fwdonly import (
    Plan,
    bp,
    cafo,
    cwc,
    data,
    deeperforward,
    feedback,
    ff,
    fit,
    forward_gradient,
    foton,
    mf,
    nets,
    pepita,
    phyll,
    scff,
)
from fwdonly import zeroth_order as zo

MLP, CNN = nets.mlp([64, 64]), nets.cnn([16, 32])
DENSE = fwdonly.Plan(epochs=6, batch_size=32, keep="last")
CONVOLUTIONAL = fwdonly.Plan(epochs=12, batch_size=32, keep="last")
TX = optax.adam(3e-3)
FF_NET, FF_TX = nets.mlp([64] * 3, kernel_init=nets.normal), ff.separate(TX, TX, optax.adam(0.03))
PIXELS = fwdonly.Plan(epochs=20, batch_size=32, keep="last", normalise="none")
FULL = fwdonly.Plan(epochs=1, batch_size=None, keep="last")
CWC_NET = nets.cnn([40, 80], pool="max", kernel_init=nets.torch_uniform)
POOLED = nets.cnn([8, 16], pool="max", kernel_init=nets.torch_uniform, bias="uniform")
PEPITA_NET = nets.mlp([128], bias="none")
ORTHOGONAL = nets.mlp([64, 32], kernel_init=nets.orthogonal, bias="none")
PATCHES = (*nets.cnn([4, 16], kernel=2, stride=2, padding="valid", pool="none", bias="none"), *ORTHOGONAL[1:])
SLOPE, GENTLE = optax.sgd(0.05, momentum=0.9), optax.sgd(0.01, momentum=0.9)
WIDE_TANH = nets.mlp([128], activation=nets.ACTIVATIONS["tanh"])
LONG = dataclasses.replace(CONVOLUTIONAL, epochs=30)
LONG_64 = dataclasses.replace(LONG, batch_size=64)
RULES = {
    "mf": (mf.rule(MLP, TX, num_classes=10), DENSE),
    "mf_greedy": (mf.stages(MLP, TX, num_classes=10), DENSE),
    "mf_sum": (mf.rule(MLP, TX, num_classes=10, prediction="sum"), DENSE),
    "mf_cnn": (mf.rule(CNN, TX, num_classes=10), CONVOLUTIONAL),
    "bp": (bp.rule(MLP, TX, num_classes=10), DENSE),
    "ff": (ff.rule(FF_NET, FF_TX, num_classes=10, loss="logistic"), PIXELS),
    "ff_softmax": (ff.rule(FF_NET, FF_TX, num_classes=10, loss="logistic", prediction="softmax"), PIXELS),
    "ff_symba": (ff.rule(FF_NET, FF_TX, num_classes=10, loss="symba"), PIXELS),
    "ff_append": (ff.rule(FF_NET, FF_TX, num_classes=10, label="append", prediction="softmax"), PIXELS),
    "cafo": (cafo.stages(POOLED, TX, num_classes=10), DENSE),
    "cafo_mse": (cafo.stages(POOLED, TX, num_classes=10, loss="mse"), FULL),
    "cafo_sl": (cafo.rule(POOLED, TX, num_classes=10, loss="sl"), DENSE),
    "cafo_dfa": (cafo.stages(POOLED, TX, num_classes=10, block_tx=optax.adam(1e-3)), DENSE),
    "cwc": (cwc.rule(CWC_NET, TX, num_classes=10), CONVOLUTIONAL),
    "deeperforward": (deeperforward.rule(nets.mlp([200, 200]), optax.adam(0.1), num_classes=10), CONVOLUTIONAL),
    "pepita": (pepita.rule(PEPITA_NET, SLOPE, num_classes=10), PIXELS),
    "pepita_hebbian": (pepita.rule(PEPITA_NET, SLOPE, num_classes=10, form="hebbian", sign=-1.0), PIXELS),
    "pepita_mirrored": (pepita.rule(PEPITA_NET, SLOPE, num_classes=10, feedback="mirrored"), PIXELS),
    "pepita_cnn": (pepita.rule(POOLED[:1], optax.sgd(0.01, momentum=0.9), num_classes=10), CONVOLUTIONAL),
    "foton": (foton.rule(ORTHOGONAL, optax.sgd(0.2), num_classes=10), CONVOLUTIONAL),
    "foton_cnn": (foton.rule(PATCHES, optax.sgd(0.2), num_classes=10), CONVOLUTIONAL),
    "feedback": (feedback.rule(MLP, GENTLE, num_classes=10), DENSE),
    "feedback_dfa_cnn": (feedback.rule(POOLED, TX, num_classes=10, mode="dfa"), LONG),
    "feedback_drtp": (feedback.rule(WIDE_TANH, TX, num_classes=10, mode="drtp"), CONVOLUTIONAL),
    "feedback_kp": (feedback.rule(MLP, GENTLE, num_classes=10, mode="kp"), DENSE),
    "feedback_wm": (feedback.rule(MLP, GENTLE, num_classes=10, mode="wm"), DENSE),
    "feedback_usf": (feedback.rule(MLP, GENTLE, num_classes=10, mode="usf"), DENSE),
    "forward_gradient": (forward_gradient.rule(MLP, TX, num_classes=10), CONVOLUTIONAL),
    "zeroth_order": (zo.rule(nets.mlp([16]), optax.adam(0.02), num_classes=10, num_directions=16), LONG_64),
    "phyll": (phyll.rule(MLP, TX, num_classes=10, skip="concat"), DENSE),
    "scff": (scff.rule(MLP, TX, num_classes=10), CONVOLUTIONAL),
    "scff_cnn": (scff.rule(CNN, TX, num_classes=10), CONVOLUTIONAL),
}

LONG_FORMS = {"ff_symba", "ff_append", "cafo_mse", "cafo_dfa", "pepita_hebbian", "pepita_mirrored", "pepita_cnn"}
LONG_FORMS |= {"scff_cnn", "foton_cnn", "feedback_dfa_cnn", "feedback_kp", "feedback_wm", "feedback_usf"}


def by_gate(names, gate):
    """Parameters, of which the gate trains some; the others take as long, and are marked slow."""
    return [name if name in gate else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture
def compiled(request):
    """Optimised programs for rules that compute more than they compile."""
    if request.node.callspec.params["name"] in ("cwc", "zeroth_order"):
        request.getfixturevalue("users_compilation")


@pytest.fixture(scope="module")
def digits():
    return fwdonly.data.load("digits")


@cache
def trained(name, digits):
    rule, plan = RULES[name]
    return fwdonly.fit(rule, digits, plan)


def test_every_rule_is_trained():
    rules = {name: [r for r in fwdonly.RULES if name == r or name.startswith(f"{r}_")] for name in RULES}
    assert {max(names, key=len) for names in rules.values()} == set(fwdonly.RULES)


@pytest.mark.parametrize("name", by_gate(RULES, RULES.keys() - LONG_FORMS))
def test_digits_are_learnt(name, digits):
    result = trained(name, digits)
    assert result.test_accuracy >= 0.90
    losses = result.history["train_loss"][result.history["stage"] == 0]
    assert len(losses) == 1 or losses[-1] < 0.5 * losses[0]  # a closed form takes one epoch


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", fwdonly.RULES)
def test_control_shuffled_labels_teach_nothing(name, digits):
    rule, plan = RULES[name]
    shuffled = dataclasses.replace(digits, y_train=np.random.default_rng(0).permutation(digits.y_train))
    result = fwdonly.fit(rule, shuffled, plan)
    # Images of one class look alike and get one answer, so that a shuffle makes ten independent guesses, not 359.
    chance, guesses = 0.1, 10
    assert result.test_accuracy <= chance + 3 * sqrt(chance * (1 - chance) / guesses)  # 0.38; learning reaches 0.9
    assert result.test_loss > 2.2  # nats; guessing costs ln 10 = 2.30


def test_the_readout_of_another_layer_predicts_badly(digits):
    state = trained("mf", digits).state
    x = fwdonly.data.normalise(jnp.asarray(digits.x_test), *fwdonly.data.statistics(digits))

    def accuracy(readout):
        params = (state.params[0], state.params[1]._replace(M=readout))
        return (mf.predict(state._replace(params=params), x, net=MLP).argmax(1) == digits.y_test).mean()

    assert accuracy(state.params[1].M) == pytest.approx(float(trained("mf", digits).test_accuracy))
    assert accuracy(state.params[0].M) < 0.25


def test_the_two_predictions_come_from_one_training_and_disagree_on_some_images(digits):
    last, total = trained("mf", digits), trained("mf_sum", digits)
    np.testing.assert_array_equal(last.history["train_loss"], total.history["train_loss"])
    assert last.test_loss != total.test_loss
    for result, name, other in ((last, "sum", total), (total, "last", last)):
        assert result.readouts[name]["test_accuracy"] == other.test_accuracy != result.test_accuracy


@pytest.mark.slow
@pytest.mark.usefixtures("users_compilation")
@pytest.mark.parametrize("loss", ["logistic", "symba"])
def test_defaults_of_ff_learn_on_wide_layers_and_those_of_the_matlab_do_not(loss):
    """500-500 on standardised pixels. Narrow layers hide both faults: a label of .1 % of the energy, and a peer term
    that drowns the gradient of a mean. At 1000-1000: 71.7-76.1 %, SymBa 7.6-9.4 %.
    """
    images, plan = data.load("mnist5k"), Plan(epochs=6)

    def accuracy(**options):
        rule = ff.rule(nets.mlp([500, 500]), optax.adam(1e-3), num_classes=10, loss=loss, **options)
        return fit(rule, images, plan).test_accuracy

    assert accuracy() > 0.87
    assert accuracy(label_strength=1.0, peer=0.03) < 0.8  # the control


@cache
def above_frozen(mode, activation):
    """Test accuracy on the embedded MNIST images, 100-100 for ten epochs, less that of frozen hidden layers."""
    net = nets.mlp([100, 100], activation=activation)
    rule = feedback.rule(net, ADAM, num_classes=10, mode=mode)
    return fit(rule, data.load("mnist5k"), Plan(10)).test_accuracy - frozen_accuracy(net, ADAM, Plan(10))


@pytest.mark.parametrize("mode", by_gate([m for m in get_args(feedback.Mode) if m != "shallow"], ("dfa", "kp")))
def test_every_feedback_rule_beats_frozen_hidden_layers(mode):
    assert above_frozen(mode, jnp.tanh) > 0.03


HUNDRED, WITHOUT_BIASES = nets.mlp([100, 100]), nets.mlp([100, 100], bias="none")
ROUND = nets.mlp([100, 100], kernel_init=nets.orthogonal, bias="none")
ADAM = optax.adam(1e-3)
MARGINS = {
    "bp": (bp.rule(HUNDRED, ADAM, num_classes=10), 0.15),
    "mf": (mf.rule(HUNDRED, ADAM, num_classes=10), 0.15),
    "ff": (ff.rule(HUNDRED, ADAM, num_classes=10, loss="logistic"), 0.02),
    "ff_symba": (ff.rule(HUNDRED, ADAM, num_classes=10, loss="symba"), 0.15),
    "cafo_dfa": (cafo.stages(HUNDRED, ADAM, num_classes=10, block_tx=ADAM), 0.15),
    "cwc": (cwc.rule(HUNDRED, ADAM, num_classes=10), 0.15),
    "deeperforward": (deeperforward.rule(HUNDRED, optax.adam(0.03), num_classes=10), 0.15),
    "pepita": (pepita.rule(WITHOUT_BIASES, ADAM, num_classes=10), 0.10),
    "foton": (foton.rule(ROUND, ADAM, num_classes=10), 0.15),
}
"""Rules whose hidden layers learn, and by how much they must beat frozen ones of 100-100 units at least.

Width 100 and seed 0 alone: the control reaches 67 % there, and 91 % at width 1000, where sDFA with tanh and PEPITA with
Adam stay below it (docs/hostile-reader.md). The rules of `feedback` are below.
"""


@cache
def frozen_accuracy(net, tx, plan):
    rule = bp.rule(net, tx, num_classes=10, hidden="frozen", readout_init=nets.he_uniform)
    return fit(rule, data.load("mnist5k"), plan).test_accuracy


@pytest.mark.parametrize("name", by_gate(MARGINS, ("bp", "pepita")))
def test_rules_that_train_hidden_layers_beat_frozen_ones_by_a_margin(name):
    rule, margin = MARGINS[name]
    assert fit(rule, data.load("mnist5k"), Plan(10)).test_accuracy > frozen_accuracy(HUNDRED, ADAM, Plan(10)) + margin


@pytest.mark.slow
def test_trained_blocks_of_cascaded_forward_beat_random_ones():
    """Its blocks are frozen already where they are random: that is its control."""
    dfa, random = (
        fit(cafo.stages(HUNDRED, ADAM, num_classes=10, **options), data.load("mnist5k"), Plan(10)).test_accuracy
        for options in ({"block_tx": ADAM}, {})
    )
    assert dfa > random + 0.05


@pytest.mark.slow
def test_pepita_beats_frozen_layers_at_its_own_settings_by_little():
    """784-100-10, momentum SGD, pixels in [0, 1]: 86.4 against 83.0 %."""
    net, tx, plan = nets.mlp([100], bias="none"), optax.sgd(0.1, momentum=0.9), Plan(10, normalise="none")
    accuracy = fit(pepita.rule(net, tx, num_classes=10), data.load("mnist5k"), plan).test_accuracy
    assert accuracy > frozen_accuracy(net, tx, plan) + 0.01


@pytest.mark.filterwarnings("ignore::fwdonly.feedback.UnboundedWarning")
@pytest.mark.parametrize("mode", ["sdfa"])
def test_a_signal_that_never_ends_is_worse_than_frozen_layers_where_activities_have_no_bound(mode):
    assert above_frozen(mode, jax.nn.relu) < -0.1


FLOORS = {"bp": 92, "mf": 92, "ff": 89, "cafo": 85, "cwc": 91, "pepita": 85, "foton": 91, "feedback": 86}
FLOORS |= {"forward_gradient": 82, "zeroth_order": 18, "phyll": 88, "deeperforward": 80, "scff": 88}
"""Test accuracy, %, of a first call with a rule's defaults. Seed 0 gave 93.8, 93.4, 91.8, 87.0, 92.9, 87.3, 92.3, 87.9;
FF's softmax, which the same training has, 92.2. Seeds 1 and 2 of FF: 91.3 and 90.4. Seeds 0-2 of forward gradients:
87.8, 84.6, 85.6; of MeZO, which is far from its end after ten epochs, 21.8, 29.9, 31.5; of PhyLL 91.0, 90.0, 90.1.
Seed 0 of DeeperForward, whose rate is thirty times this one: 85.0; of SCFF 90.9."""


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", FLOORS)
def test_a_first_call_with_the_defaults_is_good(name):
    """5,000 embedded MNIST images, 784-200-200, ten epochs of Adam; the control is shuffled labels."""
    images, rng = data.load("mnist5k"), np.random.default_rng(0)
    rule = fwdonly.RULES[name].rule(nets.mlp([200, 200]), optax.adam(1e-3), num_classes=10)
    found = fit(rule, images, Plan(epochs=10))
    assert found.test_accuracy > FLOORS[name] / 100
    if name == "ff":
        assert found.readouts["softmax"]["test_accuracy"] > 0.89
    if name in ("mf", "ff"):  # of every rule in `test_control_shuffled_labels_teach_nothing`
        shuffled = dataclasses.replace(images, y_train=rng.permutation(images.y_train))
        assert fit(rule, shuffled, Plan(epochs=10)).test_accuracy < 0.25


def test_the_defaults_of_every_rule_are_tried():
    assert set(FLOORS) == set(fwdonly.RULES)
