"""JAX's three usual switches for debugging, in every way to train."""

import traceback

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fwdonly import Plan, cafo, ff, fit, mf, nets, sweep

pytestmark = pytest.mark.usefixtures("quickest_compilation")

SWITCHES = {"nans": jax.debug_nans, "infs": jax.debug_infs, "jit": jax.disable_jit}
NET = nets.mlp([8])
PLAN = Plan(epochs=4, batch_size=60, patience=1, keep="last", chunk_steps=2)


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


@pytest.mark.parametrize("make", [mf_rule, ff_rule, cafo_stages])
@pytest.mark.parametrize("way", WAYS)
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
