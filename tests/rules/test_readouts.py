"""What MF's readouts read, whether they learn, and which layers have a loss: MF, ASGE and the 2 x 2 in one space."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference.mf
from comparing import drawn, near

from fwdonly import Batch, UsageError, mf, nets
from fwdonly.nets.output import length_read, readable

CLASSES = 3
NET = nets.cnn([2, 4])  # maps of 8x8 become 4x4 and 2x2
ASGE = {"readout": "fixed", "readout_input": "squares", "readout_pool": 2}


def start(dtype=jnp.float32, net=NET, tx=None, **form):
    """A state of random parameters, and a batch of images of 8x8x1."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8, 8, 1)), dtype)
    state = mf.init(jax.random.key(0), x, net=net, tx=tx or optax.sgd(0.1), num_classes=CLASSES, **form)
    params = jax.tree.map(lambda a: jnp.asarray(a, dtype), drawn(state.params))
    return state._replace(params=params), Batch(x, jnp.asarray([0, 1, 2, 0, 1, 2]))


def equal(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("squares", [False, True])
@pytest.mark.parametrize(("shape", "pool", "windows"), [
    ((4, 6), 2, [[(0, 2), (2, 4)], [(0, 3), (3, 6)]]),
    ((5, 3), 2, [[(0, 3), (2, 5)], [(0, 2), (1, 3)]]),  # of floor(i R / p) to ceil((i + 1) R / p)
    ((4, 3), 1, [[(0, 4)], [(0, 3)]]),
    ((2, 3), 3, [[(0, 1), (1, 2)], [(0, 1), (1, 2), (2, 3)]]),
])  # fmt: skip
def test_a_map_is_pooled_window_by_window(shape, pool, windows, squares):
    a = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    of = (lambda part: (part**2).sum(axis=(1, 2))) if squares else (lambda part: part.mean(axis=(1, 2)))
    parts = [[of(a[:, slice(*rows), slice(*columns)]) for columns in windows[1]] for rows in windows[0]]
    wanted = np.stack([np.stack(row, axis=1) for row in parts], axis=1).reshape(2, -1)
    outcome = readable(jnp.asarray(a), squares=squares, pool=pool)
    np.testing.assert_allclose(outcome, wanted, rtol=1e-5)
    assert length_read((*shape, 3), pool) == wanted.shape[1]
    assert length_read((7,), pool) == readable(jnp.ones((2, 7)), pool=pool).shape[1] == 7


def test_asge_with_a_trained_readout_and_plain_activations_is_mf_bit_for_bit():
    asge = mf.CARD.variants["mf-asge"].options | {"readout": "trained", "readout_input": "activations"}
    asge |= {"prediction": "last"}  # its windows of 4 x 4 are single cells of maps of 4x4 and 2x2
    update = jax.jit(partial(mf.update, net=NET, tx=optax.sgd(0.1)), static_argnames=list(asge))
    state, batch = start()
    stepped, metrics = update(state, batch, jax.random.key(0))
    assert equal((stepped, metrics), update(start(**asge)[0], batch, jax.random.key(0), **asge))
    for change in ({"readout_input": "squares"}, {"readout": "fixed"}):  # the control: each of the two is another rule
        assert not equal(stepped, update(start(**asge | change)[0], batch, jax.random.key(0), **asge | change)[0])


def test_asge_equals_the_restatement(float64):
    state, batch = start(jnp.float64, **ASGE)
    gradients, metrics = jax.jit(partial(mf.grads, net=NET, **ASGE))(state.params, batch, jax.random.key(0))
    a, y = np.asarray(batch.x), np.asarray(batch.y)
    for layer, gradient, loss in zip(state.params, gradients, metrics["layer_loss"], strict=True):
        (name,) = layer.block["params"]
        own = layer.block["params"][name]
        weights = {"W": np.asarray(own["kernel"]), "b": np.asarray(own["bias"]), "M": np.asarray(layer.M)}
        wanted_loss, wanted, a = reference.mf.asge_gradient(weights, a, y, 2)
        outcome = gradient.block["params"][name]
        near([{"W": outcome["kernel"], "b": outcome["bias"]}], [wanted])
        assert gradient.M is None and abs(loss - wanted_loss) < 1e-10


@pytest.mark.parametrize("tx", [optax.adamw(0.01, weight_decay=0.1), optax.contrib.schedule_free_sgd(0.1)])
def test_fixed_readouts_keep_every_bit_and_blocks_step_as_beside_trained_ones(tx):
    net = nets.mlp([5, 4])
    fixed, batch = start(net=net, tx=tx, readout="fixed")
    free, _ = start(net=net, tx=tx)
    step = jax.jit(partial(mf.update, net=net, tx=tx), static_argnames="readout")
    after, other = step(fixed, batch, jax.random.key(0), readout="fixed")[0], step(free, batch, jax.random.key(0))[0]
    for before, new, trained in zip(fixed.params, after.params, other.params, strict=True):
        assert np.array_equal(before.M, new.M) and not np.array_equal(before.M, trained.M)
        assert equal(new.block, trained.block)
    assert mf.predict(after, batch.x, net=net).shape == (6, CLASSES)


def test_the_last_loss_alone_is_the_last_layers_or_backpropagations(float64):
    net, key = nets.mlp([5, 4, 6]), jax.random.key(0)
    state, batch = start(jnp.float64, net)

    def last_loss(params):
        a = batch.x
        for block, layer in zip(net, params, strict=True):
            a = block.apply(layer.block, a)
        return -jnp.take_along_axis(jax.nn.log_softmax(a @ params[-1].M.T), batch.y[:, None], axis=1).mean()

    @jax.jit
    def outcomes(params):
        forms = ({"losses": "last"}, {"layer": 3}, {"losses": "last", "gradient": "joint"})
        return [mf.grads(params, batch, key, net=net, **form) for form in forms], jax.grad(last_loss)(params)

    (local, stage, (joint, metrics)), wanted = outcomes(state.params)
    assert equal(local, stage) and local[0][:2] == (None, None)
    assert metrics["layer_loss"].shape == (1,) and abs(metrics["loss"] - last_loss(state.params)) < 1e-12
    assert [layer.M is None for layer in joint] == [True, True, False]
    readouts = {"M": None}
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-12),
        joint,
        (*(layer._replace(**readouts) for layer in wanted[:-1]), wanted[-1]),
    )


@pytest.mark.parametrize("gradient", ["local", "joint"])
def test_what_no_loss_reads_or_reaches_keeps_its_start_values(gradient):
    net, tx = nets.mlp([5, 4]), optax.adamw(0.01, weight_decay=0.1)
    form = {"losses": "last", "gradient": gradient}
    rule = mf.rule(net, tx, num_classes=CLASSES, **form)
    _, batch = start(net=net)
    state = rule.init(jax.random.key(0), batch.x)
    after, _ = jax.jit(rule.update)(state, batch, jax.random.key(0))
    assert equal(state.params[0].M, after.params[0].M) and not equal(state.params[1].M, after.params[1].M)
    assert equal(state.params[0].block, after.params[0].block) == (gradient == "local")
    assert not equal(state.params[1].block, after.params[1].block)


def test_readouts_that_no_loss_trains_are_no_prediction():
    last = mf.rule(nets.mlp([5, 4]), optax.sgd(0.1), num_classes=CLASSES, losses="last")
    every = mf.rule(nets.mlp([5, 4]), optax.sgd(0.1), num_classes=CLASSES)
    assert last.readouts == () and [name for name, _ in every.readouts] == ["sum"]
    with pytest.raises(UsageError, match="losses='last' trains one readout"):
        mf.rule(nets.mlp([5, 4]), optax.sgd(0.1), num_classes=CLASSES, losses="last", prediction="sum")
