"""Forward-Forward, Cascaded-Forward and CwC against float64 restatements, worked examples, closed forms, identities."""

import itertools
import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference.cafo
import reference.cwc
import reference.deeperforward
import reference.ff
import reference.mf
from comparing import differ, drawn, jit, near, weights

from fwdonly import Batch, cafo, cwc, ff, nets

CLASSES, BATCH = 3, 8
KEY = jax.random.key(0)
SGD = optax.sgd(0.1)


def digits(got, want):
    """Alike in the six decimals that the reference sheets print."""
    np.testing.assert_allclose(got, want, rtol=0, atol=6e-7)


def problem(shape, steps=None, batch=BATCH):
    """Images in [0, 1] and labels of which none is missing."""
    rng = np.random.default_rng(0)
    lead = () if steps is None else (steps,)
    y = rng.integers(CLASSES, size=(*lead, batch))
    y[..., :CLASSES] = np.arange(CLASSES)
    return rng.uniform(size=(*lead, batch, *shape)), y.astype(np.int32)


@cache
def compiled(f, **options):
    return jit(partial(f, **options))


# --- Forward-Forward -------------------------------------------------------------------------------------------------


class Matlab:
    """FF with the Matlab's label and loss, which are what the restatement has."""

    update, grads, predict = (
        partial(f, loss="logistic", label_strength=1.0) for f in (ff.update, ff.grads, ff.predict)
    )


NET = nets.mlp([7, 6, 5], kernel_init=nets.normal)
PIXELS = (3, 3)
STEPS, PER_EPOCH, EPOCHS = 11, 3, 4  # the gains are 1 (six steps), 3/4 (three) and 1/4 (two)
RATES = {"learning_rate": 1 / 64, "head_learning_rate": 1 / 8}  # near the sheet's; a schedule rounds rates to float32


def ff_start(net=NET, shape=PIXELS, tx=SGD, classes=CLASSES, **options):
    """A state of random parameters and means, in float64."""
    init = partial(ff.init, net=net, tx=tx, num_classes=classes, **options)
    shapes = jax.eval_shape(init, jax.random.key(3), jax.ShapeDtypeStruct((1, *shape), jnp.float64))
    params = drawn(shapes.params)
    return ff.State(params, tuple(map(tx.init, params)), jax.tree.map(jnp.abs, drawn(shapes.m, seed=2)))


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_by_default_a_label_has_a_tenth_of_the_energy_of_its_image(float64, scale):
    """Overlaid and appended, neutral or not, whatever the scale of the pixels; a number is that number."""
    x, y = problem(PIXELS)
    x, T = scale * x, np.eye(CLASSES)[y]
    energy = (x.reshape(len(x), -1) ** 2).sum(1, keepdims=True)
    for label, neutral in ((T, False), (np.full_like(T, 1 / CLASSES), True)):
        found = ff._labelled(jnp.asarray(x), jnp.asarray(label), ff.Options())
        restated = reference.ff.neutral if neutral else reference.ff.overlay
        given = (x, CLASSES) if neutral else (x, label)
        near(found.reshape(len(x), -1), restated(*given, on=np.sqrt(0.1 * energy)))
        near(
            ff._labelled(jnp.asarray(x), jnp.asarray(label), ff.Options(label_strength=3.0)).reshape(len(x), -1),
            restated(*given, on=3.0),
        )
    further = ff._labelled(jnp.asarray(x), jnp.asarray(T), ff.Options(label="append"))[:, -CLASSES:]
    near((further**2).sum(1), 0.1 * energy[:, 0])
    state = ff_start()
    read = {k: ff.predict(state, jnp.asarray(k * x), net=NET) for k in (1.0, 5.0)}
    near(read[1.0], read[5.0])  # rms takes out the scale, and the label goes with it
    plain = [Matlab.predict(state, jnp.asarray(k * x), net=NET) for k in (1.0, 5.0)]
    assert not np.allclose(*plain, rtol=1e-3)  # the control


@pytest.mark.parametrize(
    ("net", "options", "strength"),
    [
        (nets.mlp([4]), {}, 0.0),
        (nets.mlp([4]), {"loss": "logistic"}, 0.03),
        (nets.mlp([4]), {"loss": "symba"}, 0.0),
        (nets.mlp([4]), {"goodness": "mean"}, 0.0),
        (nets.mlp([4]), {"loss": "symba", "goodness": "sum"}, 0.03),
        (nets.cnn([4], pool="max"), {}, 0.0),
        (nets.mlp([4]), {"loss": "symba", "peer": 0.5}, 0.5),
    ],
)
def test_peer_normalisation_is_as_strong_as_its_goodness_allows(net, options, strength):
    assert ff._checked(options, net).peer == strength


def ff_layers(params, m=None):
    """Parameters, or gradients, as the restatement writes them."""
    out = [weights(own.block) | ({} if own.U is None else {"U": np.asarray(own.U)}) for own in params]
    return [layer | {"m": np.asarray(mean)} for layer, mean in zip(out, m, strict=True)] if m is not None else out


def negatives(layers, x, y, key, uniform=False):
    q_in = reference.ff.softmax_scores(layers, x, CLASSES)
    return np.asarray(ff.wrong_labels(key, jnp.asarray(q_in * (not uniform)), jnp.asarray(y)))


def test_ff_worked_example(float64, key):
    """The one-layer example of the sheet, 8.1; with two classes the negative label is the other one."""
    x = np.array([[9.0, 9.0, 0.5, 1.0], [9.0, 9.0, 1.0, 0.25]])  # the label overwrites the first two inputs
    W = ((5 * np.arange(4)[:, None] + 3 * np.arange(3)) % 7 - 2) / 3
    layers = [{"W": W, "b": np.zeros(3), "m": np.full(3, 0.5), "U": np.zeros((3, 2))}]
    y, y_neg = np.array([0, 1]), np.array([1, 0])
    up, down = (reference.ff.forward(layers, reference.ff.overlay(x, np.eye(2)[labels]))[0] for labels in (y, y_neg))
    digits(up["in"], [[1.333333, 0, 0.666667, 1.333333], [0, 1.392621, 1.392621, 0.348155]])
    digits(up["s"], [[0, 2.222222, 0.888889], [1.740777, 1.624725, 0.696311]])
    digits(down["s"], [[1.111111, 1.333333, 0], [0, 2.553139, 1.624725]])
    m = 0.9 * 0.5 + 0.1 * up["s"].mean(0)
    plain, d = (reference.ff.positive_error(up["s"], up["p"], m, peer) for peer in (0, 0.03))
    digits(plain, [[0, 0.136263, 0.054505], [0.071197, 0.066450, 0.028479]])
    digits(d, [[0.000975, 0.134079, 0.055714], [0.072172, 0.064266, 0.029687]])
    positive = [
        [0.001300, 0.178772, 0.074285],
        [0.100508, 0.089498, 0.041343],
        [0.101158, 0.178885, 0.078486],
        [0.026427, 0.201147, 0.084621],
    ]
    negative = [
        [0, -3.548048, -2.257849],
        [-0.745313, -0.894376, 0],
        [-0.372657, -3.995236, -2.257849],
        [-0.745313, -1.781388, -0.564462],
    ]
    digits(up["in"].T @ d, positive)
    digits(down["in"].T @ (-down["p"][:, None] * down["s"]), negative)
    ascent, m, loss = (np.array(positive) + negative) / 2, [0.537039, 0.642347, 0.529260], [1.741185]
    new_W = [
        [-0.666659, 0.331645, 1.332228],
        [0.999668, -0.333732, 0.666681],
        [0.333194, 1.331412, -0.001090],
        [-0.333689, 0.665870, -0.666900],
    ]
    (new,), _, info = reference.ff.step(layers, reference.ff.zeros(layers), x, y, y_neg)
    digits([info["g_pos"][0], info["g_neg"][0]], [[5.728395, 6.154882], [3.012346, 9.158249]])
    digits([info["p_pos"][0], info["p_neg"][0]], [[0.938682, 0.959101], [0.503086, 0.997889]])
    digits(info["gradients"][0]["gW"], ascent)
    digits(new["W"], new_W)
    digits(new["m"], m)
    digits(info["loss"], loss)

    net, tx, batch = nets.mlp([3]), ff.reference(1, 1), Batch(jnp.asarray(x), jnp.asarray(y))
    block = {"params": {"Dense_0": {"kernel": jnp.asarray(W), "bias": jnp.zeros(3)}}}
    params = (ff.Layer(block, jnp.zeros((3, 2))),)
    state = ff.State(params, (tx.init(params[0]),), (jnp.full(3, 0.5),))
    stepped, metrics = compiled(Matlab.update, net=net, tx=tx)(state, batch, key)
    digits(metrics["layer_loss"], loss)
    digits(weights(stepped.params[0].block)["W"], new_W)
    digits(stepped.m[0], m)


@cache
def ff_trajectory(kind):
    """Start, batches, keys, and parameters, means and metrics after every step of `ff.update` in float64."""
    tx = ff.reference(PER_EPOCH, EPOCHS, **RATES)
    state, (xs, ys) = ff_start(tx=tx), problem(PIXELS, STEPS)
    keys = jax.random.split(jax.random.key(5), STEPS)
    update = partial(Matlab.update, net=NET, tx=tx, negatives=kind)

    def step(state, now):
        state, metrics = update(state, Batch(*now[:2]), now[2])
        return state, (state.params, state.m, metrics)

    params, m, metrics = jit(partial(jax.lax.scan, step))(state, (xs, ys, keys))[1]
    after = [jax.tree.map(lambda a, at=at: a[at], (params, m)) for at in range(STEPS)]
    return ff_layers(state.params, state.m), (xs, ys, keys), [ff_layers(*each) for each in after], metrics


def ff_restated(layers, batches, uniform=False, **changed):
    buffers = reference.ff.zeros(layers)
    for at, (x, y, key) in enumerate(zip(*batches, strict=True)):
        epoch = at // PER_EPOCH + 1
        gain = 1 if epoch <= EPOCHS / 2 else (1 + 2 * (EPOCHS - epoch)) / EPOCHS  # the sheet, 3.3
        y_neg = negatives(layers, x, y, key, uniform)
        constants = {"gain": gain, "rate": RATES["learning_rate"], "head_rate": RATES["head_learning_rate"]} | changed
        layers, buffers, info = reference.ff.step(layers, buffers, x, y, y_neg, **constants)
        yield layers, info


@pytest.mark.parametrize("kind", ["hard", "uniform"])
def test_ff_equals_the_restatement_at_every_step(float64, kind):
    start, batches, after, metrics = ff_trajectory(kind)
    seen = ff_restated(start, batches, kind == "uniform")
    for at, (layers, info) in enumerate(seen):
        near(after[at], layers)
        near(metrics["layer_loss"][at], info["loss"])
        near(metrics["loss"][at], info["loss"].sum())
        near(metrics["head_loss"][at], info["head_loss"])
        pairs = zip(info["g_pos"], info["g_neg"], strict=True)
        near(metrics["pair_error"][at], np.array([(down > up).mean() for up, down in pairs]))
    assert all(differ(a, b, by=1e-3) for a, b in zip(start, after[-1], strict=True))


@pytest.mark.parametrize(
    "changed",
    [
        *({name: 0.0} for name in ("peer", "smoothing", "decay", "head_decay")),
        *({"peer_momentum": 0.8}, {"rate": 0.011}, {"head_rate": 0.11}, {"gain": 1.0}, {"on": 0.9}, {"uniform": True}),
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_control_another_constant_is_another_trajectory(float64, monkeypatch, changed):
    start, batches, after, _ = ff_trajectory("hard")
    overlay, on = reference.ff.overlay, changed.get("on", 1.0)
    monkeypatch.setattr(reference.ff, "overlay", lambda x, T, strength=1.0: overlay(x, T, on * strength))
    *_, (layers, _) = ff_restated(start, batches, **{name: a for name, a in changed.items() if name != "on"})
    assert differ(after[-1], layers)


def test_ff_predictions_equal_the_restatement(float64, monkeypatch):
    state, x = ff_start(), problem(PIXELS)[0]
    layers = ff_layers(state.params, state.m)
    read = lambda **options: jit(partial(Matlab.predict, net=NET, **options))(state, x)
    goodness = reference.ff.goodness_scores(layers, x, CLASSES)
    near(read(), goodness)
    near(read(prediction="softmax"), reference.ff.softmax_scores(layers, x, CLASSES))
    all_layers = reference.ff.goodness_scores(layers, x, CLASSES, first=1)
    near(read(first=1), all_layers)
    assert differ(all_layers, goodness)
    for rows in (1, 2 * BATCH):  # one label at a time; two, and one that is left over
        monkeypatch.setattr(ff, "LABELLED_ROWS", rows)
        near(read(), goodness)


def both_inputs(layers, x, y, y_neg):
    """n_{l-1} of every layer in the positive and in the negative pass."""
    labelled = (reference.ff.overlay(x, np.eye(CLASSES)[labels]) for labels in (y, y_neg))
    return zip(*([pas["in"] for pas in reference.ff.forward(layers, a)] for a in labelled), strict=True)


def logistic_gradient(layer, n_pos, n_neg, unit, threshold):
    """Loss, dW and db where goodness is ``unit`` times the sum of squares; no peer term."""
    s_pos, s_neg = (np.maximum(n @ layer["W"] + layer["b"], 0) for n in (n_pos, n_neg))
    z_pos, z_neg = ((unit * (s**2).sum(1) - threshold)[:, None] for s in (s_pos, s_neg))
    d_pos, d_neg = -reference.ff.sigmoid(-z_pos) * s_pos * unit, reference.ff.sigmoid(z_neg) * s_neg * unit
    loss = np.logaddexp(0, -z_pos).mean() / 2 + np.logaddexp(0, z_neg).mean() / 2
    return loss, (n_pos.T @ d_pos + n_neg.T @ d_neg) / len(n_pos), (d_pos + d_neg).mean(0)


@pytest.mark.parametrize(
    ("options", "restated"),
    [
        ({}, lambda layer, *n: logistic_gradient(layer, *n, 1, layer["b"].size)),
        ({"threshold": 2.0}, lambda layer, *n: logistic_gradient(layer, *n, 1, 2)),
        ({"goodness": "mean"}, lambda layer, *n: logistic_gradient(layer, *n, 1 / layer["b"].size, 1)),
        ({"goodness": "mean", "threshold": 0.7}, lambda *a: logistic_gradient(*a, 1 / a[0]["b"].size, 0.7)),
        ({"loss": "symba"}, reference.ff.symba_gradient),
        ({"loss": "symba", "alpha": 2.5}, partial(reference.ff.symba_gradient, alpha=2.5)),
    ],
    ids=["default", "threshold", "mean", "mean and threshold", "symba", "alpha"],
)
def test_losses_and_their_gradients_equal_the_restatement(float64, key, options, restated):
    state, (x, y) = ff_start(), problem(PIXELS)
    numbers = {name: options[name] for name in ("alpha", "threshold") if name in options}
    words = {name: word for name, word in options.items() if name not in numbers}
    gradient, metrics = compiled(Matlab.grads, net=NET, **words)(state.params, Batch(x, y), key, **numbers)
    layers = ff_layers(state.params)
    inputs = both_inputs(layers, x, y, negatives(layers, x, y, key))
    for at, (layer, own, pair) in enumerate(zip(layers, gradient, inputs, strict=True)):
        loss, dW, db = restated(layer, *pair)
        near(weights(own.block), {"W": dW, "b": db})
        near(metrics["layer_loss"][at], loss)
        others = [logistic_gradient(layer, *pair, 1, 1.3), reference.ff.symba_gradient(layer, *pair, alpha=1.7)]
        assert all(differ(loss, other) and differ(dW, other_dW) for other, other_dW, _ in others)


def test_an_appended_label_is_an_overlay_on_further_inputs(float64, key):
    state, (x, y) = ff_start(label="append"), problem(PIXELS)
    gradient, _ = compiled(Matlab.grads, net=NET, label="append")(state.params, Batch(x, y), key)
    layers, padded = ff_layers(state.params), np.concatenate([np.zeros((BATCH, CLASSES)), x.reshape(BATCH, -1)], 1)
    layers[0]["W"] = np.roll(layers[0]["W"], CLASSES, axis=0)  # the restatement's label comes first
    (n_pos, n_neg), *_ = both_inputs(layers, padded, y, negatives(layers, padded, y, key))
    expected = logistic_gradient(layers[0], n_pos, n_neg, 1, layers[0]["b"].size)[1]
    near(weights(gradient[0].block)["W"], np.roll(expected, -CLASSES, axis=0))
    scores = reference.ff.goodness_scores(layers, padded, CLASSES)
    near(compiled(Matlab.predict, net=NET, label="append")(state, x), scores)
    assert differ(layers[0]["W"], np.roll(layers[0]["W"], CLASSES, axis=0))


def test_a_convolutional_layer_equals_the_restatement_and_its_peer_term_passes_relu(float64, key):
    net, peer = nets.cnn([3, 4]), 0.3
    state, (x, y) = ff_start(net, (6, 5, 2)), problem((6, 5, 2))
    options = {"net": net, "negatives": "uniform"}
    plain, metrics = compiled(Matlab.grads, **options)(state.params, Batch(x, y), key)
    full, _ = compiled(Matlab.grads, peer=peer, **options)(state.params, Batch(x, y), key, m=state.m)
    y_neg = np.asarray(ff.wrong_labels(key, jnp.zeros((BATCH, CLASSES)), jnp.asarray(y)))
    rms = lambda a: reference.ff.rms(a.reshape(BATCH, -1)).reshape(a.shape)
    n = [rms(reference.ff.overlay(x, np.eye(CLASSES)[labels]).reshape(x.shape)) for labels in (y, y_neg)]
    for at, (layer, m) in enumerate(zip(ff_layers(state.params), state.m, strict=True)):
        (pos, up), (neg, down) = (reference.mf.block(layer, a) for a in n)
        excess = [(s**2).sum((1, 2, 3), keepdims=True) - s[0].size for s in (pos, neg)]
        d_pos, d_neg = -reference.ff.sigmoid(-excess[0]) * pos / BATCH, reference.ff.sigmoid(excess[1]) * neg / BATCH
        own = [reference.mf.block_gradient(layer, *each)[0] for each in ((up, d_pos), (down, d_neg))]
        near(weights(plain[at].block), jax.tree.map(np.add, *own))
        near(metrics["layer_loss"][at], (np.logaddexp(0, -excess[0]) + np.logaddexp(0, excess[1])).mean() / 2)
        m = 0.9 * np.asarray(m) + 0.1 * pos.mean(0)
        rows, z = up
        dz = reference.mf.unpool(np.broadcast_to(-peer * (m.mean() - m) / BATCH, pos.shape), z.shape)
        ungated, gated = (
            {"W": np.einsum("bhwi,bhwo->io", rows, d).reshape(layer["W"].shape), "b": d.sum((0, 1, 2))}
            for d in (dz, dz * (z > 0))
        )
        added = jax.tree.map(np.subtract, *(weights(each[at].block) for each in (full, plain)))
        near(added, ungated)
        assert differ(added, gated, by=1e-4)
        n = [rms(pos), rms(neg)]


@pytest.mark.parametrize("pool", ["average", "isometric", "none"])
def test_the_peer_term_is_that_of_the_layer_without_its_activation(float64, key, pool):
    """The same error -peer_l / B for every positive sample, through pooling and products alone; a traced strength."""
    net, strength = (nets.Conv(3, pool=pool, activation=jnp.tanh),), 0.3
    state, (x, y) = ff_start(net, (6, 5, 2)), problem((6, 5, 2))
    batch = Batch(jnp.asarray(x), jnp.asarray(y))
    step = jax.jit(lambda peer: Matlab.grads(state.params, batch, key, net=net, m=state.m, peer=peer))
    (full,), (plain,) = step(strength)[0], step(0.0)[0]
    n = ff.rms(jnp.asarray(reference.ff.overlay(x, np.eye(CLASSES)[y]).reshape(x.shape)))
    m = 0.9 * state.m[0] + 0.1 * net[0].apply(state.params[0].block, n).mean(0)
    error = jnp.broadcast_to(-strength * (m.mean() - m) / BATCH, (BATCH, *m.shape))
    ungated, gated = (
        jax.vjp(lambda own, block=block: block.apply(own, n), state.params[0].block)[1](error)[0]
        for block in (net[0].clone(activation=nets.identity), net[0])
    )
    added = jax.tree.map(jnp.subtract, full.block, plain.block)
    near(weights(added), weights(ungated))
    assert differ(weights(added), weights(gated), by=1e-4)


def test_the_update_multiplies_the_activity_of_a_positive_sample(float64, key):
    """Sheet 8.3.1, with the numbers of 8.1; the negative label turns every unit off."""
    net, batch = nets.mlp([3]), Batch(jnp.array([[9.0, 9.0, 0.5, 1.0]]), jnp.array([0]))
    W = ((5 * np.arange(4)[:, None] + 3 * np.arange(3)) % 7 - 2) / 3
    W[1] = -10.0
    params = (ff.Layer({"params": {"Dense_0": {"kernel": jnp.asarray(W), "bias": jnp.zeros(3)}}}, jnp.zeros((3, 2))),)
    n, factors = reference.ff.rms(reference.ff.overlay(np.asarray(batch.x), np.eye(2)[:1])), []
    s = np.maximum(n @ W, 0)
    for m in (None, (jnp.full(3, 0.5),)):
        (gradient,), _ = compiled(Matlab.grads, net=net)(params, batch, key, m=m)
        own = weights(gradient.block)
        factors.append(np.maximum(n @ (W - 0.05 * own["W"]) - 0.05 * own["b"], 0)[0, 1:] / s[0, 1:])
        assert s[0, 0] == 0
        assert (own["W"][:, 0] == 0).all() == (m is None)
    digits(factors[0], [1.015330] * 2)
    near(factors[0], np.full(2, 1 + 0.05 * reference.ff.sigmoid(3 - (s**2).sum()) * (4 + 1)), 1e-14)
    assert np.abs(factors[1] - 1.015330).max() > 1e-5  # the control: with the peer term


def test_rms_keeps_the_direction_alone(float64):
    a = drawn(jnp.zeros((5, 3, 4))).at[4].set(0)
    near((ff.rms(a)[:4] ** 2).mean((1, 2)), np.ones(4), 1e-14)
    near(ff.rms(1e-3 * a), ff.rms(a), 1e-14)
    near(ff.rms(a), reference.ff.rms(np.asarray(a).reshape(5, -1)).reshape(a.shape), 1e-14)
    assert not ff.rms(a)[4].any()
    assert differ(ff.rms(a), jax.vmap(ff.rms)(a))  # the control: every row of an image by itself
    state, (x, _) = ff_start(), problem(PIXELS)
    read = compiled(Matlab.predict, net=NET)
    assert differ(read(state, x), read(state, 2 * x))  # a label keeps its size


def test_losses_are_ln_2_at_the_threshold_and_at_equal_goodness(float64, key):
    """Sheets: ff 8.3.3 and variants 8.1."""
    net, (x, y) = NET[:1], problem(PIXELS)
    params, y = ff_start(net, classes=2).params, y % 2
    own_loss = lambda params, y: compiled(Matlab.grads, net=net)(params, Batch(x, y), key)[1]["loss"]
    pair_loss = compiled(Matlab.grads, net=net, loss="symba")
    symba = lambda params, y, alpha: pair_loss(params, Batch(x, y), key, alpha=alpha)[1]["loss"]
    for activity, at_threshold in [(1.0, True), (1.1, False)]:  # of all units, in both passes: g_l = N_l activity^2
        constant = jax.tree.map(lambda a, v=activity: jnp.full(a.shape, v * (a.ndim == 1)), params)
        assert differ(own_loss(constant, y), math.log(2), by=1e-14) != at_threshold
        for alpha in (0.5, 4.0):
            near(symba(constant, y, alpha), math.log(2), 1e-14)
    loss = symba(params, y, 4.0)
    near(symba(params, 1 - y, -4.0), loss, 1e-14)  # with two classes the passes change roles
    assert differ(symba(params, 1 - y, 4.0), loss)
    assert differ(symba(params, y, -4.0), loss)
    assert differ(loss, math.log(2))


def test_the_peer_term_does_not_change_the_mean_drive_of_a_layer(float64, key):
    state, (x, y) = ff_start(), problem(PIXELS)
    gradient = compiled(Matlab.grads, net=NET)
    without, with_peer = (gradient(state.params, Batch(x, y), key, m=m)[0] for m in (None, state.m))
    for one, other in zip(without, with_peer, strict=True):
        added = jax.tree.map(np.subtract, weights(other.block), weights(one.block))
        for leaf in added.values():
            assert np.abs(leaf.sum(-1)).max() < 1e-14 < 1e-4 < np.abs(leaf).max()


def test_negatives_follow_the_head_and_are_never_the_true_label(key):
    draws = 4000
    y = np.repeat(np.arange(3, dtype=np.int32), draws)
    for scores in ([[2.0, 1, 0, -1], [0, 3, 1, 1], [0, 1, 2, 1]], np.zeros((3, 4))):
        q_in = np.repeat(np.asarray(scores, np.float32), draws, axis=0)
        expected = np.exp(np.asarray(scores)) * (1 - np.eye(3, 4))
        expected /= expected.sum(1, keepdims=True)  # a third each where U = 0
        y_neg = np.asarray(ff.wrong_labels(key, jnp.asarray(q_in), jnp.asarray(y)))
        found = np.stack([np.bincount(y_neg[y == c], minlength=4) / draws for c in range(3)])
        assert not found[np.arange(3), np.arange(3)].any()
        assert (np.abs(found - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / draws)).all()
        assert (np.asarray(jax.random.categorical(key, jnp.asarray(q_in))) == y).mean() > 0.2  # without the exclusion


def test_dead_units_revive_by_the_peer_term_alone(float64):
    """Sheet 8.4.5."""
    state, batch = ff_start(), problem(PIXELS)
    off = lambda own: {"kernel": own["kernel"].at[:, :2].set(0), "bias": own["bias"].at[:2].set(-0.1)}
    params = tuple(  # the first two units of every layer see nothing and have a negative bias
        own._replace(block={"params": {"Dense_0": off(own.block["params"]["Dense_0"])}}) for own in state.params
    )

    @jit
    def train(peer, batch):
        step = lambda state, key: (Matlab.update(state, Batch(*batch), key, net=NET, tx=SGD, peer=peer)[0], None)
        return jax.lax.scan(step, state._replace(params=params), jax.random.split(jax.random.key(0), 100))[0].params

    for peer, revived in [(0.0, False), (0.03, True)]:
        layers = ff_layers(train(peer, batch))
        passes = reference.ff.forward(layers, reference.ff.overlay(batch[0], np.eye(CLASSES)[batch[1]]))
        for pas, before, after in zip(passes, ff_layers(params), layers, strict=True):
            assert (pas["s"][:, :2].max() > 0) == revived
            assert differ(before["W"][:, :2], after["W"][:, :2], by=0) == revived
            assert differ(before["W"][:, 2:], after["W"][:, 2:], by=1e-3)  # the others learn


@pytest.mark.parametrize("epochs", [1, 4, 5])
def test_the_gain_is_the_sheet_s(epochs):
    gains = [1 if e <= epochs / 2 else (1 + 2 * (epochs - e)) / epochs for e in range(1, epochs + 1)]
    assert gains[-1] == 1 / epochs
    schedule = ff.half_then_linear(0.3, 2, epochs)
    found = [float(schedule(count)) for count in range(2 * epochs + 3)]
    np.testing.assert_allclose(found, [0.3 * gain for gain in np.repeat(gains, 2)] + [0.3 / epochs] * 3, rtol=1e-6)


def test_the_reference_optimizer_spares_biases_and_keeps_the_head_apart(float64):
    for net, shape in ((NET, PIXELS), (nets.cnn([3]), (4, 4, 1))):
        own = ff_start(net, shape).params[-1]
        old = ff_layers([own])[0]
        tx, other = ff.reference(1, 4), ff.reference(1, 4, learning_rate=0.02, weight_decay=0.0, head_weight_decay=0.1)
        ones = jax.tree.map(jnp.ones_like, own)
        v = 0.1 * 1  # the smoothed gradient after one step
        expected = {"W": -0.01 * (v + 0.001 * old["W"]), "b": 0 * old["b"] - 0.01 * v}
        expected["U"] = -0.1 * (v + 0.003 * old["U"])
        near(ff_layers([tx.update(ones, tx.init(own), own)[0]])[0], expected, 1e-7)  # rates are float32
        changed = ff_layers([other.update(ones, other.init(own), own)[0]])[0]
        expected = {"W": 0 * old["W"] - 0.02 * v, "b": 2 * expected["b"], "U": -0.1 * (v + 0.1 * old["U"])}
        near(changed, expected, 1e-7)


# --- Cascaded-Forward ------------------------------------------------------------------------------------------------

IMAGES = (8, 6, 2)
CONV = nets.cnn([3, 4], pool="max", bias="uniform")
CAFO_NETS = {"bias": CONV, "no bias": nets.cnn([3, 4], pool="max", bias="none"), "dense": nets.mlp([5, 6, 4])}
EACH_NET = pytest.mark.parametrize("net", CAFO_NETS.values(), ids=CAFO_NETS)


def normalised(block):
    """A block with batch normalisation behind it, as the restatements take it; a gradient likewise."""
    own = block["params"]
    return weights(own["block"]) | {name: np.asarray(own[name]) for name in ("gamma", "beta") if name in own}


def moving(statistics):
    """Running (mean, variance) of every block."""
    return tuple((known["statistics"]["mean"], known["statistics"]["var"]) for known in statistics)


@cache
def cafo_start(net=CONV, plain=False, **options):
    """A float64 state and its batch of ten; gamma and beta random, unless plain."""
    batch = Batch(*map(jnp.asarray, problem(IMAGES, batch=10)))
    init = compiled(cafo.init, net=net, tx=SGD, num_classes=CLASSES, block_tx=SGD, **options)
    state = jax.tree.map(lambda a: a.astype(jnp.float64), init(jax.random.key(3), batch.x))
    if not plain:
        own = [block["params"] for block in state.params.blocks]
        fresh = [drawn((layer["gamma"], layer["beta"]), seed=at, scale=1) for at, layer in enumerate(own)]
        pairs = zip(own, fresh, strict=True)
        blocks = tuple({"params": layer | {"gamma": gamma, "beta": beta}} for layer, (gamma, beta) in pairs)
        state = state._replace(params=state.params._replace(blocks=blocks))
    return state, batch


def cafo_blocks(blocks):
    return [normalised(own) for own in blocks]


def cascade(blocks, x, statistics=None, eps=1e-4):
    """Flat features and the (mean, variance) of every block; by the statistics given, or by the batch's own."""
    h, out, moments = np.asarray(x), [], []
    for at, block in enumerate(blocks):
        moments.append(reference.cafo.batch_statistics(reference.cafo.pooled(block, h)[0]))
        known = moments[-1] if statistics is None else map(np.asarray, moving(statistics)[at])
        h = reference.cafo.features(block, h, *known, eps)
        out.append(h.reshape(len(h), -1))
    return out, tuple(moments)


@EACH_NET
def test_features_equal_the_restatement(float64, net):
    features = compiled(cafo.features, net=net, heads=tuple(range(1, len(net) + 1)), eps=0.1)
    state, batch = cafo_start(net, plain=True, eps=0.1)
    _, moments = cascade(cafo_blocks(state.params.blocks), batch.x, eps=0.1)
    # Start values are float32, and the program that draws them may use a bias that is not rounded as the stored one is.
    near(moving(state.statistics), moments, 1e-7)
    for F, (_, var) in zip(features(state, batch.x), moments, strict=True):  # sheet 8.3.4
        by_channel = np.asarray(F).reshape(-1, len(var))
        near(by_channel.mean(0), 0 * var, 1e-4)  # 1e-7 in all
        near(by_channel.var(0), var / (var + 0.1), 1e-7)
    state, _ = cafo_start(net, eps=0.1)
    x = batch.x**2  # not the examples
    Fs, own = cascade(cafo_blocks(state.params.blocks), x, state.statistics, eps=0.1)
    near(features(state, x), tuple(Fs))
    assert differ(Fs, cascade(cafo_blocks(state.params.blocks), x, eps=0.1)[0], by=1e-2)  # 8.4.3
    if net is CONV:
        identity, _ = cafo_start(net, statistics="identity")
        near(moving(identity.statistics), tuple((0 * mean, 0 * var + 1) for mean, var in own))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("ce", {}), ("sl", {"head_bias": True, "head_start": "uniform", "eps": 0.05})],
    ids=["ce", "sl_bias"],
)
def test_heads_follow_the_restatement_jointly_and_one_by_one(float64, monkeypatch, kind, options):
    state, _ = cafo_start(**options)
    options = options | {"loss": kind}
    batches = problem(IMAGES, 10, batch=10)
    features = partial(cascade, cafo_blocks(state.params.blocks), eps=options.get("eps", 1e-4))
    Fs = [features(x, statistics=state.statistics)[0] for x in batches[0]]
    expected, losses = [], np.zeros((10, 2))
    for at, head in enumerate(state.params.heads):
        V, b = np.asarray(head.V), None if head.b is None else np.asarray(head.b)
        for step, (F, y) in enumerate(zip(Fs, batches[1], strict=True)):
            losses[step, at], dV, db = reference.cafo.head_gradient(F[at], V, b, y, CLASSES, kind)
            V, b = V - 0.1 * dV, None if b is None else b - 0.1 * db
        near(V.sum(1), head.V.sum(1), 1e-12)  # sheet 8.3.2
        assert differ(V, head.V, by=1e-2)
        expected.append(cafo.Head(V, b))

    def train(rule, state):
        step = lambda state, xy: rule.update(state, Batch(*xy), jax.random.key(0))
        return jit(partial(jax.lax.scan, step))(state, batches)

    joint = cafo.rule(CONV, SGD, num_classes=CLASSES, **options)
    together, metrics = train(joint, state)
    near(together.params.heads, tuple(expected))
    near(metrics["layer_loss"], losses)
    near(metrics["loss"], losses.sum(1))
    one_by_one = state
    for stage in cafo.stages(CONV, SGD, num_classes=CLASSES, **options)[::-1]:  # in any order, 8.3.5
        one_by_one, _ = train(stage, one_by_one)
    near(one_by_one, together, 1e-12)
    for end in (together, one_by_one):
        near((end.params.blocks, end.statistics), (state.params.blocks, state.statistics), 0)
    x, y = batches[0][0], batches[1][0]  # gradients by the statistics of the batch itself
    own, _ = compiled(cafo.grads, net=CONV, **options)(state.params, Batch(x, y), jax.random.key(0))
    F = features(x)[0][0]
    V, b = state.params.heads[0]
    _, dV, _ = reference.cafo.head_gradient(F, np.asarray(V), None if b is None else np.asarray(b), y, CLASSES, kind)
    near(own.heads[0].V, dV)
    assert own.blocks is own.A is None
    monkeypatch.setattr(cafo, "ROWS", 4)  # 4 + 4 + 2
    near(train(joint, state), (together, metrics), 1e-12)


def test_first_losses(float64, key):
    """Sheet 8.1: V = 1 and ten classes; one sample by hand."""
    x, y = map(jnp.asarray, problem(IMAGES, batch=10))
    for kind, first in (("ce", math.log(10)), ("sl", 0.45)):
        state = compiled(cafo.init, net=CONV, tx=SGD, num_classes=10)(key, x)
        gradient, metrics = compiled(cafo.grads, net=CONV, loss=kind)(state.params, Batch(x, y), key)
        np.testing.assert_allclose(metrics["layer_loss"], [first] * 2, rtol=1e-6)
        F = np.random.default_rng(0).normal(size=(6, 4))
        loss, dV, _ = reference.cafo.head_gradient(F, np.ones((4, 10)), None, np.arange(6), 10, kind)
        np.testing.assert_allclose(loss, first, rtol=1e-12)
        np.testing.assert_allclose(dV.sum(1), 0, atol=1e-12)  # 8.3.2
        assert all(np.abs(head.V.sum(1)).max() < 1e-5 < np.abs(head.V).max() for head in gradient.heads)
    digits(reference.cafo.sparsemax_loss(np.array([[0.5, 0.2, -0.1]]), np.array([0])), 0.123333)


@pytest.mark.parametrize("rows", [500, 4])
def test_closed_form(float64, monkeypatch, rows):
    monkeypatch.setattr(cafo, "ROWS", rows)
    rng = np.random.default_rng(4)
    F, y = rng.normal(size=(10, 5)), rng.integers(CLASSES, size=10)
    Y = np.eye(CLASSES)[y]
    solver = jit(partial(cafo.closed_form, num_classes=CLASSES))
    solve = lambda F, ridge: np.asarray(solver(F, y, ridge=ridge))
    for ridge in (0.0, 1e-4, 0.1):
        r = ridge * (F**2).sum() / 5  # in units of the mean diagonal element of F^T F
        V = solve(F, ridge)
        near(V, reference.cafo.closed_form(F, Y, r), 1e-12)
        assert np.abs(F.T @ (F @ V - Y) + r * V).max() < 1e-13  # sheet 8.3.1
        near(solve(30 * F, ridge), V / 30, 1e-12)
        assert differ(reference.cafo.closed_form(30 * F, Y, r), V / 30) == (ridge > 0)  # the control: r kept
    state, batch = cafo_start()
    update = jit(partial(cafo.update, net=CONV, tx=SGD, loss="mse", ridge=0.1))
    stepped, metrics = update(state, batch, jax.random.key(0))
    Fs, _ = cascade(cafo_blocks(state.params.blocks), batch.x, state.statistics)
    for at, (F, head) in enumerate(zip(Fs, stepped.params.heads, strict=True)):
        Y = np.eye(CLASSES)[batch.y]
        V = reference.cafo.closed_form(F, Y, 0.1 * (F**2).sum() / F.shape[1])
        near(head, cafo.Head(V, None))
        near(metrics["layer_loss"][at], ((F @ V - Y) ** 2).sum(1).mean() / 2)


@pytest.mark.parametrize("kind", ["ce", "sl", "mse"])
def test_cafo_predictions_equal_the_restatement(float64, kind):
    state, batch = cafo_start()
    state = state._replace(params=state.params._replace(heads=drawn(state.params.heads, seed=2, scale=1)))
    read = lambda **options: compiled(cafo.predict, net=CONV, loss=kind, eps=0.05, **options)(state, batch.x)
    Fs, _ = cascade(cafo_blocks(state.params.blocks), batch.x, state.statistics, eps=0.05)
    heads = [{"V": np.asarray(head.V)} for head in state.params.heads]
    probabilities, logits = (reference.cafo.predict(Fs, heads, how, kind) for how in ("probabilities", "logits"))
    near(2 * np.exp(read()), probabilities)  # the logarithm of the mean over two heads
    near(read(aggregation="logits"), logits)
    near(read(part=2), reference.cafo.scores(Fs[1], heads[1]))
    assert (probabilities.argmax(1) != logits.argmax(1)).any()  # sheet 8.4.5
    assert differ(probabilities, reference.cafo.predict(Fs, heads, "probabilities", "ce" if kind == "sl" else "sl"))


@pytest.mark.parametrize(("part", "kind"), [("heads", "mse"), (2, "sl")])
def test_the_frozen_half_does_the_same_work(float64, key, part, kind):
    state, batch = cafo_start()
    rule = cafo.rule(CONV, SGD, num_classes=CLASSES, part=part, loss=kind)
    Fs = rule.frozen.features(state, batch.x)
    split = rule.frozen.update(state, Batch(Fs, batch.y), key)
    whole = rule.update(state, batch, key)
    near(split, whole, 1e-13)
    near(rule.frozen.validate(split[0], Fs), rule.validate(whole[0], batch.x), 1e-13)
    shifted = rule.frozen.update(state, Batch(jax.tree.map(lambda F: F[::-1], Fs), batch.y), key)
    assert differ(shifted[0].params.heads, whole[0].params.heads)  # the features are looked at


@EACH_NET
def test_dfa_equals_the_restatement(float64, key, net):
    options = {"net": net, "tx": SGD, "part": "blocks", "block_tx": SGD}
    state, batch = cafo_start(net)
    near([np.linalg.norm(R, axis=1) for R in state.R], [np.ones(CLASSES)] * (len(net) - 1), 1e-6)
    A = drawn(state.params.A)
    state = state._replace(params=state.params._replace(A=A))
    stepped, metrics = compiled(cafo.update, **options, eps=0.01)(state, batch, key)
    blocks, restated_A = cafo_blocks(state.params.blocks), {"W": np.asarray(A.V), "b": np.asarray(A.b)}
    x, y, R = np.asarray(batch.x), np.asarray(batch.y), [np.asarray(R) for R in state.R]
    loss, gradients, gA = reference.cafo.dfa_step(blocks, restated_A, R, x, y, 0.01)
    descend = lambda old, gradient: jax.tree.map(lambda a, g: a - 0.1 * g, old, gradient)
    near(cafo_blocks(stepped.params.blocks), descend(blocks, gradients))
    near({"W": stepped.params.A.V, "b": stepped.params.A.b}, descend(restated_A, gA))
    near(metrics["loss"], loss)
    _, moments = cascade(blocks, x, eps=0.01)
    moved = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, moving(state.statistics), moments)
    near(moving(stepped.statistics), moved)
    near((stepped.params.heads, stepped.R), (state.params.heads, state.R), 0)
    scores = cascade(blocks, x, state.statistics)[0][-1] @ restated_A["W"] + restated_A["b"]
    near(compiled(cafo.predict, net=net, part="blocks")(state, batch.x), scores)
    another, *_ = reference.cafo.dfa_step(blocks, restated_A, R, x, y, 0.02)
    assert all(differ(g, np.zeros(1)) for gradient in gradients for name, g in gradient.items() if name != "b")
    assert differ(another, loss)


def bp_gradient(params, batch, net):
    """By `jax.grad` of the mean cross-entropy of h_L A, all written anew."""

    def loss(blocks, A):
        h = batch.x
        for block, own in zip(net, blocks, strict=True):
            own = own["params"]
            pooled = block.apply(own["block"], h)
            flat = pooled.reshape(-1, pooled.shape[-1])
            unit = (flat - flat.mean(0)[None]) / jnp.sqrt(((flat - flat.mean(0)[None]) ** 2).mean(0) + 1e-4)[None]
            h = (unit * own["gamma"][None] + own["beta"][None]).reshape(pooled.shape)
        scores = h.reshape(len(h), -1) @ A.V + A.b[None]
        return (jnp.log(jnp.exp(scores).sum(1)) - scores[jnp.arange(len(h)), batch.y]).mean()

    return jit(jax.grad(loss, argnums=(0, 1)))(params.blocks, params.A)


@pytest.mark.parametrize("depth", [1, 2])
def test_dfa_is_back_propagation_in_its_last_block(float64, depth):
    state, batch = cafo_start(CONV[:depth])
    found = jit(partial(cafo.dfa, net=CONV[:depth]))(state.params, state.R, batch, jax.random.key(0))[0]
    expected = bp_gradient(state.params, batch, CONV[:depth])
    near((found[0][-1], found[1]), (expected[0][-1], expected[1]))
    assert differ(found[0][0], expected[0][0]) == (depth > 1)


def test_dfa_is_linear_in_its_error_and_silent_without_feedback(float64):
    """Sheet 8.3.7 and 8.4.1. With V = 0 in A and one label, e is softmax(b) - Y for every sample."""
    state, batch = cafo_start()
    direction = jit(lambda params, R, batch: cafo.dfa(params, R, batch, KEY, net=CONV)[0])  # one label: not seen inside
    one_label = batch._replace(y=jnp.zeros_like(batch.y))

    def by_error(b):
        A = cafo.Head(jnp.zeros_like(state.params.A.V), jnp.asarray(b))
        return direction(state.params._replace(A=A), state.R, one_label)

    once, twice = by_error(np.log([0.8, 0.1, 0.1])), by_error(np.log([0.6, 0.2, 0.2]))
    near(twice, jax.tree.map(lambda g: 2 * g, once), 1e-12)
    assert differ(once[0][0], jax.tree.map(jnp.zeros_like, once[0][0]), by=1e-2)
    near(by_error([800.0, 0, 0]), jax.tree.map(jnp.zeros_like, once), 0)
    loud, silent = (direction(state.params, jax.tree.map(lambda R, c=c: c * R, state.R), batch) for c in (1, 0))
    near(silent[0][0], jax.tree.map(jnp.zeros_like, loud[0][0]), 0)
    near((silent[0][1], silent[1]), (loud[0][1], loud[1]), 0)
    assert differ(silent, loud, by=1e-2)


@pytest.mark.parametrize(
    ("z", "p", "tau"),
    [
        ([0.5, 0.2, -0.1], [0.633333, 0.333333, 0.033333], -0.133333),
        ([2.0, 0.5, 0.1], [1, 0, 0], 1),
        ([1.0, 0.9, -3.0, 0.2], [0.55, 0.45, 0, 0], 0.45),
        ([0.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], -0.25),
    ],
)
def test_sparsemax_fixed_values(z, p, tau):
    """Sheet 8.1 and 8.3.3."""
    digits(reference.cafo.sparsemax(np.array([z])), [p])
    digits(reference.cafo.threshold(np.array([z])), [[tau]])
    digits(reference.cafo.sparsemax(np.array([z]) + 7), [p])
    digits(reference.cafo.sparsemax(np.array([p]) / np.sum(p)), np.array([p]) / np.sum(p))


# --- CwC -------------------------------------------------------------------------------------------------------------


def cwc_layers(params):
    """Every layer as the restatement takes it; a gradient likewise."""
    found = [normalised(own) for own in params]
    return [{name: np.asarray(a) for name, a in layer.items() if a is not None} for layer in found]


@pytest.mark.parametrize("affine", [True, False])
def test_cwc_equals_the_restatement(affine, float64, key):
    net, (x, y) = nets.mlp([6, 9]), problem(PIXELS)
    options = {"net": net, "tx": SGD, "num_classes": CLASSES}
    state = compiled(cwc.init, **options, affine=affine)(key, x)
    state = state._replace(params=drawn(state.params), statistics=jax.tree.map(lambda a: a + 0.5, state.statistics))
    stepped, metrics = compiled(cwc.update, **options)(state, Batch(x, y), key)
    gradient, _ = compiled(cwc.grads, net=net, num_classes=CLASSES)(state.params, Batch(x, y), key)
    a, layers, gradients, after = x.reshape(BATCH, -1), *map(cwc_layers, (state.params, gradient, stepped.params))
    for at, layer in enumerate(layers):
        assert ("gamma" in layer) == ("beta" in layer) == affine
        s = np.maximum(a @ layer["W"] + layer["b"], 0)
        loss, want, a = reference.cwc.competitive_gradient(layer, a, y, CLASSES)
        near(metrics["layer_loss"][at], loss)
        near(gradients[at], want)
        near(after[at], {name: layer[name] - 0.1 * g for name, g in want.items()})
        near(moving(stepped.statistics)[at], (0.9 * 0.5 + 0.1 * s.mean(0), 0.9 * 1.5 + 0.1 * s.var(0)))
    a = x.reshape(BATCH, -1)
    statistics = jax.tree.map(np.asarray, moving(stepped.statistics))
    for layer, (mean, var) in zip(after, statistics, strict=True):
        a = (np.maximum(a @ layer["W"] + layer["b"], 0) - mean) / np.sqrt(var + 1e-4)
        a = layer.get("gamma", 1) * a + layer.get("beta", 0)
    read = compiled(cwc.predict, net=net, num_classes=CLASSES)
    scores = read(stepped, x)
    near(scores, np.stack([(a[:, 3 * c : 3 * c + 3] ** 2).mean(1) for c in range(3)], 1))
    assert differ(read(stepped._replace(statistics=state.statistics), x), scores)


def test_batch_norm_of_cwc_starts_as_the_cited_codes_does(key):
    """nn.BatchNorm2d(channels, eps=1e-4) of a layer whose optimizer is made after it: affine, 1 and 0, and trained."""
    x = jnp.asarray(problem(PIXELS)[0], jnp.float32)
    rule = cwc.rule(nets.mlp([6]), SGD, num_classes=CLASSES)
    (layer,) = rule.init(key, x).params
    gamma, beta = layer["params"]["gamma"], layer["params"]["beta"]
    assert (gamma == 1).all() and (beta == 0).all() and gamma.shape == beta.shape == (6,)
    (layer,) = cwc.rule(nets.mlp([6]), SGD, num_classes=CLASSES, affine=False).init(key, x).params
    assert set(layer["params"]) == {"block"}


def test_permuted_groups_and_labels_permute_the_goodness(float64, key):
    """Variants 8.2."""
    y = drawn(jnp.zeros((4, 2, 3, 6)))
    goodness, order = np.asarray(cwc.goodness(y, 3)), np.array([2, 0, 1])
    channels = np.array([4, 5, 0, 1, 2, 3])
    by_hand = [[(np.asarray(sample)[..., 2 * c : 2 * c + 2] ** 2).mean() for c in range(3)] for sample in y]
    near(goodness, np.array(by_hand), 1e-14)
    near(cwc.goodness(y[..., channels], 3), goodness[:, order], 1e-14)
    assert differ(cwc.goodness(y[..., [4, 0, 5, 1, 2, 3]], 3), goodness[:, order])  # channels leave their group
    net, (x, labels) = nets.mlp([6]), map(jnp.asarray, problem(PIXELS))
    params = drawn(cwc.init(key, x, net=net, tx=SGD, num_classes=3).params)
    permuted = jax.tree.map(lambda a: a[..., channels], params)
    local = compiled(cwc.grads, net=net, num_classes=3)
    loss = lambda params, labels: local(params, Batch(x, labels), key)[1]["loss"]
    near(loss(permuted, jnp.argsort(jnp.asarray(order)).astype(jnp.int32)[labels]), loss(params, labels), 1e-14)
    assert differ(loss(permuted, labels), loss(params, labels))


# --- the restatements by finite differences --------------------------------------------------------------------------


def slopes(f, p, h=1e-6):
    """Central differences of f() by every entry of p, which f reads in place."""
    out = np.zeros_like(p)
    for at in np.ndindex(p.shape):
        old, ends = p[at], []
        for end in (old + h, old - h):
            p[at] = end
            ends.append(f())
        p[at], out[at] = old, (ends[0] - ends[1]) / (2 * h)
    return out


def assert_slopes(f, **pairs):
    """Each (gradient, parameter) agrees with the differences of ``f``."""
    for name, (gradient, p) in pairs.items():
        np.testing.assert_allclose(gradient, slopes(f, p), rtol=1e-6, atol=1e-8, err_msg=name)


def test_ff_gradient_by_differences():
    """Without the peer term, gW and gb are minus the gradients of the loss over 2B samples, gU of the head's."""
    rng = np.random.default_rng(0)
    layers = [
        {"W": rng.normal(size=(i, o)) / np.sqrt(i), "b": rng.normal(size=o) / 3, "m": np.full(o, 0.5)}
        for i, o in itertools.pairwise((9, 7, 6, 5))
    ]
    for layer in layers[1:]:
        layer["U"] = rng.normal(size=(layer["b"].size, 3))
    x, y = rng.normal(size=(8, 3, 3)), rng.integers(3, size=8)
    y_neg = (y + rng.integers(1, 3, size=8)) % 3
    run = lambda: reference.ff.step(layers, reference.ff.zeros(layers), x, y, y_neg, peer=0)[2]
    for at, (layer, g) in enumerate(zip(layers, run()["gradients"], strict=True)):
        assert_slopes(lambda at=at: run()["loss"][at], W=(-g["gW"], layer["W"]), b=(-g["gb"], layer["b"]))
        if at:
            assert_slopes(lambda: run()["head_loss"], U=(-g["gU"], layer["U"]))


@pytest.mark.parametrize("rule", ["symba", "cwc", "deeperforward", "ce", "sl"])
def test_gradients_of_one_layer_by_differences(rule):
    rng = np.random.default_rng(1)
    W, b, x, other = rng.normal(size=(5, 6)), rng.normal(size=6), *rng.normal(size=(2, 7, 5))
    y = rng.integers(3, size=7)
    if rule == "cwc":
        layer = {"W": W, "b": b, "gamma": rng.normal(size=6), "beta": rng.normal(size=6)}
        gradients = reference.cwc.competitive_gradient(layer, x, y, 3)[1]
        f = lambda: reference.cwc.competitive_gradient(layer, x, y, 3)[0]
        return assert_slopes(f, **{name: (gradients[name], layer[name]) for name in layer})
    if rule == "deeperforward":
        run = lambda: reference.deeperforward.layer_gradient({"W": W, "b": b}, x, y, 3)
        return assert_slopes(lambda: run()[0], W=(run()[1]["W"], W), b=(run()[1]["b"], b))
    run = {
        "symba": lambda: reference.ff.symba_gradient({"W": W, "b": b}, x, other, 4.0),
    }.get(rule, lambda: reference.cafo.head_gradient(x, W, b, y, 6, rule))
    _, dW, db, *_ = run()
    assert_slopes(lambda: run()[0], W=(dW, W), b=(db, b))


@pytest.mark.parametrize("net", ["conv", "conv without bias", "conv then dense", "dense"])
def test_dfa_by_differences(net):
    """The last block and A: the loss's gradient. Earlier blocks: that of <e R_i, block_i(h_{i-1})>, both constant."""
    restated, rng, eps = reference.cafo, np.random.default_rng(3), 1e-5
    x, y = rng.normal(size=(4, 7, 7, 2)), rng.integers(3, size=4)
    shapes = {"dense": [(98, 5), (5, 6), (6, 4)], "conv then dense": [(3, 3, 2, 3), (3, 3, 3, 4), (4, 5)]}
    blocks = []
    for shape in shapes.get(net, [(3, 3, 2, 3), (3, 3, 3, 4)]):
        W, gamma, beta = rng.normal(size=shape), *rng.normal(size=(2, shape[-1]))
        blocks.append({"W": W, "b": rng.normal(size=shape[-1]), "gamma": gamma, "beta": beta})
        if net == "conv without bias":
            del blocks[-1]["b"]

    def output(block, h):
        return restated.features(block, h, *restated.batch_statistics(restated.pooled(block, h)[0]), eps)

    inputs = [x]
    for block in blocks:
        inputs.append(output(block, inputs[-1]))
    sizes = [h[0].size for h in inputs[1:]]
    A = {"W": rng.normal(size=(sizes[-1], 3)), "b": rng.normal(size=3)}
    R = [rng.normal(size=(3, size)) for size in sizes]
    run = lambda: restated.dfa_step(blocks, A, R, x, y, eps)
    _, gradients, gA = run()
    for gradient, own in ((gA, A), (gradients[-1], blocks[-1])):
        assert_slopes(lambda: run()[0], **{k: (gradient[k], own[k]) for k in own})
    e = restated.softmax(inputs[-1].reshape(4, -1) @ A["W"] + A["b"]) - np.eye(3)[y]
    for block, h, R_i, gradient in zip(blocks[:-1], inputs, R, gradients, strict=False):
        u = (e @ R_i).reshape(output(block, h).shape)
        fixed = lambda b=block, h=h, u=u: (u * output(b, h)).sum()
        assert_slopes(fixed, **{k: (gradient[k], block[k]) for k in block})


@pytest.mark.parametrize(
    "groups, size, stride, edge",
    [(1, 3, 1, (1, 1)), (2, 3, 1, (1, 1)), (1, 2, 2, (0, 0)), (1, 5, 1, (0, 0)), (2, 4, 3, (1, 2))],
)
def test_convolution_as_a_product_is_the_convolution(float64, groups, size, stride, edge):
    """Value and both gradients; the control has its groups mixed up."""
    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(2, 7, 6, 6))), jnp.asarray(rng.normal(size=(size, size, 6 // groups, 8)))
    where = (stride, stride), (edge, edge)

    def native(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, *where, dimension_numbers=layout, feature_group_count=groups)

    def product(x, kernel):
        return nets.blocks._as_product(groups, x, kernel, *where)

    u = jnp.asarray(rng.normal(size=native(x, kernel).shape))

    def outcome(convolution):
        out, pull = jax.vjp(convolution, x, kernel)
        return out, *pull(u)

    for a, b in zip(outcome(product), outcome(native), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    assert not np.allclose(product(x[..., ::-1], kernel), native(x, kernel))
