"""Float features: tables and float images train with every rule, scaled by the training set; uint8 is left alone.

Oracles: NumPy's and scikit-learn's means, scikit-learn's logistic regression, the same images as uint8.
"""

import dataclasses
from functools import cache, partial

import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import fwdonly
from fwdonly import Plan, UsageError, bp, data, fit, mf, nets, sweep

PLAN = Plan(epochs=12, batch_size=32, keep="last")


@cache
def table():
    """Breast cancer: 569 rows of 30 columns, whose SDs go from .003 to 569; and the accuracy of logistic regression."""
    datasets = pytest.importorskip("sklearn.datasets")
    linear, scaling = (pytest.importorskip(f"sklearn.{name}") for name in ("linear_model", "preprocessing"))
    x, y = datasets.load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:-114], order[-114:]
    scaler = scaling.StandardScaler().fit(x[train])
    regression = linear.LogisticRegression(max_iter=1000).fit(scaler.transform(x[train]), y[train])
    made = data.Dataset("cancer", "scikit-learn", x[train], y[train], x[test], y[test], 2)
    return made, scaler, regression.score(scaler.transform(x[test]), y[test])


@pytest.mark.slow  # the gate trains every rule on this table by a command (`test_users_tables`)
@pytest.mark.parametrize("name", fwdonly.RULES)
def test_every_rule_trains_on_a_table(name):
    made, _, regression = table()
    net = nets.mlp([24, 16], bias="none" if name in ("pepita", "foton") else "zero")
    found = fit(fwdonly.RULES[name].rule(net, optax.adam(3e-3), num_classes=2), made, PLAN)
    margins = {"mf": 0.02, "bp": 0.02, "zeroth_order": 0.15, "deeperforward": 0.25}  # the majority has .63
    assert found.test_accuracy >= regression - margins.get(name, 0.08)


def test_a_table_is_scaled_by_its_training_part_column_by_column():
    made, scaler, _ = table()
    mean, sd = data.statistics(made)
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(sd, scaler.scale_, rtol=1e-5)
    found = data.standardise(jnp.asarray(made.x_test), mean, sd)
    np.testing.assert_allclose(found, scaler.transform(made.x_test), rtol=1e-4, atol=1e-4)
    assert data.statistics(made, "none") == ((0.0,) * 30, (1.0,) * 30)


def test_a_far_mean_costs_no_digits():
    """Years: 2000 +- 5; ``x / sd - mean / sd`` in float32 would lose them."""
    years = np.random.default_rng(0).normal(2e6, 5, (4000, 1)).astype(np.float32)
    made = data.Dataset("years", "", years, np.arange(4000) % 2, years, np.arange(4000) % 2, 2)
    found = np.asarray(data.standardise(jnp.asarray(years), *data.statistics(made)), np.float64)
    exact = (years.astype(float) - years.astype(float).mean()) / years.astype(float).std()
    np.testing.assert_allclose(found, exact, atol=0.03)  # float32 holds 2e6 in steps of 1/8
    assert abs(found.std() - 1) < 1e-3


def test_a_constant_column_is_left_at_0():
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    x[:, 1] = 0.1
    made = data.Dataset("c", "", x, np.arange(50) % 2, x, np.arange(50) % 2, 2)
    assert data.statistics(made)[1][1] == 1
    np.testing.assert_allclose(data.standardise(jnp.asarray(x), *data.statistics(made))[:, 1], 0, atol=1e-6)


@pytest.mark.parametrize("scale", [1 / 255, 1.0])
def test_float_images_train_as_their_pixels_do(tiny, scale):
    floats = dataclasses.replace(tiny, x_train=tiny.x_train * scale, x_test=tiny.x_test * scale)
    assert floats.x_train.dtype == np.float32
    plan = Plan(epochs=3, batch_size=20)
    pixels, found = (fit(mf.rule(nets.cnn([6]), optax.adam(0.01), num_classes=4), d, plan) for d in (tiny, floats))
    np.testing.assert_allclose(found.history["train_loss"], pixels.history["train_loss"], rtol=1e-3)
    assert found.test_accuracy == pytest.approx(pixels.test_accuracy, abs=0.02)


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_a_sweep_equals_its_runs(how):
    made, _, _ = table()
    net, plan = nets.mlp([8]), dataclasses.replace(PLAN, epochs=2)
    make = lambda learning_rate: mf.rule(net, optax.adam(learning_rate), num_classes=2)
    found = sweep(make, made, plan, seeds=[0, 1], hyper={"learning_rate": 0.003}, how=how)
    alone = fit(make(0.003), made, plan, seed=1)
    np.testing.assert_allclose(found.history["train_loss"][:, 1], alone.history["train_loss"], rtol=1e-5)


def test_floats_from_host_memory():
    pytest.importorskip("grain")
    made, _, _ = table()
    rule = mf.rule(nets.mlp([8]), optax.adam(0.003), num_classes=2)
    here, streamed = (fit(rule, made, dataclasses.replace(PLAN, epochs=2, stream=s)) for s in (False, True))
    np.testing.assert_array_equal(here.history["train_loss"], streamed.history["train_loss"])


def test_float_images_can_be_augmented_and_tables_not(tiny):
    plan = Plan(epochs=1, batch_size=20, augment=True)
    floats = dataclasses.replace(tiny, x_train=tiny.x_train / 255, x_test=tiny.x_test / 255)
    rule = partial(bp.rule, nets.mlp([8]), optax.adam(0.003))
    pixels, found = (fit(rule(num_classes=4), d, plan) for d in (tiny, floats))
    np.testing.assert_allclose(found.history["train_loss"], pixels.history["train_loss"], rtol=1e-3)  # the same crops
    with pytest.raises(UsageError) as caught:
        fit(rule(num_classes=2), table()[0], plan)
    assert str(caught.value) == "augment crops images, and cancer has samples (30,); leave it out"


def test_pixel_constants_are_for_pixels(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    made, _, _ = table()
    for kind in ("paper", "half"):
        with pytest.raises(UsageError) as caught:
            data.statistics(made, kind)
        line = f"{kind!r} are constants of uint8 pixels, and cancer holds floats: use 'pixel' or 'none'"
        assert str(caught.value) == line
    named = dataclasses.replace(made, name="mnist")
    assert data.statistics(named) == data.statistics(made)
    with pytest.raises(UsageError, match="standardise takes floats, not uint8: images of uint8 go through normalise"):
        data.standardise(jnp.zeros((2, 3), jnp.uint8), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(UsageError, match="3 means and 3 SDs for 2 channels"):
        data.standardise(jnp.zeros((2, 2)), (0.0,) * 3, (1.0,) * 3)
