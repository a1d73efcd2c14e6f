"""Every rule on the device: one step, fifty steps, ten seeds at once, the same key twice."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fwdonly import RULES, Batch, nets
from fwdonly.foton import ExpansionWarning

CLASSES, BATCH, STEPS, SEEDS, COMPARED = 3, 12, 50, 10, 5
NEAR = 2e-4
"""Of a step in float32 against the same step in float32 on a CPU, in units of the largest entry of the change."""

SLOW = {("pepita", "cnn")}
"""What does not learn in fifty steps with three channels, on a CPU neither."""

CASES = [(rule, kind) for rule in RULES for kind in ("mlp", "cnn")]


def build(rule, kind):
    """The rule on a small network that it takes."""
    options = {}
    net = nets.mlp([12, 9]) if kind == "mlp" else nets.cnn([3, 6])
    if rule == "foton":
        net = tuple(block.clone(kernel_init=nets.orthogonal, bias="none") for block in net)
        if kind == "cnn":
            net = tuple(block.clone(pool="isometric") for block in net)
    if rule == "ff" and kind == "cnn":
        options["peer"] = 0.0
    tx = optax.sgd(0.05) if rule == "foton" else optax.adam(5e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExpansionWarning)
        return RULES[rule].rule(net, tx, num_classes=CLASSES, **options)


def batches(count):
    """Batches that a network can learn: noisy class patterns of 6x6."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, (count, BATCH))
    x = rng.normal(size=(CLASSES, 6, 6, 1))[y] + 0.5 * rng.normal(size=(count, BATCH, 6, 6, 1))
    return Batch(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))


def trained(rule, many):
    """A function of a key: the losses of all steps and the last state."""

    def run(key):
        state = rule.init(key, many.x[0])

        def step(state, numbered):
            number, batch = numbered
            state, metrics = rule.update(state, batch, jax.random.fold_in(key, number))
            return state, metrics["loss"]

        state, losses = jax.lax.scan(step, state, (jnp.arange(len(many.y)), many))
        return losses, state

    return run


def change(before, after):
    return jax.tree.map(lambda a, b: np.asarray(b, np.float64) - np.asarray(a, np.float64), before, after)


def distance(one, other):
    """Largest difference of two trees, in units of the largest entry of the second, leaf by leaf."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    scale = max(np.abs(b).max(initial=0.0) for b in jax.tree.leaves(other))
    return max(np.abs(a - b).max(initial=0.0) for a, b in pairs) / scale


@pytest.mark.filterwarnings("ignore::fwdonly.foton.ExpansionWarning")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_step_is_that_of_the_cpu(name, kind):
    """On a CPU the same function is tied to the float64 NumPy restatements by the ordinary suite. SGD: no quotient."""
    rule = build(name, kind)
    batch = jax.tree.map(lambda a: a[0], batches(1))
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        key, on_cpu = jax.device_put((jax.random.key(3), batch), cpu)
        state = jax.jit(rule.init)(key, on_cpu.x)
        wanted = change(state.params, jax.jit(rule.update)(state, on_cpu, key)[0].params)
        other = on_cpu._replace(y=(on_cpu.y + 1) % CLASSES)
        control = change(state.params, jax.jit(rule.update)(state, other, key)[0].params)
    device = jax.devices()[0]
    moved = jax.device_put((state, batch, key), device)
    found = change(state.params, jax.jit(rule.update)(*moved)[0].params)
    assert distance(found, wanted) < NEAR
    if name != "zeroth_order":  # one random direction, along which two sets of labels may slope alike
        assert distance(control, wanted) > 100 * NEAR, "the control: other labels give another step"


@pytest.mark.filterwarnings("ignore::fwdonly.foton.ExpansionWarning")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_fifty_steps_fall_and_ten_seeds_at_once_are_one_by_one(name, kind):
    run = trained(build(name, kind), batches(STEPS))
    keys = jax.random.split(jax.random.key(1), SEEDS)
    alone = jax.jit(run)
    first, again = alone(keys[0]), alone(keys[0])
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        assert np.array_equal(a, b), "the same key gives the same bits"
    one_by_one = np.stack([np.asarray(alone(key)[0]) for key in keys])
    assert np.isfinite(one_by_one).all()
    if (name, kind) not in SLOW:
        assert (one_by_one[:, -10:].mean(1) < one_by_one[:, :10].mean(1)).mean() >= 0.7
    together = np.asarray(jax.jit(jax.vmap(run))(keys)[0])
    # Rounding grows from step to step, so that the first steps are compared.
    np.testing.assert_allclose(together[:, :COMPARED], one_by_one[:, :COMPARED], rtol=2e-3, atol=2e-4)
    assert np.abs(one_by_one[0, :COMPARED] - one_by_one[1, :COMPARED]).max() > 1e-3, "the control: seeds differ"
