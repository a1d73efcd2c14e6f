"""The feedback-alignment family and the alignment measure against a restatement, closed forms and identities."""

import itertools
import math
import warnings
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
import reference.bp
import reference.feedback as restated
import reference.mf
from comparing import backpropagated, differ, drawn, jit, layers_of, near

import fwdonly
from fwdonly import Batch, UsageError, bp, feedback, mf, nets
from fwdonly.base import cross_entropy

pytestmark = pytest.mark.filterwarnings("ignore::fwdonly.feedback.UnboundedWarning")

measured = fwdonly.measure.with_alignment
CLASSES, BATCH = 3, 8
SGD = optax.sgd(0.1)
LAYERED, DIRECT = ("fa", "usf", "brsf", "frsf", "wm", "kp"), ("dfa", "sdfa", "drtp")
MODES = LAYERED + DIRECT
PIXELS = (3, 3)
NET = nets.mlp([7, 6, 5])


def same(one, other):
    """True where two trees agree in every bit."""
    one, other = jax.tree.map(np.asarray, (one, other))
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(np.array_equal(a, b) for a, b in pairs)


def problem(shape=PIXELS, seed=0, batch=BATCH):
    """Random images and labels of which none is missing."""
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=batch)
    y[:CLASSES] = np.arange(CLASSES)
    return Batch(jnp.asarray(rng.normal(size=(batch, *shape))), jnp.asarray(y, jnp.int32))


def start(mode, net=NET, shape=PIXELS, tx=SGD, **options):
    """A state of random parameters, biases among them, and random feedback, in float64."""
    init = partial(feedback.init, net=net, tx=tx, num_classes=CLASSES, mode=mode, **options)
    shapes = jax.eval_shape(init, jax.random.key(3), jax.ShapeDtypeStruct((1, *shape), jnp.float64))
    params, B = drawn(shapes.params), drawn(shapes.B, seed=2)
    return feedback.State(params, tx.init(params), jax.tree.map(jnp.abs, B) if mode == "usf" else B)


def grads(mode, state, batch, net=NET, key=None, **options):
    key = jax.random.key(5) if key is None else key
    if mode == "brsf":
        return compiled_grads(net, mode, **options)(state.params, batch, key, B=state.B)
    return feedback.grads(state.params, batch, key, net=net, B=state.B, mode=mode, **options)


@cache
def compiled_grads(net, mode, **options):
    """Where the rule draws matrices, operation by operation would take long."""
    return jit(partial(feedback.grads, net=net, mode=mode, **options))


@cache
def matrices(net, mode):
    return jit(
        lambda params, B, key, x: feedback._matrices(
            params, B, key, x, net, nets.he_uniform, feedback.Options(mode=mode)
        ),
    )


def sent_back(mode, state, batch, net=NET, key=None):
    """The feedback as the restatement takes it; the magnitudes of brSF as the library draws them."""
    if mode in DIRECT:
        return list(map(np.asarray, state.B))
    if mode == "brsf":
        key = jax.random.key(5) if key is None else key
        found = matrices(net, mode)(state.params, (), key, batch.x)
        return [np.abs(layer["W"]) for layer in layers_of(found)]
    return [np.abs(layer["W"]) if mode in ("usf", "frsf") else layer["W"] for layer in layers_of(state.B)]


@cache
def differentiated(net, output):
    """The gradient of the loss, written here."""

    def loss(params, batch):
        s = nets.output.scores(params, batch.x, net)
        t = jax.nn.one_hot(batch.y, CLASSES, dtype=s.dtype)
        if output == "softmax":
            return -(t * jax.nn.log_softmax(s)).sum(1).mean()
        return -(t * jax.nn.log_sigmoid(s) + (1 - t) * jax.nn.log_sigmoid(-s)).sum(1).mean()

    return jit(jax.grad(loss))


# --- The restatement -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("activation", "output"), [("relu", "softmax"), ("tanh", "sigmoid"), ("sigmoid", "softmax")])
def test_grads_equal_the_restatement(activation, output, mode, float64):
    net = nets.mlp([7, 6, 5], activation=nets.ACTIVATIONS[activation])
    state, batch = start(mode, net), problem()
    found, metrics = grads(mode, state, batch, net, output=output)
    layers, x, y = layers_of(state.params), *map(np.asarray, batch)
    B = sent_back(mode, state, batch, net)
    loss, want = restated.gradients(layers, x, y, mode, B, activation, output)
    near(layers_of(found), want)
    near(metrics["loss"], loss)
    others = [restated.gradients(layers, x, y, "bp", B, activation, output)[1]]  # controls
    if mode in DIRECT:
        rest = [other for other in DIRECT if other != mode]
        others += [restated.gradients(layers, x, y, other, B, activation, output)[1] for other in rest]
    else:
        others.append(restated.gradients(layers, x, y, mode, [-b for b in B], activation, output)[1])
    assert all(differ(want[:-1], other[:-1]) for other in others)


@pytest.mark.parametrize("mode", MODES)
def test_grads_equal_the_restatement_without_biases(mode, float64):
    net = nets.mlp([7, 6], bias="none")
    state, batch = start(mode, net, readout_bias=False), problem()
    found, _ = grads(mode, state, batch, net)
    layers, B = layers_of(state.params), sent_back(mode, state, batch, net)
    assert found.b is None and all("b" not in layer for layer in layers)
    near(layers_of(found), restated.gradients(layers, *map(np.asarray, batch), mode, B)[1])


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "wm"])
def test_grads_of_convolutions_equal_the_restatement(mode, float64):
    """Average pooling, an odd side among the maps, and a dense layer on top."""
    net = nets.cnn([3, 4]) + nets.mlp([5])
    state, batch = start(mode, net, (7, 6, 2)), problem((7, 6, 2), batch=4)
    found, metrics = compiled_grads(net, mode)(state.params, batch, jax.random.key(5), B=state.B)
    layers, B = layers_of(state.params), sent_back(mode, state, batch, net)
    loss, want = restated.gradients(layers, *map(np.asarray, batch), mode, B)
    near(layers_of(found), want)
    near(metrics["loss"], loss)


def test_max_pooling_sends_the_error_to_the_largest(float64):
    net, shape = nets.cnn([3], pool="max"), (6, 4, 2)
    state, batch = start("fa", net, shape), problem(shape)
    found, _ = compiled_grads(net, "fa")(state.params, batch, jax.random.key(5), B=state.B)
    layer, output = layers_of(state.params)
    rows = reference.mf.patches(np.asarray(batch.x))
    a = rows @ layer["W"].reshape(-1, 3) + layer["b"]
    squares = np.maximum(a, 0).reshape(BATCH, 3, 2, 2, 2, 3).swapaxes(2, 3)  # (sample, row, column, i, j, channel)
    top = squares.max((3, 4))
    flat = top.reshape(BATCH, -1)
    e = restated.softmax(flat @ output["W"] + output["b"]) - np.eye(CLASSES)[batch.y]
    sent = (e @ np.asarray(state.B.W).T).reshape(top.shape)[:, :, :, None, None]
    largest = squares == top[:, :, :, None, None]  # ties are zeros, where the slope is 0
    delta = (sent * largest * (squares > 0)).swapaxes(2, 3).reshape(-1, 3)
    W = rows.reshape(len(delta), -1).T @ delta / BATCH
    hidden = {"W": W.reshape(layer["W"].shape), "b": delta.sum(0) / BATCH}
    near(layers_of(found), [hidden, {"W": flat.T @ e / BATCH, "b": e.mean(0)}])


def test_the_restatement_is_backpropagation_where_it_should_be():
    """Its own oracle: the older restatement of BP, and finite differences for the other activations and output."""
    rng = np.random.default_rng(0)
    widths = (5, 4, 6, CLASSES)
    layers = [
        {"W": 0.5 * rng.normal(size=shape), "b": rng.normal(size=shape[1])} for shape in itertools.pairwise(widths)
    ]
    x, y = rng.normal(size=(6, 5)), np.arange(6) % CLASSES
    near(restated.gradients(layers, x, y, "bp"), reference.bp.gradients(layers, x, y), 1e-13)
    for activation, output in (("tanh", "sigmoid"), ("sigmoid", "softmax"), ("identity", "sigmoid")):
        _, found = restated.gradients(layers, x, y, "bp", None, activation, output)
        for at in range(len(layers)):
            step = [np.zeros_like(layer["W"]) for layer in layers]
            step[at] = 1e-5 * rng.normal(size=step[at].shape)
            up, down = (
                restated.loss(
                    restated.forward(
                        [layer | {"W": layer["W"] + sign * d} for layer, d in zip(layers, step, strict=True)],
                        x,
                        activation,
                    )[-1],
                    y,
                    output,
                )
                for sign in (1, -1)
            )
            assert (up - down) / 2 == pytest.approx((found[at]["W"] * step[at]).sum(), rel=1e-6)


@pytest.fixture
def noises(monkeypatch):
    """What the weight mirror draws outside compiled code, with the bounds it asks for, in the order of the layers."""
    found, uniform = [], jax.random.uniform

    def recorded(key, shape=(), dtype=float, minval=0.0, maxval=1.0, **options):
        noise = uniform(key, shape, dtype, minval, maxval, **options)
        if not isinstance(noise, jax.core.Tracer):  # as start values are
            found.append((np.asarray(noise), float(minval), float(maxval)))
        return noise

    monkeypatch.setattr(jax.random, "uniform", recorded)
    return found


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_weight_mirror_steps_equal_the_restatement(activation, output, noises, float64):
    """Learning with B, then one batch of noise through the new weights; the mirror alone with part="mirror"."""
    net = nets.mlp([7, 6], activation=nets.ACTIVATIONS[activation])
    options = {"output": output, "mirror_rate": 0.25, "mirror_noise": 1.5, "mirror_decay": 0.7}
    state = start("wm", net)
    layers, B = layers_of(state.params), layers_of(state.B)
    change, memory = restated.momentum(0.1, 0.9), {}
    rule = feedback.rule(net, SGD, num_classes=CLASSES, mode="wm", **options)
    tx = optax.sgd(0.1, momentum=0.9)
    state = state._replace(opt_state=tx.init(state.params))
    for at, part in enumerate(["mirror", "all", "all", "all"]):
        batch = problem(seed=at)
        noises.clear()
        before = state
        state, metrics = feedback.update(
            state, batch, jax.random.key(at), net=net, tx=tx, mode="wm", part=part, **options
        )
        xi, low, high = zip(*noises, strict=True)
        assert [noise.shape for noise in xi] == [(BATCH, 9), (BATCH, 7), (BATCH, 6)]
        assert set(low) == {-0.75} and set(high) == {0.75}
        assert not np.array_equal(xi[0][:, :6], xi[2]) and not np.array_equal(xi[1][:, :6], xi[2])  # streams apart
        x, y = map(np.asarray, batch)
        loss, found = restated.gradients(layers, x, y, "wm", [b["W"] for b in B], activation, output)
        if part == "all":
            layers = restated.moved(layers, change(found, memory))
        else:
            assert same(state.params, before.params) and same(state.opt_state, before.opt_state)
        new = restated.mirror(layers, B, xi, 0.25, 0.7, activation, output)
        near(layers_of(state.params), layers)
        near([b["W"] for b in layers_of(state.B)], [b["W"] for b in new])
        near(metrics["loss"], loss)
        assert differ([b["W"] for b in new], [b["W"] for b in B], 1e-3)
        B = new
    assert rule.predict(state, batch.x).shape == (BATCH, CLASSES)


@pytest.mark.parametrize(
    ("mode", "mu"), [("kp", 0.0), ("dfa", 0.0)] + [(mode, 0.9) for mode in ("kp", "usf", "frsf", "brsf", "fa", "drtp")]
)
def test_steps_equal_the_restatement(mode, mu, float64):
    tx = optax.sgd(0.1, momentum=mu)
    state = start(mode, tx=tx)
    layers, memory, change = layers_of(state.params), {}, restated.momentum(0.1, mu)
    B = layers_of(state.B) if mode == "kp" else None
    options = {"decay": 0.05} if mode == "kp" else {}
    update = partial(feedback.update, net=NET, tx=tx, mode=mode, **options)
    update = jit(update) if mode == "brsf" else update
    for at in range(5):
        batch, key = problem(seed=at), jax.random.key(at)
        sent = [b["W"] for b in B] if mode == "kp" else sent_back(mode, state, batch, key=key)
        state, metrics = update(state, batch, key)
        loss, found = restated.gradients(layers, *map(np.asarray, batch), mode, sent)
        u = change(found, memory)
        if mode == "kp":
            layers, B = restated.kolen_pollack(layers, B, u, 0.05)
            near(layers_of(state.B), B)
        else:
            layers = restated.moved(layers, u)
        near(layers_of(state.params), layers)
        near(metrics["loss"], loss)
    assert differ(layers, layers_of(start(mode).params), 1e-2)


def test_rule_binds_its_options(float64):
    """``rule.update`` is ``update``, and a rule's prediction is the network's output."""
    state, batch, key = start("kp"), problem(), jax.random.key(2)
    rule = feedback.rule(NET, SGD, num_classes=CLASSES, mode="kp", decay=0.3, output="sigmoid")
    want = feedback.update(state, batch, key, net=NET, tx=SGD, mode="kp", decay=0.3, output="sigmoid")
    assert same(rule.update(state, batch, key), want)
    plain = feedback.update(state, batch, key, net=NET, tx=SGD, mode="kp")
    assert differ(plain[0], want[0])
    near(rule.predict(state, batch.x), restated.forward(layers_of(state.params), np.asarray(batch.x), "relu")[-1])


# --- Identities ------------------------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "dense": (NET, PIXELS),
    "average": (nets.cnn([3, 4]), (8, 8, 2)),
    "max": (nets.cnn([3, 4], pool="max"), (7, 7, 2)),
    "isometric": (nets.cnn([3], pool="isometric") + nets.mlp([4]), (6, 6, 1)),
    "five_valid": (nets.cnn([3, 4], kernel=5, padding="valid", pool="max"), (16, 16, 1)),
    "stride": (nets.cnn([3, 4], stride=2, pool="none"), (7, 7, 2)),
    "tanh": (nets.mlp([6, 5], activation=jnp.tanh), PIXELS),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_feedback_alignment_with_the_weights_is_backpropagation(name, float64):
    net, shape = CONVOLUTIONS[name]
    state, batch = start("fa", net, shape), problem(shape, batch=4)
    f = jit(lambda params, B: feedback.grads(params, batch, jax.random.key(0), net=net, B=B))
    found, metrics = f(state.params, state.params)
    want, expected = jit(lambda params: backpropagated(params, batch, net))(state.params)
    near(found, want, 1e-12)
    near(metrics, expected, 1e-12)
    other = f(state.params, state.B)[0]
    assert differ(other.blocks, want.blocks, 1e-3)  # control: random feedback
    near((other.W, other.b), (want.W, want.b), 1e-12)


def products(params):
    """The transposed product of all kernels above each hidden layer: (classes, n_l)."""
    kernels = [layer["W"] for layer in layers_of(params)]
    found = [kernels[-1]]
    for W in kernels[-2:0:-1]:
        found.insert(0, W @ found[0])
    return tuple(jnp.asarray(B.T) for B in found)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_direct_feedback_alignment_of_a_linear_net_is_backpropagation(output, float64):
    batch = problem()
    for activation in ("identity", "relu"):
        net = nets.mlp([7, 6, 5], activation=nets.ACTIVATIONS[activation])
        state = start("dfa", net)
        state = state._replace(B=products(state.params))
        found = grads("dfa", state, batch, net, output=output)[0]
        want = differentiated(net, output)(state.params, batch)
        if activation == "identity":
            near(found, want, 1e-12)
        else:  # control: between W_{l+1} and W_L lie slopes
            near((found.blocks[-1], found.W, found.b), (want.blocks[-1], want.W, want.b), 1e-12)
            assert differ(found.blocks[0], want.blocks[0], 1e-3) and differ(found.blocks[1], want.blocks[1], 1e-3)


@pytest.mark.parametrize(
    ("mode", "output"), [(mode, "softmax") for mode in MODES] + [(mode, "sigmoid") for mode in ("fa", *DIRECT)]
)
def test_the_output_layer_has_backpropagation_s_gradient(mode, output, float64):
    state, batch = start(mode), problem()
    found = grads(mode, state, batch, output=output)[0]
    want = differentiated(NET, output)(state.params, batch)
    near((found.W, found.b), (want.W, want.b), 1e-12)
    assert all(differ(g, w) for g, w in zip(found.blocks, want.blocks, strict=True))  # control


def test_signs_of_equally_large_errors_are_the_errors(float64):
    """An output layer of zeros answers 1/2, so that all errors are +-1/2."""
    batch, state = problem(), start("dfa")
    zero = state._replace(params=state.params._replace(W=0 * state.params.W, b=0 * state.params.b))
    signs, errors = (grads(mode, zero, batch, output="sigmoid")[0] for mode in ("sdfa", "dfa"))
    near(signs.blocks, jax.tree.map(lambda g: 2 * g, errors.blocks), 1e-13)
    near(signs.W, errors.W, 1e-13)
    state = state._replace(params=drawn(state.params, scale=1.5))  # control: large weights, errors of all sizes
    signs, errors = (grads(mode, state, batch, output="sigmoid")[0] for mode in ("sdfa", "dfa"))
    cosine, _ = restated.layer_angles(layers_of(signs), layers_of(errors))
    assert (cosine[:-1] < 0.999).all()


@pytest.mark.parametrize("mode", ["drtp", "dfa", "fa"])
def test_target_projection_needs_nothing_from_above(mode, float64):
    """Random weights above a layer and at the output change no bit of DRTP's gradient there; DFA's and FA's they do."""
    state, batch = start(mode), problem()
    found = grads(mode, state, batch)[0].blocks
    other = drawn(state.params, seed=9)
    for at in range(len(NET)):
        mixed = state.params._replace(
            blocks=(*state.params.blocks[: at + 1], *other.blocks[at + 1 :]), W=other.W, b=other.b
        )
        again = grads(mode, state._replace(params=mixed), batch)[0].blocks
        below = [same(one, two) for one, two in zip(found[: at + 1], again[: at + 1], strict=True)]
        assert all(below) if mode == "drtp" else not any(below)


@pytest.mark.parametrize(("classes", "share"), [(2, 0.5), (3, 0.25)])
def test_uniform_signs_send_nothing_where_outgoing_weights_share_one(classes, share, float64):
    """The errors of a softmax add up to 0. FA, the control, reaches every unit."""
    net, y = nets.mlp([400], activation=jnp.tanh), jnp.arange(8) % classes
    batch = Batch(problem().x, y)
    for mode in ("usf", "fa"):
        init = partial(feedback.init, net=net, tx=SGD, num_classes=classes, mode=mode)
        state = jax.tree.map(lambda a: a.astype(float), init(jax.random.key(0), batch.x))
        found = grads(mode, state, batch, net)[0]
        silent = np.abs(found.blocks[0]["params"]["Dense_0"]["kernel"]).max(0) < 1e-14
        alike = np.abs(np.sign(state.params.W).sum(1)) == classes
        assert np.array_equal(silent, alike if mode == "usf" else np.zeros(400, bool))
        assert alike.mean() == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("mode", ["usf", "frsf", "brsf", "fa", "bp"])
def test_sign_symmetry_does_not_see_the_size_of_the_weights(mode, float64):
    """Layer 2 and its bias times 4, the kernel above over 4: the relu net computes the same, so that all but what is
    sent back stays as it was. Powers of two make it exact."""
    state, batch = start("fa" if mode == "bp" else mode), problem()
    rescaled = jax.tree.map(lambda w: w, state.params.blocks)
    rescaled[1]["params"] = jax.tree.map(lambda w: 4 * w, rescaled[1]["params"])
    rescaled[2]["params"]["Dense_0"]["kernel"] /= 4
    changed = state._replace(params=state.params._replace(blocks=rescaled))
    if mode == "bp":
        state, changed = (each._replace(B=each.params) for each in (state, changed))
    mode = "fa" if mode == "bp" else mode
    is_bp = state.B is state.params
    (one, _), (two, _) = (grads(mode, each, batch) for each in (state, changed))
    assert same((one.W, one.b), (two.W, two.b))
    assert same(one.blocks[0], two.blocks[0])  # through 4 W_2 and W_3 / 4 alike: also of BP
    assert same(one.blocks[1], two.blocks[1]) != is_bp  # through W_3 / 4 alone


@cache
def big(mode, **options):
    net, x = nets.mlp([200, 100]), jnp.zeros((2, 50))
    options = {"net": net, "tx": SGD, "num_classes": 10, "mode": mode} | options
    return jit(partial(feedback.init, **options))(jax.random.key(4), x), net, x


def test_signs_of_the_feedback():
    for mode in ("usf", "frsf", "brsf"):
        state, net, x = big(mode)

        def found_for(key, params, state=state, net=net, x=x, mode=mode):
            found = matrices(net, mode)(params, state.B, jax.random.key(key), x)
            return [layer["W"] for layer in layers_of(found)]

        kernels = [layer["W"] for layer in layers_of(state.params)]
        moved_on = jax.tree.map(lambda w: jnp.flip(w), state.params)
        one, again, later = found_for(1, state.params), found_for(2, state.params), found_for(1, moved_on)
        for W, B in zip(kernels, one, strict=True):
            np.testing.assert_array_equal(np.sign(B), np.sign(W))
        for own, B in zip(layers_of(moved_on), later, strict=True):
            np.testing.assert_array_equal(np.sign(B), np.sign(own["W"]))  # of the weights as they are, not as they were
        for B, C, D in zip(one, again, later, strict=True):
            np.testing.assert_array_equal(np.abs(B), np.abs(D))
            assert np.array_equal(B, C) == (mode != "brsf")
        for W, B in zip(kernels, one, strict=True):  # sizes: all alike, or of the weights' law and not the weights
            bound = math.sqrt(6 / len(W))
            if mode == "usf":
                np.testing.assert_allclose(np.abs(B), math.sqrt(2 / len(W)), rtol=0.05)
                np.testing.assert_allclose(np.abs(B), W.std(), rtol=1e-5)
            else:
                assert np.abs(B).max() <= bound
                assert np.abs(B).mean() == pytest.approx(bound / 2, rel=0.05)
                assert np.abs(B).std() == pytest.approx(bound / math.sqrt(12), rel=0.05)
                assert abs(np.corrcoef(np.abs(B).ravel(), np.abs(W).ravel())[0, 1]) < 0.1
    state, _, _ = big("fa")  # control
    for W, B in zip(layers_of(state.params), layers_of(state.B), strict=True):
        assert (np.sign(W["W"]) == np.sign(B["W"])).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("tx", "decay"),
    [(SGD, 0.1), (optax.sgd(0.1, momentum=0.9), 0.1), (optax.adam(0.01), 0.1), (SGD, 0.0)],
    ids=["sgd", "momentum", "adam", "no_decay"],
)
def test_kolen_pollack_shrinks_the_difference_geometrically(tx, decay, float64):
    state = start("kp", tx=tx)
    first = jax.tree.map(jnp.subtract, state.params, state.B)
    step = jit(partial(feedback.update, net=NET, tx=tx, mode="kp", decay=decay))
    for k in range(1, 6):
        before = state
        state, _ = step(state, problem(seed=k), jax.random.key(k))
        difference = jax.tree.map(jnp.subtract, state.params, state.B)  # of biases it stays: they do not decay
        near(difference, jax.tree.map(lambda d, k=k: (1 - decay) ** (k if d.ndim > 1 else 0) * d, first), 1e-12)
        assert differ(state.B, before.B, 1e-4)
    assert differ(difference, first, 1e-2) == (decay > 0)  # control: without decay W - B stays
    fixed = start("fa", tx=tx)
    after = feedback.update(fixed, problem(), jax.random.key(1), net=NET, tx=tx)[0]
    assert differ(jax.tree.map(jnp.subtract, after.params, after.B), jax.tree.map(jnp.subtract, fixed.params, fixed.B))


def test_kolen_pollack_decays_by_one_in_ten_thousand_by_default(float64):
    state = start("kp")
    after, _ = feedback.update(state, problem(), jax.random.key(1), net=NET, tx=SGD, mode="kp")
    first, second = (jax.tree.map(jnp.subtract, each.params, each.B) for each in (state, after))
    near(second, jax.tree.map(lambda d: d if d.ndim < 2 else 0.9999 * d, first), 1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_kolen_pollack_decays_weights_alone_and_whatever_the_learning_rate(rate, float64):
    """Akrout et al., equations 16 and 17, are of the matrices, and their code multiplies by lambda beside the step."""
    tx = optax.sgd(rate)
    state = start("kp", tx=tx)
    after = feedback.update(state, problem(), jax.random.key(1), net=NET, tx=tx, mode="kp", decay=0.2)[0]
    u = jax.tree.map(lambda g: -rate * g, grads("kp", state, problem())[0])
    for found, old in ((after.params, state.params), (after.B, state.B)):
        near(found, jax.tree.map(lambda w, u: (0.8 if w.ndim > 1 else 1.0) * w + u, old, u), 1e-12)


def seen_in_mirror(activation, count, noise, rate, output, scale):
    """The feedback that one batch of noise makes of none, as the multiple of count * rate * A^2 / 12; and W."""
    net = nets.mlp([8, 6], activation=nets.ACTIVATIONS[activation])
    state = start("wm", net)
    params = drawn(state.params, scale=scale)
    blocks = jax.tree.map(lambda w: w if w.ndim == 2 else 0 * w, params.blocks)
    params = params._replace(blocks=blocks, b=0 * params.b)
    state = state._replace(params=params, B=jax.tree.map(jnp.zeros_like, params))
    options = {"mirror_rate": rate, "mirror_noise": noise, "output": output}
    found = feedback.mirrored(state, jax.random.key(8), count, net=net, mode="wm", **options)
    unit = count * rate * noise**2 / 12
    return [(b["W"] / unit, own["W"]) for b, own in zip(layers_of(found), layers_of(params), strict=True)]


def angle_and_size(found, want):
    return (found * want).sum() / math.sqrt((found**2).sum() * (want**2).sum()), (found * want).sum() / (want**2).sum()


@pytest.mark.parametrize(
    ("activation", "factor", "noise"), [("identity", 1, 0.1), ("relu", 1 / 2, 0.1), ("sigmoid", 1 / 4, 1.0)]
)
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_the_mirror_learns_the_weights_on_average(activation, factor, noise, output, float64):
    """The constants: A^2 / 12 is the noise's variance, the factor the mean slope (for relu exact by symmetry)."""
    *hidden, (B, W) = seen_in_mirror(activation, 200_000, noise, 1e-4, output, 0.3)
    for found, want in hidden:
        cosine, size = angle_and_size(found, want)
        assert cosine > 0.99 and size == pytest.approx(factor, rel=0.05)
    if noise == 1.0:  # the output's answer to no input, 1/C or 1/2, is noise that only the larger A drowns
        centred = W - W.mean(1, keepdims=True)
        cosine, size = angle_and_size(B, centred if output == "softmax" else W)
        assert cosine > 0.99 and size == pytest.approx(1 / CLASSES if output == "softmax" else 1 / 4, rel=0.05)


def test_a_mirror_whose_noise_is_not_centred_does_not_learn_the_weights(float64, monkeypatch):
    uniform = jax.random.uniform

    def drawn(key, shape, dtype, low, high=None):  # start values name one bound alone
        return uniform(key, shape, dtype, low) if high is None else uniform(key, shape, dtype) * high

    monkeypatch.setattr(jax.random, "uniform", drawn)
    for found, want in seen_in_mirror("identity", 20_000, 0.1, 0.03, "softmax", 0.3)[:-1]:
        assert angle_and_size(found, want)[0] < 0.9


def mirrored_for_long(steps, **options):
    """|B| / |W| of the hidden layers after many batches of noise; a linear net, whose mean slope is 1."""
    net = nets.mlp([8, 6], activation=nets.ACTIVATIONS["identity"], bias="none")
    state = start("wm", net, readout_bias=False)

    def step(B, key):
        return feedback.mirrored(state._replace(B=B), key, 500, net=net, mode="wm", mirror_noise=1.0, **options), None

    keys = jax.random.split(jax.random.key(0), steps)
    B = jit(lambda B: jax.lax.scan(step, B, keys)[0])(state.B)
    pairs = zip(layers_of(B)[:-1], layers_of(state.params)[:-1], strict=True)
    return [(angle_and_size(b["W"], own["W"])) for b, own in pairs]


def test_the_decay_bounds_the_mirrored_feedback_at_the_weights_over_it(float64):
    for decay in (0.5, 2.0):
        for cosine, size in mirrored_for_long(200, mirror_rate=0.003, mirror_decay=decay):
            assert cosine > 0.99 and size == pytest.approx(1 / decay, rel=0.05)
    unit = 200 * 0.003 * 500 / 12  # the control: without it B grows as the steps do
    for cosine, size in mirrored_for_long(200, mirror_rate=0.003, mirror_decay=0.0):
        assert cosine > 0.99 and size == pytest.approx(unit, rel=0.05)


@pytest.mark.parametrize("share", [1.9, 2.1])
def test_a_mirror_that_takes_more_than_twice_of_b_in_a_step_is_refused(share, float64, monkeypatch):
    """Closed form: what is left of the start after k steps has the size |1 - r|^k. 2.1 diverges, 1.9 does not."""
    rate = share / (500 / 12 * 0.5)
    if share < 2:
        for _, size in mirrored_for_long(300, mirror_rate=rate, mirror_decay=0.5):
            assert abs(size) < 10
        return
    with pytest.raises(UsageError, match=r"mirror_rate below 0\.096") as caught:
        mirrored_for_long(1, mirror_rate=rate, mirror_decay=0.5)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(feedback._mirror, "check_bounded", lambda *_: None)  # the control: what would have come
    for _, size in mirrored_for_long(300, mirror_rate=rate, mirror_decay=0.5):
        assert abs(size) > 1e6


@pytest.mark.parametrize(("decay", "steps"), [(0.0, 5), (0.0, 40), (1.2, 2), (1.2, 5), (1.2, 60)])
def test_the_noise_of_sampling_leaves_the_cosine_of_the_closed_form(decay, steps, float64):
    """B_k = sum_j (1 - r)^j (signal + noise_j), of which the cosine follows; r is 0.1 in the cases with decay."""
    inputs, count, rate = 400, 50, 1 / 50
    net = nets.mlp([200], bias="none")
    state = start("wm", net, (inputs,))
    state = state._replace(params=drawn(state.params), B=jax.tree.map(jnp.zeros_like, state.B))
    options = {"mode": "wm", "mirror_noise": 1.0, "mirror_rate": rate, "mirror_decay": decay}

    def step(B, key):
        return feedback.mirrored(state._replace(B=B), key, count, net=net, **options), None

    keys = jax.random.split(jax.random.key(4), steps)
    B = jit(lambda B: jax.lax.scan(step, B, keys)[0])(state.B)
    cosine, _ = angle_and_size(layers_of(B)[0]["W"], layers_of(state.params)[0]["W"])

    def closed_form(r):
        q = 1 - r
        total, square = (sum(q ** (n * j) for j in range(steps)) for n in (1, 2))
        return (1 + 2 * inputs / (count * total**2 / square)) ** -0.5

    r = rate * count / 12 * decay
    assert cosine == pytest.approx(closed_form(r), abs=0.03)
    as_documented = steps if r == 0 else (2 - r) / r * (1 - (1 - r) ** steps) / (1 + (1 - r) ** steps)
    assert (1 + 2 * inputs / (count * as_documented)) ** -0.5 == pytest.approx(closed_form(r), abs=1e-12)
    if steps == 60:
        assert cosine < closed_form(0.0) - 0.1  # the control: without decay 60 steps would align further


def test_the_bound_that_the_weight_mirrors_docstring_names():
    r = 0.01 * 128 / 12 * feedback.Options().mirror_decay
    assert math.ceil((2 - r) / r) == 37
    assert (1 + 2 * 784 / (128 * (2 - r) / r)) ** -0.5 == pytest.approx(0.865, abs=5e-4)
    assert feedback.Options().mirror_rate == 0.01


def test_a_mirrors_bound_is_that_of_the_batches_that_train_and_not_of_the_images_that_show_shapes(tiny):
    def trained(rate):
        rule = feedback.rule(nets.mlp([6]), SGD, num_classes=4, mode="wm", mirror_noise=1.0, mirror_rate=rate)
        return fwdonly.fit(rule, tiny, fwdonly.Plan(epochs=1, batch_size=10))

    limit = 2 / (10 / 12 * 0.5)  # 160 images train and show shapes
    assert np.isfinite(trained(0.5 * limit).history["train_loss"]).all()
    with pytest.raises(UsageError, match="batches of 10"):  # the control
        trained(1.01 * limit)


def test_a_spread_scales_every_feedback_and_turns_none(float64):
    """0.5 is what the last lines of the public code's ``mirror`` mean: errors uniform in [0, 1) have it, once sent."""
    state, key = start("wm"), jax.random.key(2)
    plain, scaled = (
        feedback.mirrored(state, key, 4000, net=NET, mode="wm", mirror_spread=spread) for spread in (None, 0.5)
    )
    rng = np.random.default_rng(0)
    for one, other in zip(layers_of(plain), layers_of(scaled), strict=True):
        assert angle_and_size(one["W"], other["W"])[0] == pytest.approx(1, abs=1e-12)
        found, before = (
            (rng.uniform(size=(4000, own["W"].shape[1])) @ own["W"].T).std(1).mean() for own in (other, one)
        )
        assert found == pytest.approx(0.5, rel=0.03) and abs(before - 0.5) > 0.03
    near([b.get("b") for b in layers_of(plain)], [b.get("b") for b in layers_of(scaled)])


@pytest.mark.parametrize("mode", MODES)
def test_the_optimizer_does_not_touch_the_feedback(mode, float64):
    tx = optax.adamw(0.01, weight_decay=0.1)
    state = first = start(mode, tx=tx)
    step = jit(partial(feedback.update, net=NET, tx=tx, mode=mode))
    assert jax.tree.structure(first.opt_state[0].mu) == jax.tree.structure(first.params)
    for at in range(2):
        state, _ = step(state, problem(seed=at), jax.random.key(at))
        assert differ(state.params, first.params, 1e-3)
    if mode in ("kp", "wm"):
        assert differ(state.B, first.B, 1e-5)  # control
    else:
        assert same(state.B, first.B)


# --- Start values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", DIRECT)
def test_direct_feedback_starts_uniform_on_one_over_the_square_root_of_the_layer(mode):
    state, _, _ = big(mode)
    for B, n in zip(state.B, (200, 100), strict=True):
        assert B.shape == (10, n)
        assert float(jnp.abs(B).max()) <= n**-0.5
        assert float(B.std()) == pytest.approx((3 * n) ** -0.5, rel=0.05)
        assert abs(float(B.mean())) < 0.1 * n**-0.5
    if mode != "dfa":
        return
    zero, _, _ = big(mode, net=nets.mlp([200, 100], activation=jnp.tanh, kernel_init=nets.zeros))
    assert not any(map(jnp.any, jax.tree.leaves(zero.params.blocks))) and same(zero.B, state.B)


@pytest.mark.parametrize("mode", ["dfa", "drtp"])
def test_direct_feedback_of_a_convolution_goes_to_the_map_before_pooling(mode):
    init = partial(feedback.init, net=nets.cnn([16, 6], pool="max"), tx=SGD, num_classes=10, mode=mode)
    state = jit(init)(jax.random.key(1), jnp.zeros((2, 9, 8, 2)))
    assert [B.shape for B in state.B] == [(10, 9, 8, 16), (10, 4, 4, 6)]
    for B in state.B:
        n = B[0].size
        assert float(jnp.abs(B).max()) <= n**-0.5
        assert float(B.std()) == pytest.approx((3 * n) ** -0.5, rel=0.05)
    valid = nets.cnn([4], kernel=5, padding="valid")
    state = jax.eval_shape(partial(init, net=valid), jax.random.key(1), jnp.zeros((2, 12, 12, 1)))
    assert state.B[0].shape == (10, 8, 8, 4)


@pytest.mark.parametrize("mode", ["fa", "frsf", "wm", "kp"])
def test_layered_feedback_starts_by_the_law_of_the_weights(mode):
    state, _, _ = big(mode, readout_init=nets.torch_uniform)
    assert jax.tree.structure(state.B) == jax.tree.structure(state.params)
    for W, B, bound in zip(
        layers_of(state.params),
        layers_of(state.B),
        (math.sqrt(6 / 50), math.sqrt(6 / 200), 100**-0.5),  # He's twice, and PyTorch's at the output
        strict=True,
    ):
        for each in (W["W"], B["W"]):
            assert np.abs(each).max() <= bound * (1 + 1e-6)
            assert each.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert abs(np.corrcoef(W["W"].ravel(), B["W"].ravel())[0, 1]) < 0.1  # and independent of them
    same_weights, _, _ = big("dfa", readout_init=nets.torch_uniform)
    assert same(state.params, same_weights.params)


@pytest.mark.parametrize("mode", ["dfa", "fa", "usf"])
def test_feedback_scale_multiplies(mode):
    one, three = (big(mode, feedback_scale=scale)[0] for scale in (1.0, 3.0))
    assert same(one.params, three.params)
    near(three.B, jax.tree.map(lambda b: 3 * b, one.B), 1e-6)
    assert same(big(mode)[0].B, one.B)


# --- Alignment with backpropagation ----------------------------------------------------------------------------------


def aligned(state, gradients, batch, net=NET, **options):
    return fwdonly.alignment(partial(feedback.predict, net=net), state, gradients, batch, **options)


def test_backpropagation_is_aligned_with_itself(float64):
    for net, shape in ((NET, PIXELS), (nets.cnn([3]) + nets.mlp([5]), (6, 6, 1))):
        state, batch = start("fa", net, shape), problem(shape)
        exact = jit(partial(backpropagated, net=net))(state.params, batch)[0]
        fa, compare = (jit(partial(f, net=net)) for f in (partial(grads, "fa"), aligned))
        found = fa(state._replace(B=state.params), batch)[0]
        for gradients, cosine, ratio in (
            (exact, 1, 1),
            (found, 1, 1),
            (jax.tree.map(lambda g: 3 * g, exact), 1, 3),
            (jax.tree.map(lambda g: -g / 2, exact), -1, 0.5),
        ):
            got = compare(state, gradients, batch)
            assert got.cosine.shape == got.norm_ratio.shape == (len(net) + 1,)
            near(tuple(got), (np.full(len(net) + 1, cosine), np.full(len(net) + 1, ratio)), 1e-12)
        other = compare(state, fa(state, batch)[0], batch)  # control
        assert (np.abs(other.cosine[:-1]) < 0.9).all() and other.cosine[-1] == pytest.approx(1)


@pytest.mark.parametrize("mode", ["fa", "dfa", "drtp"])
def test_alignment_equals_the_restatement(mode, float64):
    """Cosine and ratio from two NumPy gradients, W and b of a layer as one vector; also inside compiled code."""
    state, batch = start(mode), problem()
    layers, (x, y) = layers_of(state.params), map(np.asarray, batch)
    rule = restated.gradients(layers, x, y, mode, sent_back(mode, state, batch))[1]
    exact = reference.bp.gradients(layers, x, y)[1]
    want = restated.layer_angles(rule, exact)
    near(tuple(aligned(state, grads(mode, state, batch)[0], batch)), want)
    if mode == "fa":
        near(tuple(jit(lambda state, batch: aligned(state, grads(mode, state, batch)[0], batch))(state, batch)), want)
    random = drawn(state.params, seed=4)  # the output layer's bias counts, too
    near(tuple(aligned(state, random, batch)), restated.layer_angles(layers_of(random), exact))
    kernels = restated.layer_angles([{"W": g["W"]} for g in rule], [{"W": g["W"]} for g in exact])
    assert differ(want, kernels, 1e-3)  # control


def test_alignment_without_an_output_bias(float64):
    net = nets.mlp([6], bias="none")
    state, batch = start("fa", net, readout_bias=False), problem()
    got = aligned(state, backpropagated(state.params, batch, net)[0], batch, net)
    near(tuple(got), (np.ones(2), np.ones(2)), 1e-12)


def test_alignment_of_another_loss(float64):
    """A temperature, and the sigmoid's cross-entropy: only with their own loss do the gradients agree."""
    state, batch = start("fa"), problem()

    def warm(s, y):
        return cross_entropy(2.5 * s, y)

    def binary(s, y):
        return optax.sigmoid_binary_cross_entropy(s, jax.nn.one_hot(y, CLASSES, dtype=s.dtype)).sum(1).mean()

    exact = jax.grad(lambda params: warm(nets.output.scores(params, batch.x, NET), batch.y))(state.params)
    sigmoid = grads("fa", state._replace(B=state.params), batch, output="sigmoid")[0]
    for gradients, loss in ((exact, warm), (sigmoid, binary)):
        near(tuple(aligned(state, gradients, batch, loss=loss)), (np.ones(4), np.ones(4)), 1e-12)
        other = aligned(state, gradients, batch)  # control
        assert (other.cosine < 0.999).all() and differ(other.norm_ratio, np.ones(4), 0.05)


def test_alignment_of_mono_forward_is_taken_block_by_block(float64):
    """The last layer's own loss is the network's; the layers below have another direction."""
    batch, net = problem(), NET
    shapes = jax.eval_shape(
        partial(mf.init, net=net, tx=SGD, num_classes=CLASSES), jax.random.key(0), jax.ShapeDtypeStruct((1, 9), float)
    )
    params = drawn(shapes.params)
    state = mf.State(params, ())
    local = mf.grads(params, batch, jax.random.key(0), net=net)[0]
    got = fwdonly.alignment(partial(mf.predict, net=net), state, local, batch)
    assert got.cosine.shape == got.norm_ratio.shape == (3,)
    as_bp = bp.Params(tuple(own.block for own in params), params[-1].M.T, None)
    want = restated.layer_angles(
        layers_of(bp.Params(tuple(own.block for own in local), as_bp.W, None))[:-1],
        reference.bp.gradients(
            [layer | {"b": layer.get("b", np.zeros(CLASSES))} for layer in layers_of(as_bp)], *map(np.asarray, batch)
        )[1][:-1],
    )
    near(tuple(got), want)
    assert got.cosine[-1] == pytest.approx(1, abs=1e-12) and got.norm_ratio[-1] == pytest.approx(1, abs=1e-12)
    assert (got.cosine[:-1] < 0.99).all()


def test_measured_adds_metrics_and_nothing_else(float64):
    state, batch, key = start("kp"), problem(), jax.random.key(1)
    rule = feedback.rule(NET, SGD, num_classes=CLASSES, mode="kp")
    update = measured(rule).update
    want, plain = jit(rule.update)(state, batch, key)
    after, metrics = jit(update)(state, batch, key)
    near(after, want, 1e-14)
    angles = {"cosine", "norm_ratio", "feedback_cosine", "error_cosine"}
    assert set(metrics) == {"loss"} | angles and set(plain) == {"loss"}
    assert metrics["cosine"].shape == metrics["norm_ratio"].shape == (4,)
    here, later = (aligned(each, grads("kp", each, batch)[0], batch) for each in (state, after))
    near((metrics["cosine"], metrics["norm_ratio"]), tuple(here))
    assert differ(tuple(here), tuple(later), 1e-4)  # control: before the step, not after it
    halved = measured(rule, loss=lambda s, y: 0.5 * cross_entropy(s, y)).update
    near(halved(state, batch, key)[1]["norm_ratio"], 2 * here.norm_ratio)


# --- Learning aligns -------------------------------------------------------------------------------------------------


def angles_while_learning(mode, rate, activation="relu", shuffled=False, steps=200, **options):
    """The hidden layer's cosine with BP in every step of a training on digits."""
    digits = fwdonly.data.load("digits")
    x = jnp.asarray(digits.x_train.reshape(len(digits.x_train), -1) / 255, jnp.float32)
    y = jnp.asarray(digits.y_train, jnp.int32)
    net, tx = nets.mlp([64], activation=nets.ACTIVATIONS[activation]), optax.sgd(rate)
    rule = feedback.rule(net, tx, num_classes=10, mode=mode, **options)
    update = measured(rule).update

    def step(state, key):
        if shuffled:
            W = state.B.W
            state = state._replace(B=state.B._replace(W=jax.random.permutation(key, W.ravel()).reshape(W.shape)))
        at = jax.random.choice(jax.random.fold_in(key, 5), len(x), (100,), replace=False)
        state, metrics = update(state, Batch(x[at], y[at]), key)
        return state, (metrics["cosine"][0], metrics["loss"])

    state = jit(rule.init)(jax.random.key(0), x[:2])
    cosine, loss = jit(lambda state: jax.lax.scan(step, state, jax.random.split(jax.random.key(1), steps))[1])(state)
    return np.asarray(cosine), np.asarray(loss)


@pytest.mark.parametrize(
    ("mode", "options", "low", "high"),
    [
        ("fa", {"rate": 0.5}, 0.5, 0.9),
        ("kp", {"rate": 0.5, "decay": 0.02}, 0.97, 1.001),
        ("wm", {"rate": 0.5, "activation": "tanh", "mirror_rate": 0.1, "mirror_noise": 1.0}, 0.9, 1.001),
        ("fa", {"rate": 0.5, "shuffled": True}, -0.3, 0.3),  # controls: feedback that W cannot follow, or none
        ("drtp", {"rate": 0.1}, -0.4, 0.4),
    ],
    ids=["fa", "kp", "wm", "fa_shuffled", "drtp"],
)
def test_learning_aligns_the_weights_with_the_feedback(mode, options, low, high):
    cosine, loss = angles_while_learning(mode, **options)
    assert abs(cosine[0]) < 0.2
    assert low < cosine[-20:].mean() < high
    assert loss[-20:].mean() < 0.8 * loss[0] or mode == "drtp"


# --- Bad input -------------------------------------------------------------------------------------------------------


def labelled(y):
    state = start("fa")
    return feedback.grads(state.params, Batch(jnp.zeros((3, 9)), y), jax.random.key(0), net=NET, B=state.B)


def updated(mode, part):
    """One step by `feedback.update` itself, which no `rule` has checked before."""
    return feedback.update(start(mode), problem(), jax.random.key(0), net=NET, tx=SGD, mode=mode, part=part)[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: feedback.rule(NET, SGD, num_classes=3, mode="bp"), "'bp'"),
        (lambda: feedback.rule(NET, SGD, num_classes=3, modes="fa"), "'modes'"),
        (lambda: feedback.rule(NET, SGD, num_classes=3, output="linear"), "'linear'"),
        (lambda: feedback.rule((), SGD, num_classes=3), "no hidden layer"),
        (lambda: feedback.rule(NET, SGD, num_classes=3, mode="wm", mirror_spread=0), "above 0"),
        (lambda: feedback.rule(NET, SGD, num_classes=3, mode="wm", mirror_decay=-0.1), "mirror_decay"),
        (lambda: feedback.rule((nets.Identity(),), SGD, num_classes=3), "Identity"),
        (lambda: feedback.rule((nets.Affine(nn.Dense(3), jnp.tanh),), SGD, num_classes=3, mode="wm"), "wm"),
        (lambda: feedback.rule(NET, SGD, num_classes=3, error_clip=0.0), "error_clip"),
        (lambda: feedback.rule(NET, SGD, num_classes=3, part="mirror"), "mirror"),
        (lambda: feedback.rule(NET, SGD, num_classes=3, mode="wm", part="mirrors"), "'mirrors'"),
        (lambda: updated("wm", "mirrors"), "'mirrors'"),
        (lambda: updated("fa", "mirror"), 'mode="wm"'),
        (lambda: updated("dfa", "mirror"), 'mode="wm"'),
        (lambda: start("fa", ()), "no hidden layer"),
        (lambda: start("wm", (nets.Affine(nn.Dense(3), jnp.tanh),)), "wm"),
        (lambda: start("fas"), "'fas'"),
        (lambda: big("fa", num_classes=1), "2 classes"),
        (lambda: big("dfa", num_classes=1), "2 classes"),
        (lambda: labelled(jnp.asarray([0, 1, 3])), "0..2"),
        (lambda: labelled(jnp.asarray([0, -1, 2])), "0..2"),
        (lambda: labelled(jnp.asarray([0.0, 1.0, 2.0])), "integer"),
        (lambda: labelled(None), "integer"),
        (lambda: labelled(jnp.asarray([0, 1])), "one per sample"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or it would speak first
    with pytest.raises(UsageError) as caught, fwdonly.errors.one_line():
        make()
    message = str(caught.value)
    assert words in message and "\n" not in message


def test_a_signal_that_never_ends_on_an_activation_without_bounds_is_warned_of_once():
    relu, tanh, clipped = (nets.mlp([7, 6], activation=a) for a in (jax.nn.relu, jnp.tanh, partial(jnp.clip, max=1)))

    def started(mode, net):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            jit(partial(feedback.init, net=net, tx=SGD, num_classes=3, mode=mode))(jax.random.key(0), problem().x)
        return [str(each.message) for each in caught if each.category is feedback.UnboundedWarning]

    for mode in ("sdfa", "drtp"):
        (line,) = started(mode, relu)
        assert repr(mode) in line and "use activation=tanh" in line and "\n" not in line
        assert started(mode, tanh) == []
        assert len(started(mode, clipped)) == 1  # below it has no bound
    assert started("dfa", relu) == [] == started("fa", relu)  # controls: their error shrinks


def test_good_input_is_taken():
    """Control: what differs from the bad input by its fault alone."""
    feedback.rule(nets.cnn([3]), SGD, num_classes=3, mode="kp", output="sigmoid")
    feedback.rule(nets.cnn([3]), SGD, num_classes=3, mode="wm", error_clip=1.0)
    feedback.rule(NET, SGD, num_classes=3, mode="wm", part="mirror")
    assert same(updated("wm", "mirror").params, start("wm").params)
    assert differ(updated("fa", "all").params, start("fa").params)
