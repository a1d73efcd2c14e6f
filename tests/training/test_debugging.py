"""JAX's three usual switches for debugging, in every way to train."""

import copy
import os
import pickle
import subprocess
import sys
import traceback

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from fwdonly import RULES, Batch, Plan, UsageError, cafo, ff, fit, mf, nets, sweep

SWITCHES = {"nans": jax.debug_nans, "infs": jax.debug_infs, "jit": jax.disable_jit}
NET = nets.mlp([8])
PLAN = Plan(epochs=3, batch_size=60, patience=1, keep="last", chunk_steps=2)


def mf_rule(learning_rate):
    return mf.rule(NET, optax.adam(learning_rate), num_classes=4)


def ff_rule(learning_rate):
    return ff.rule(NET, optax.adam(learning_rate), num_classes=4)


def cafo_stages(learning_rate):
    return cafo.stages(nets.mlp([8, 8]), optax.adam(learning_rate), num_classes=4)


RATES = [0.01, 3.0]  # the second run stops early: its rows are NaN from there on
WAYS = {
    "fit": lambda d, make: fit(make(0.01), d, PLAN, seed=1),
    "map": lambda d, make: sweep(make, d, PLAN, seeds=[1, 1], hyper={"learning_rate": RATES}, how="map"),
    "vmap": lambda d, make: sweep(make, d, PLAN, seeds=[1, 1], hyper={"learning_rate": RATES}, how="vmap"),
}


@pytest.mark.parametrize(
    ("way", "make"),  # every way, and every rule
    [("fit", ff_rule), ("map", mf_rule), pytest.param("vmap", cafo_stages, marks=pytest.mark.slow)],
)
def test_a_sound_training_has_its_numbers_under_every_switch(tiny, way, make):
    usual = WAYS[way](tiny, make)
    for name, switch in SWITCHES.items():
        with switch(True):
            found = WAYS[way](tiny, make)
        np.testing.assert_array_equal(found.epochs, usual.epochs)
        rounding = 0.0 if name != "jit" else 2e-3
        np.testing.assert_allclose(found.val_loss, usual.val_loss, rtol=rounding)


def poisoned(value):
    """MF whose second step of five has a value that is not finite, in a line of its own."""

    def make(learning_rate):
        rule = mf_rule(learning_rate)

        def update(state, batch, key):
            state, metrics = rule.update(state, batch, key)
            count = state.opt_state[0][0].count
            return state, metrics | {"loss": metrics["loss"] + the_place(count, value)}

        return rule._replace(update=update, grads=None)

    return make


def the_place(count, value):
    over = jnp.where(count == 2, 0.0, 1.0)
    return (over if value == "nans" else 1.0) / over - 1.0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["nans", "infs"])
def test_a_number_that_is_not_finite_has_a_place(tiny, name, way):
    make = poisoned(name)
    with SWITCHES[name](True), pytest.raises(FloatingPointError) as caught:
        WAYS[way](tiny, make)
    assert name == "infs" or "the_place" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert np.any(WAYS[way](tiny, make).diverged)  # the control: without the switch it is a run that diverged


def test_without_compilation_values_can_be_seen_and_small_batches_are_taken(tiny):
    seen = []

    def make(learning_rate):
        rule = mf_rule(learning_rate)

        def update(state, batch, key):
            if not isinstance(batch.x, jax.core.Tracer):  # it is traced for its shapes, too
                seen.append(float(batch.x.sum()))
            return rule.update(state, batch, key)

        return rule._replace(update=update, grads=None)

    plan = Plan(epochs=1, batch_size=2)  # of whose batches some have one class
    with jax.disable_jit():
        fit(make(0.01), tiny, plan, split=(np.arange(24), np.arange(100, 200)))
    assert len(seen) >= 12 and len(set(seen)) > 6


@pytest.mark.parametrize("way", WAYS)
def test_a_training_asks_for_no_unseen_transfer_and_no_unseen_promotion(tiny, way):
    """Optax's own Adam promotes integers (0.2.8), so the optimizer is SGD."""

    def make(learning_rate):
        return mf.rule(NET, optax.sgd(learning_rate), num_classes=4)

    usual = WAYS[way](tiny, make)
    with jax.transfer_guard("disallow"), jax.numpy_dtype_promotion("strict"):
        found = WAYS[way](tiny, make)
        with pytest.raises(ValueError, match="dtype promotion"):  # the control
            _ = jax.jit(lambda a: a + jnp.ones((), jnp.float32))(jax.device_put(np.int32(1)))
    np.testing.assert_array_equal(found.val_loss, usual.val_loss)


def test_networks_pickle():
    """Activations of jax.nn and start values are closures or wrapped, and go by their names."""
    net = nets.cnn([4], kernel_init=nets.orthogonal, pool="max") + nets.mlp([3], activation=jnp.tanh, bias="none")
    again = pickle.loads(pickle.dumps(net))
    assert again == net and hash(again) == hash(net) and again[1].activation is jnp.tanh
    assert copy.deepcopy(net) == net


NO_NETWORKS = {
    "NET[0]": "a network is a tuple of blocks; got one Dense: write (block,)",
    "list(NET)": "a network is a tuple of blocks, such as fwdonly.nets.mlp([1000]); got a list",
    "()": "the network has no hidden layer; give it at least one, such as fwdonly.nets.mlp([1000])",
    "(nets.Dense,)": "block 1 is the class Dense; give an object of it",
    "(NET[0], 16)": "block 2 is 16; a block has init and apply, as every Flax Linen module",
}


def test_what_is_no_network_is_refused_in_one_line():
    """In a process without beartype, which would refuse it before."""
    program = "import jax, jax.numpy as jnp\nfrom fwdonly import nets, UsageError\nNET = nets.mlp([8])\n"
    program += "def tried(net):\n    try:\n        nets.init(jax.random.key(0), jnp.ones((2, 5)), net)\n"
    program += "    except UsageError as error:\n        print(error)\n"
    program += "\n".join(f"tried({net})" for net in NO_NETWORKS)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.stdout.splitlines() == list(NO_NETWORKS.values()), ended.stderr


def test_a_maker_that_needs_a_value_is_refused_in_one_line(tiny):
    def make(width):
        return mf.rule(NET if width > 8 else (*NET, *NET), optax.sgd(0.1), num_classes=4)

    with pytest.raises(UsageError, match="make_rule needs the value of width") as refused:
        sweep(make, tiny, PLAN, seeds=[0], hyper={"width": 8.0})
    assert "\n" not in str(refused.value)


def test_a_platform_that_is_not_there_is_one_line():
    words = [sys.executable, "-m", "fwdonly", "train", "mf", "--dataset", "digits"]
    for platform in ("cuda", "no_such"):
        ended = subprocess.run(
            words, env=os.environ | {"JAX_PLATFORMS": platform}, capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 2, ended
        last = ended.stderr.strip().splitlines()[-1]
        assert last.startswith(f"error: JAX finds no device with JAX_PLATFORMS={platform}; unset it")
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", [*RULES, "mf-joint"])
def test_an_optimizer_is_given_the_loss_that_it_descends(name):
    """The layer's own where layers have losses of their own, else the one loss."""
    net = nets.cwc([8, 8], 4) if name in ("cwc", "deeperforward") else nets.mlp([6, 5])
    if name == "foton":
        net = tuple(block.clone(kernel_init=nets.orthogonal, bias="none") for block in net)

    def update(gradients, state, params=None, *, value, **_):
        del state, params
        return jax.tree.map(jnp.zeros_like, gradients), {"value": value}

    seen = optax.GradientTransformationExtraArgs(lambda params: {"value": jnp.zeros(())}, update)
    name, _, gradient = name.partition("-")
    rule = RULES[name].rule(net, seen, num_classes=4, **{"gradient": gradient} if gradient else {})
    x, y = jax.random.normal(jax.random.key(0), (8, 6, 6, 1)), jnp.arange(8) % 4
    state = jax.jit(rule.init)(jax.random.key(1), x)
    state, metrics = jax.jit(rule.update)(state, Batch(x, y), jax.random.key(2))
    paths = jax.tree_util.tree_leaves_with_path(state.opt_state)
    values = [leaf for path, leaf in paths if getattr(path[-1], "key", None) == "value"]
    own = (
        metrics["layer_loss"]
        if name in ("mf", "ff", "cwc", "deeperforward", "cafo", "forward_gradient", "phyll", "scff") and not gradient
        else metrics["loss"][None]
    )
    own = jnp.tile(own, 2) if name == "zeroth_order" or gradient else own  # an optimizer per layer, and one loss
    np.testing.assert_allclose(jnp.stack(values), own, rtol=1e-6)


def staircase(count):
    return np.float32(0.1) if count > 3 else np.float32(0.01)


NO_OPTIMIZERS = {
    "none": (None, "tx is an optax transformation, such as optax.adam(1e-3); got NoneType"),
    "line search": (optax.lbfgs(), "this optimizer asks for the loss as a function (value_fn), which bp and stages of"),
    "lookahead": (optax.lookahead(optax.sgd(0.1), 5, 0.5), "this optimizer cannot step a rule's parameters: 'Layer'"),
    "branches": (optax.sgd(staircase), "this optimizer cannot step a rule's parameters: a schedule chooses by"),
}


@pytest.mark.parametrize("tx", NO_OPTIMIZERS)
def test_an_optimizer_that_cannot_serve_a_rule_is_one_line(tx, tiny, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or it would speak first
    given, line = NO_OPTIMIZERS[tx]
    with pytest.raises(UsageError) as refused:
        fit(mf.rule(NET, given, num_classes=4), tiny, PLAN)
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


def test_a_mask_of_all_parameters_is_one_line_and_a_function_serves(tiny):
    """A rule that steps its layers one by one gives the optimizer a layer's parameters alone."""
    shape = jnp.ones((2, *tiny.x_train.shape[1:]))
    params = mf.init(jax.random.key(0), shape, net=NET, tx=optax.sgd(0.1), num_classes=4).params

    def mask(params):
        return jax.tree.map(lambda a: a.ndim > 1, params)

    def labelled(labels):
        return optax.multi_transform({True: optax.sgd(0.1), False: optax.set_to_zero()}, labels)

    for make in (labelled, lambda own: optax.masked(optax.sgd(0.1), own), lambda own: optax.adamw(0.1, mask=own)):
        with pytest.raises(UsageError, match=r"mask or labels as a tree of another form.* give a function") as refused:
            fit(mf.rule(NET, make(mask(params)), num_classes=4), tiny, Plan(epochs=1))
        assert "\n" not in str(refused.value)
    assert fit(mf.rule(NET, optax.masked(optax.sgd(0.1), mask), num_classes=4), tiny, Plan(epochs=1)).finished


def test_a_label_that_no_convolution_can_take_is_named(tiny):
    with pytest.raises(UsageError, match=r'label="append" makes vectors of images.*; use label="overlay"'):
        fit(ff.rule(nets.cnn([4]), optax.sgd(0.1), num_classes=4, label="append"), tiny, Plan(epochs=1))


def test_a_plateau_lowers_the_rate_of_the_layer_that_stands_still(tiny):
    """A threshold that no loss reaches: the scale falls tenfold after every second step without it."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.1, patience=2, atol=1e9, rtol=0.0)
    rule = mf.rule(NET, optax.chain(optax.sgd(0.1), plateau), num_classes=4)
    found = fit(rule, tiny, Plan(epochs=2, batch_size=60, keep="last"))
    assert found.state.opt_state[0][1].scale < 0.2
