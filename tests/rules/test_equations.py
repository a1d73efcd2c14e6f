"""The rules against float64 restatements of their papers, closed forms and identities."""

import math
from functools import cache, partial
from operator import itemgetter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference.bp
import reference.ladder
import reference.mf
from comparing import differ, layers_of, near, weights

import fwdonly
from fwdonly import Batch, bp, mf, nets

WIDTHS, CLASSES, INPUTS, BATCH = (5, 4, 3), 3, 6, 8
CHECKED_STEPS = (1, 10, 100)
OPTIMISERS = {
    "sgd": (optax.sgd(0.1), reference.mf.sgd(0.1)),
    "adam": (optax.adam(0.01), reference.mf.adam(0.01)),
}
FLOAT64_TOLERANCE = 1e-10


def problem(shape, dtype, steps=1, seed=0):
    """Random batches of learnable labels: the class is the largest of the first features."""
    x = np.random.default_rng(seed).normal(size=(steps, BATCH, *shape))
    return x.astype(dtype), x.reshape(steps, BATCH, -1)[..., :CLASSES].argmax(-1).astype(np.int32)


def start(module, net, shape, dtype, tx=None, **options):
    """A state of random parameters, biases too, in ``dtype`` throughout; `init` has tests of its own."""
    tx = tx or optax.sgd(0.1)
    init = partial(module.init, net=net, tx=tx, num_classes=CLASSES, **options)
    shapes = jax.eval_shape(init, jax.random.key(3), jax.ShapeDtypeStruct((1, *shape), dtype)).params
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), dtype), shapes)
    return module.State(params, tuple(map(tx.init, params)) if module is mf else tx.init(params))


def restated(params):
    """Parameters, or gradients, of either rule as the references write them."""
    if isinstance(params, bp.Params):
        layers = layers_of(params)
        for layer, M in zip(layers[:-1], params.M or (), strict=params.M is not None):
            layer["M"] = M
    else:
        layers = [weights(layer.block) | {"M": layer.M} for layer in params]
    return [{name: np.asarray(a, np.float64) for name, a in layer.items()} for layer in layers]


@cache
def update_of(module, widths, optimiser, **options):
    """The same object for the same options, so that tests share compiled programs."""
    return partial(module.update, net=nets.mlp(widths), tx=OPTIMISERS[optimiser][0], **options)


@partial(jax.jit, static_argnums=0)
def trajectory(update, state, xs, ys):
    """The last state, and the parameters and losses of every step."""
    key = jax.random.key(0)  # not read: both rules are deterministic

    def step(state, xy):
        state, metrics = update(state, Batch(*xy), key)
        return state, (state.params, metrics.get("layer_loss", metrics["loss"]))

    return jax.lax.scan(step, state, (xs, ys))


def assert_follows(update, restated_step, state, layers, tolerances):
    """``update`` goes where ``restated_step(layers, x, y)`` goes; the tolerances are for `CHECKED_STEPS`."""
    xs, ys = problem((INPUTS,), jax.tree.leaves(state.params)[0].dtype, max(CHECKED_STEPS))
    params, losses = jax.tree.map(np.asarray, trajectory(update, state, xs, ys)[1])
    for at, (x, y) in enumerate(zip(xs.astype(np.float64), ys, strict=True)):
        layers, loss = restated_step(layers, x, y)
        if at + 1 in CHECKED_STEPS:
            tolerance = tolerances[CHECKED_STEPS.index(at + 1)]
            near(restated(jax.tree.map(itemgetter(at), params)), layers, tolerance)
            np.testing.assert_allclose(losses[at], loss, rtol=tolerance, atol=tolerance)


def follow_mf(depth, input_readout, optimiser, schedule, dtype, tolerances):
    tx, descend = OPTIMISERS[optimiser]
    state = start(mf, nets.mlp(WIDTHS[:depth]), (INPUTS,), dtype, tx, input_readout=input_readout)
    layers = restated(state.params)
    memories = [{} for _ in layers]
    for only in [None] if schedule == "simultaneous" else range(len(layers)):
        layer = None if only is None else only + 1 - input_readout
        assert_follows(
            update_of(mf, WIDTHS[:depth], optimiser, layer=layer),
            lambda layers, x, y, only=only: reference.mf.step(layers, x, y, descend, memories, only),
            state,
            layers,
            tolerances,
        )
        # The next stage starts from a state of its own, so that its tolerance is not the sum of all before.


# --- the worked example of the reference sheet -----------------------------------------------------------------------

EXAMPLE = {
    "x": np.array([[1, 2, -1], [0.5, -1, 2]]),
    "y": np.array([0, 2]),
    "W": np.array([[((3 * j + 2 * k) % 7 - 3) / 4 for k in range(4)] for j in range(3)]),
    "b": np.array([0.1, -0.1, 0.2, 0]),
    "M": np.array([[((2 * c + 3 * k) % 5 - 2) / 3 for k in range(4)] for c in range(3)]),
}
EXAMPLE_Z = [[-1.40, 1.15, -1.05, -0.25], [1.225, -1.725, 1.075, 1.625]]
EXAMPLE_G = [[0.383333, -0.766667, 0.000000], [-0.091667, -0.183333, 0.641667]]
EXAMPLE_P = [[0.500445, 0.158459, 0.341096], [0.250349, 0.228421, 0.521230]]
EXAMPLE_LOSS = 0.6719113181
EXAMPLE_GRADIENT = {
    "M": [
        [0.153339, -0.287244, 0.134563, 0.203409],
        [0.139908, 0.091114, 0.122776, 0.185592],
        [-0.293247, 0.196130, -0.257339, -0.389001],
    ],
    "W": [
        [-0.121520, -0.136079, 0.077968, -0.017208],
        [0.243040, -0.272158, -0.155935, 0.034415],
        [-0.486080, 0.136079, 0.311871, -0.068831],
    ],
    "b": [-0.243040, -0.136079, 0.155935, -0.034415],
}
HALF_A_DIGIT = 5.1e-7


def test_worked_example(float64, key):
    net, batch = nets.mlp([4]), Batch(jnp.asarray(EXAMPLE["x"]), jnp.asarray(EXAMPLE["y"]))
    block = {"params": {"Dense_0": {"kernel": jnp.asarray(EXAMPLE["W"]), "bias": jnp.asarray(EXAMPLE["b"])}}}
    params = (mf.Layer(block, jnp.asarray(EXAMPLE["M"])),)
    gradient, metrics = mf.grads(params, batch, key, net=net)
    scores = mf.predict(mf.State(params, ()), batch.x, net=net)
    np.testing.assert_allclose(net[0].apply(block, batch.x), np.maximum(EXAMPLE_Z, 0), atol=1e-12)
    np.testing.assert_allclose(scores, EXAMPLE_G, atol=HALF_A_DIGIT)
    np.testing.assert_allclose(jax.nn.softmax(scores), EXAMPLE_P, atol=HALF_A_DIGIT)
    np.testing.assert_allclose(metrics["loss"], EXAMPLE_LOSS, atol=5.1e-11)
    for name, expected in EXAMPLE_GRADIENT.items():
        np.testing.assert_allclose(restated(gradient)[0][name], expected, atol=HALF_A_DIGIT, err_msg=name)


def test_worked_example_of_the_restatement():
    layer = {name: EXAMPLE[name] for name in "WbM"}
    loss, gradient, _ = reference.mf.local_gradient(layer, EXAMPLE["x"], EXAMPLE["y"])
    np.testing.assert_allclose(reference.mf.block(layer, EXAMPLE["x"])[1][1], EXAMPLE_Z, atol=1e-12)
    np.testing.assert_allclose(loss, EXAMPLE_LOSS, atol=5.1e-11)
    for name, expected in EXAMPLE_GRADIENT.items():
        np.testing.assert_allclose(gradient[name], expected, atol=HALF_A_DIGIT, err_msg=name)


# --- restatements ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "input_readout", "optimiser"),
    [
        (1, False, "sgd"),
        (1, True, "adam"),
        (2, False, "adam"),
        (2, True, "sgd"),
        (3, False, "sgd"),
        (3, False, "adam"),
        (3, True, "sgd"),
        (3, True, "adam"),
    ],
)
@pytest.mark.parametrize("schedule", ["simultaneous", "greedy"])
def test_mf_equals_the_restatement_in_float64(float64, schedule, depth, input_readout, optimiser):
    follow_mf(depth, input_readout, optimiser, schedule, np.float64, [FLOAT64_TOLERANCE] * 3)


@pytest.mark.parametrize(
    ("schedule", "optimiser"), [("simultaneous", "sgd"), ("simultaneous", "adam"), ("greedy", "adam")]
)
def test_mf_equals_the_restatement_in_float32(schedule, optimiser):
    # A step rounds by 6e-8. A hundred steps add these errors up; Adam divides by sqrt(v) and so magnifies those of
    # entries whose gradient is small.
    follow_mf(3, True, optimiser, schedule, np.float32, [1e-5, 1e-5, 1e-3])


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize(
    ("dtype", "depth"),
    [(np.float64, 1), (np.float64, 2), (np.float64, 3), (np.float32, 3)],
    ids=["float64-1", "float64-2", "float64-3", "float32-3"],
)
def test_bp_equals_the_restatement(float64, dtype, depth, optimiser):
    tx, descend = OPTIMISERS[optimiser]
    state = start(bp, nets.mlp(WIDTHS[:depth]), (INPUTS,), dtype, tx)
    memories = [{} for _ in range(depth + 1)]
    assert_follows(
        update_of(bp, WIDTHS[:depth], optimiser),
        lambda layers, x, y: reference.bp.step(layers, x, y, descend, memories),
        state,
        restated(state.params),
        [FLOAT64_TOLERANCE] * 3 if dtype is np.float64 else [1e-5, 1e-5, 1e-3],
    )


@pytest.mark.parametrize(
    ("optimiser", "shape"), [("sgd", (6, 4, 2)), ("adam", (5, 7, 1))], ids=["sgd_even", "adam_odd"]
)
@pytest.mark.parametrize("module", [mf, bp], ids=["mf", "bp"])
def test_a_convolutional_step_equals_the_restatement(float64, key, module, optimiser, shape):
    tx, descend = OPTIMISERS[optimiser]
    net = nets.cnn([2, 3])
    state = start(module, net, shape, np.float64, tx)
    (x,), (y,) = problem(shape, np.float64)
    layers = restated(state.params)
    restatement = reference.mf if module is mf else reference.bp
    expected, loss = restatement.step(layers, x, y, descend, [{} for _ in layers])
    stepped, metrics = jax.jit(partial(module.update, net=net, tx=tx))(state, Batch(x, y), key)
    near(restated(stepped.params), expected, FLOAT64_TOLERANCE)
    np.testing.assert_allclose(metrics.get("layer_loss", metrics["loss"]), loss, rtol=FLOAT64_TOLERANCE)


@pytest.mark.parametrize("net", [nets.mlp(WIDTHS), nets.cnn([2, 3, 2])], ids=["mlp", "cnn"])
def test_both_predictions_equal_the_restatement(float64, net):
    shape = (8, 9, 2)
    state = start(mf, net, shape, np.float64, input_readout=True)
    (x,), _ = problem(shape, np.float64)
    layers, seen = restated(state.params), []
    for options in [("last", False), ("sum", False), ("sum", True)]:
        scores = mf.predict(state, jnp.asarray(x), net=net, prediction=options[0], sum_includes_input=options[1])
        np.testing.assert_allclose(scores, reference.mf.predict(layers, x, *options), rtol=FLOAT64_TOLERANCE)
        seen.append(np.asarray(scores))
    assert differ(seen[0], seen[1])
    assert differ(seen[1], seen[2])


def test_control_updating_the_readout_first_is_another_rule(float64, key):
    net, tx = nets.mlp(WIDTHS), optax.sgd(0.1)
    state = start(mf, net, (INPUTS,), np.float64, tx)
    (x,), (y,) = problem((INPUTS,), np.float64)
    gradient = restated(mf.grads(state.params, Batch(jnp.asarray(x), jnp.asarray(y)), key, net=net)[0])
    layer = restated(state.params)[0]
    own = reference.mf.local_gradient(layer, x, y)[1]
    seidel = reference.mf.local_gradient(layer | {"M": layer["M"] - 0.1 * own["M"]}, x, y)[1]
    near(gradient[:1], [own], FLOAT64_TOLERANCE)
    assert differ(gradient[0]["W"], seidel["W"], by=1e-4)


def test_bp_gradients_equal_jax_grad_of_a_loss_written_anew(float64, key):
    net = nets.mlp(WIDTHS)
    params = start(bp, net, (INPUTS,), np.float64).params
    (x,), (y,) = problem((INPUTS,), np.float64)

    def loss(layers):
        a = jnp.asarray(x)
        for layer in layers[:-1]:
            a = jnp.maximum(jnp.einsum("bi,io->bo", a, layer["W"]) + layer["b"][None], 0)
        scores = jnp.einsum("bi,ic->bc", a, layers[-1]["W"]) + layers[-1]["b"][None]
        right = scores[jnp.arange(len(y)), y]
        return (jnp.log(jnp.exp(scores).sum(1)) - right).sum() / len(y)

    gradient, metrics = bp.grads(params, Batch(jnp.asarray(x), jnp.asarray(y)), key, net=net)
    expected_loss, expected = jax.value_and_grad(loss)(restated(params))
    np.testing.assert_allclose(metrics["loss"], expected_loss, rtol=1e-12)
    near(restated(gradient), [{k: np.asarray(a) for k, a in layer.items()} for layer in expected], 1e-12)


# --- the ladder from BP to MF ----------------------------------------------------------------------------------------

WEIGHT = 0.7  # of the auxiliary losses; not 1, so that where it is applied shows
RUNGS = {
    "mf_joint": (
        mf,
        {"gradient": "joint", "auxiliary_weight": WEIGHT},
        partial(reference.ladder.mf_joint, weight=WEIGHT),
    ),
    "bp_ds": (bp, {"readouts": "deep", "auxiliary_weight": WEIGHT}, partial(reference.ladder.bp_ds, weight=WEIGHT)),
    "bp_sum": (bp, {"readouts": "sum"}, reference.ladder.bp_sum),
}


def rung(name, net, shape, dtype=np.float64, tx=None, **start_options):
    """A state for a rung, the options of its update and its restatement."""
    module, options, restatement = RUNGS[name]
    start_options |= {what: options[what] for what in ("readouts",) if what in options}
    return start(module, net, shape, dtype, tx, **start_options), options, restatement


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize(
    ("name", "dtype", "depth", "input_readout"),
    [
        ("mf_joint", np.float64, 1, False),
        ("mf_joint", np.float64, 3, False),
        ("mf_joint", np.float64, 3, True),
        ("mf_joint", np.float32, 3, True),
        ("bp_ds", np.float64, 1, False),
        ("bp_ds", np.float64, 3, False),
        ("bp_ds", np.float32, 3, False),
        ("bp_sum", np.float64, 1, False),
        ("bp_sum", np.float64, 3, False),
    ],
)
def test_a_rung_equals_the_restatement(float64, name, dtype, depth, input_readout, optimiser):
    tx, descend = OPTIMISERS[optimiser]
    more = {"input_readout": True} if input_readout else {}
    state, options, restatement = rung(name, nets.mlp(WIDTHS[:depth]), (INPUTS,), dtype, tx, **more)
    layers = restated(state.params)
    memories = [{} for _ in layers]
    assert_follows(
        update_of(RUNGS[name][0], WIDTHS[:depth], optimiser, **options),
        lambda layers, x, y: reference.ladder.step(restatement, layers, x, y, descend, memories),
        state,
        layers,
        [FLOAT64_TOLERANCE] * 3 if dtype is np.float64 else [1e-5, 1e-5, 1e-3],
    )


@pytest.mark.parametrize("name", RUNGS)
def test_a_convolutional_step_of_a_rung_equals_the_restatement(float64, key, name):
    (tx, descend), net, shape = OPTIMISERS["sgd"], nets.cnn([2, 3]), (6, 5, 2)
    state, options, restatement = rung(name, net, shape, tx=tx)
    (x,), (y,) = problem(shape, np.float64)
    layers = restated(state.params)
    expected, loss = reference.ladder.step(restatement, layers, x, y, descend, [{} for _ in layers])
    update = jax.jit(partial(RUNGS[name][0].update, net=net, tx=tx, **options))
    stepped, metrics = update(state, Batch(jnp.asarray(x), jnp.asarray(y)), key)
    near(restated(stepped.params), expected, FLOAT64_TOLERANCE)
    np.testing.assert_allclose(metrics.get("layer_loss", metrics["loss"]), loss, rtol=FLOAT64_TOLERANCE)


@pytest.mark.parametrize("name", RUNGS)
def test_a_rungs_gradient_equals_jax_grad_of_its_loss_written_anew(float64, key, name):
    net = nets.mlp(WIDTHS)
    state, options, _ = rung(name, net, (INPUTS,))
    (x,), (y,) = problem((INPUTS,), np.float64)

    def mean_loss(scores):
        return (jnp.log(jnp.exp(scores).sum(1)) - scores[jnp.arange(len(y)), y]).sum() / len(y)

    def loss(layers):
        a, local = jnp.asarray(x), []
        for layer in layers[: len(net)]:
            a = jnp.maximum(jnp.einsum("bi,io->bo", a, layer["W"]) + layer["b"][None], 0)
            local.append(jnp.einsum("bi,ci->bc", a, layer["M"]))
        if name == "mf_joint":
            *others, last = map(mean_loss, local)
            return last + WEIGHT * (others[0] + others[1])
        s = jnp.einsum("bi,ic->bc", a, layers[-1]["W"]) + layers[-1]["b"][None]
        if name == "bp_sum":
            return mean_loss(s + local[0] + local[1] + local[2])
        return mean_loss(s) + WEIGHT * (mean_loss(local[0]) + mean_loss(local[1]) + mean_loss(local[2]))

    module = RUNGS[name][0]
    gradient, metrics = module.grads(state.params, Batch(jnp.asarray(x), jnp.asarray(y)), key, net=net, **options)
    expected_loss, expected = jax.value_and_grad(loss)(restated(state.params))
    np.testing.assert_allclose(metrics["loss"], expected_loss, rtol=1e-12)  # the weighted one
    near(restated(gradient), [{k: np.asarray(a) for k, a in layer.items()} for layer in expected], 1e-12)


def test_frozen_hidden_layers_keep_every_bit_and_the_output_layer_learns_as_bp_s(float64, key):
    """Under a weight decay, too; the gradient of the output layer is BP's, restated."""
    net, tx, batch = nets.mlp(WIDTHS), optax.adamw(0.1, weight_decay=0.5), problem((INPUTS,), np.float64)
    (x,), (y,) = batch
    batch = Batch(jnp.asarray(x), jnp.asarray(y))
    frozen, trained = (bp.rule(net, tx, num_classes=CLASSES, hidden=how) for how in ("frozen", "trained"))
    params = start(bp, net, (INPUTS,), np.float64).params
    state = bp.State(params, tx.init(params._replace(blocks=())))
    loss, expected = reference.bp.gradients(restated(params), x, y)
    found, metrics = frozen.grads(state, batch, key)
    near([{"W": np.asarray(found.W), "b": np.asarray(found.b)}], expected[-1:], FLOAT64_TOLERANCE)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=FLOAT64_TOLERANCE)
    assert found.blocks == (None,) * len(net)
    after, _ = frozen.update(state, batch, key)
    kept, _ = frozen.frozen.update(state, Batch(frozen.frozen.features(state, batch.x), batch.y), key)
    whole, _ = trained.update(bp.State(params, tx.init(params)), batch, key)
    assert not differ(list(after.params.blocks), list(params.blocks), by=0)
    np.testing.assert_allclose(after.params.W, whole.params.W, rtol=1e-12)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-13), kept, after)
    assert differ(list(whole.params.blocks), list(params.blocks))  # the control
    np.testing.assert_allclose(
        frozen.frozen.validate(after, frozen.frozen.features(after, batch.x)),
        frozen.predict(after, batch.x),
        rtol=1e-12,
    )


def moving(statistics):
    """Running (mean, variance) of every block."""
    return tuple((known["statistics"]["mean"], known["statistics"]["var"]) for known in statistics)


def normalised_loss(params, x, y, statistics=None):
    """Batch-normalised BP in float64 NumPy: the loss, the scores and the statistics of the batch."""
    a, found = x, []
    for at, block in enumerate(params.blocks):
        dense, gamma, beta = (block["params"][name] for name in ("block", "gamma", "beta"))
        own = {name: np.asarray(value) for name, value in dense["params"]["Dense_0"].items()}
        h = np.maximum(a @ own["kernel"] + own["bias"], 0)
        found.append((h.mean(0), ((h - h.mean(0)) ** 2).mean(0)))
        mean, var = found[-1] if statistics is None else map(np.asarray, moving(statistics)[at])
        a = np.asarray(gamma) * (h - mean) / np.sqrt(var + 1e-5) + np.asarray(beta)
    s = a @ np.asarray(params.W) + np.asarray(params.b)
    right = s[np.arange(len(y)), y]
    return (np.log(np.exp(s).sum(1)) - right).mean(), s, found


def test_batch_normalised_bp_equals_the_restatement_by_differences(float64, key):
    """The gradient of every array along a random direction; running statistics, and predictions from them."""
    net, tx = nets.mlp(WIDTHS), optax.sgd(0.1)
    rule = bp.rule(net, tx, num_classes=CLASSES, batch_norm=True)
    (x,), (y,) = problem((INPUTS,), np.float64)
    batch = Batch(jnp.asarray(x), jnp.asarray(y))
    state = rule.init(key, batch.x)
    assert [leaf.shape for leaf in jax.tree.leaves(state.statistics)] == [(w,) for w in WIDTHS for _ in "mv"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), state.params)
    state = bp.State(params, tx.init(params), jax.tree.map(lambda a: a + 0.5, state.statistics))
    found, metrics = rule.grads(state, batch, key)
    loss, _, moments = normalised_loss(params, x, y)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-12)
    leaves, shape = jax.tree.flatten(params)
    for at, gradient in enumerate(jax.tree.leaves(found)):
        d = 1e-6 * rng.normal(size=gradient.shape)
        ends = [jax.tree.unflatten(shape, [*leaves[:at], leaves[at] + sign * d, *leaves[at + 1 :]]) for sign in (1, -1)]
        up, down = (normalised_loss(end, x, y)[0] for end in ends)
        np.testing.assert_allclose((gradient * d).sum(), (up - down) / 2, rtol=1e-5, atol=1e-12)
    stepped, _ = rule.update(state, batch, key)
    want = [tuple(0.9 * (0.5 + at) + 0.1 * new for at, new in enumerate(pair)) for pair in moments]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), list(moving(stepped.statistics)), want)
    scores = normalised_loss(stepped.params, x, y, stepped.statistics)[1]
    np.testing.assert_allclose(rule.predict(stepped, batch.x), scores, rtol=1e-10, atol=1e-12)
    assert differ(rule.predict(stepped._replace(statistics=state.statistics), batch.x), scores)  # the control


def test_the_twin_of_cascaded_forward_has_the_parameters_of_its_source():
    """arXiv 2509.19063, BP on MNIST: convolutions 32-128-512 without bias, each with batch norm, and one layer."""
    net = nets.cnn([32, 128, 512], pool="max", bias="none")
    rule = bp.rule(net, optax.sgd(0.1), num_classes=10, batch_norm=True)
    state = jax.eval_shape(rule.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 674_410


def test_without_weight_deep_supervision_is_bp_and_its_readouts_rest(dense, key):
    net, _, batch = dense
    params = start(bp, net, (INPUTS,), np.float64, readouts="deep").params
    plain, _ = bp.grads(params._replace(M=None), batch, key, net=net)
    for weight, equal in [(0.0, True), (WEIGHT, False)]:
        deep, _ = bp.grads(params, batch, key, net=net, readouts="deep", auxiliary_weight=weight)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-13), (deep.W, deep.b), (plain.W, plain.b))
        assert differ(deep.blocks, plain.blocks, by=1e-14) != equal
        assert differ(deep.M, jax.tree.map(jnp.zeros_like, deep.M), by=0) != equal


def test_without_weight_mf_joint_is_bp_with_the_last_readout_as_its_output_layer(dense, key):
    net, state, batch = dense
    twin = bp.Params(tuple(layer.block for layer in state.params), state.params[-1].M.T, None)
    plain, metrics = bp.grads(twin, batch, key, net=net)
    for weight, equal in [(0.0, True), (WEIGHT, False)]:
        joint, found = mf.grads(state.params, batch, key, net=net, gradient="joint", auxiliary_weight=weight)
        np.testing.assert_allclose(joint[-1].M.T, plain.W, atol=1e-14)
        assert differ([layer.block for layer in joint], list(plain.blocks), by=1e-14) != equal
        assert any(layer.M.any() for layer in joint[:-1]) != equal
        assert (abs(found["loss"] - metrics["loss"]) < 1e-14) == equal


def test_with_weight_one_the_detached_hand_over_alone_tells_mf_from_mf_joint(dense, key):
    net, state, batch = dense
    local, found = mf.grads(state.params, batch, key, net=net)
    joint, metrics = mf.grads(state.params, batch, key, net=net, gradient="joint")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-14), found, metrics)
    near([layer.M for layer in joint], [layer.M for layer in local], 1e-13)
    near(restated(joint)[-1], restated(local)[-1], 1e-13)
    assert all(differ(*pair, by=1e-4) for pair in zip(joint[:-1], local[:-1], strict=True))
    assert mf.predict(state, batch.x, net=net).shape == (BATCH, CLASSES)


def test_one_layer_with_summed_readouts_is_bp_whose_output_weights_are_the_sum(float64, key):
    net = nets.mlp(WIDTHS[:1])
    params = start(bp, net, (INPUTS,), np.float64, readouts="sum").params
    (x,), (y,) = problem((INPUTS,), np.float64)
    batch = Batch(jnp.asarray(x), jnp.asarray(y))
    merged = params._replace(W=params.W + params.M[0].T, M=None)
    both, metrics = bp.grads(params, batch, key, net=net, readouts="sum")
    one, expected = bp.grads(merged, batch, key, net=net)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-13)
    np.testing.assert_allclose(both.M[0].T, one.W, atol=1e-14)
    near(both._replace(M=None), one, 1e-13)
    assert differ(one, bp.grads(params._replace(M=None), batch, key, net=net)[0])


def test_what_the_rungs_predict_with(float64):
    net = nets.mlp(WIDTHS)
    (x,), _ = problem((INPUTS,), np.float64)
    state = start(bp, net, (INPUTS,), np.float64, readouts="sum")
    scores = {
        how: np.asarray(bp.predict(state, jnp.asarray(x), net=net, readouts=how)) for how in ("output", "deep", "sum")
    }
    plain = state._replace(params=state.params._replace(M=None))
    np.testing.assert_array_equal(scores["output"], bp.predict(plain, jnp.asarray(x), net=net))
    np.testing.assert_array_equal(scores["deep"], scores["output"])
    np.testing.assert_allclose(scores["sum"], reference.ladder.summed_scores(restated(state.params), x), rtol=1e-12)
    assert differ(scores["sum"], scores["output"])
    for how, expected in scores.items():  # and as `rule` binds them
        rule = bp.rule(net, optax.sgd(1), num_classes=CLASSES, readouts=how)
        np.testing.assert_array_equal(rule.predict(state, jnp.asarray(x)), expected)


@pytest.mark.parametrize("net", [nets.mlp(WIDTHS), nets.cnn([2, 3])], ids=["mlp", "cnn"])
def test_rungs_start_where_bp_and_mf_start_with_the_same_key(key, net):
    options = {"net": net, "tx": optax.sgd(1), "num_classes": CLASSES}
    x = jnp.ones((1, 8, 9, 1))
    plain, local = (module.init(key, x, **options).params for module in (bp, mf))
    assert plain.M is None
    for how in ("deep", "sum"):
        params = bp.init(key, x, readouts=how, **options).params
        jax.tree.map(np.testing.assert_array_equal, params._replace(M=None), plain)
        jax.tree.map(np.testing.assert_array_equal, list(params.M), [layer.M for layer in local])
        assert len(params.M) == len(net)


# --- start values ----------------------------------------------------------------------------------------------------


def test_start_values_have_the_published_distributions(key):
    x, net = jnp.ones((1, 100)), nets.mlp([400, 200])
    mf_params = mf.init(key, x, net=net, tx=optax.sgd(1), num_classes=10, input_readout=True).params
    bp_params = bp.init(key, x, net=net, tx=optax.sgd(1), num_classes=10).params
    layers = restated(mf_params)
    assert [sorted(layer) for layer in layers] == [["M"], ["M", "W", "b"], ["M", "W", "b"]]
    for layer, fan_in, width in zip(layers, (None, 100, 400), (100, 400, 200), strict=True):
        bounds = {"M": 1 / math.sqrt(width)} | ({"W": math.sqrt(6 / fan_in)} if fan_in else {})
        for name, bound in bounds.items():  # uniform on +-bound: variance bound^2 / 3
            scaled = layer[name] / bound
            assert 0.99 < np.abs(scaled).max() <= 1 + 1e-6
            np.testing.assert_allclose(scaled.var(), 1 / 3, rtol=0.1)
        assert not layer.get("b", np.zeros(1)).any()
    assert not bp_params.b.any()
    np.testing.assert_allclose(bp_params.W.std(), 0.01, rtol=0.1)


@pytest.mark.parametrize(
    ("inputs", "widths", "classes", "published"),
    [(784, [1000] * 2, 10, 1_823_850), (3072, [2000] * 3, 10, 14_260_730), (3072, [2000] * 3, 100, 15_257_300)],
)
def test_parameter_counts_equal_the_published_logs(key, inputs, widths, classes, published):
    make = partial(mf.init, net=nets.mlp(widths), tx=optax.sgd(1), num_classes=classes, input_readout=True)
    state = jax.eval_shape(make, key, jax.ShapeDtypeStruct((1, inputs), jnp.float32))
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert count + widths[-1] * classes + classes == published  # the logs count the unused output layer too


@pytest.mark.parametrize("classes", [10, 100])
def test_losses_start_near_the_logarithm_of_the_number_of_classes(key, classes):
    x = jax.random.normal(key, (200, 784))
    batch = Batch(x, jnp.arange(200) % classes)
    options = {"net": nets.mlp([1000]), "tx": optax.sgd(1), "num_classes": classes}
    (layer,) = mf.init(key, x, **options).params

    twin = bp.init(key, x, **options).params

    def excess(module, params):
        return module.grads(params, batch, key, net=options["net"])[1]["loss"] - math.log(classes)

    def expected(variance):  # of scores that know nothing of the label, to second order
        return variance / 2 * (1 - 1 / classes)

    # x is standard normal, so Var z = 784 (6/784)/3 = 2 and E a^2 = 1; MF's scores then have the variance
    # 1000 (1/1000)/3 and BP's 1000 / 100^2.
    assert abs(excess(mf, (layer,)) - expected(1 / 3)) < 0.05
    assert abs(excess(bp, twin) - expected(1 / 10)) < 0.05
    standard_normal = layer._replace(M=jax.random.normal(key, layer.M.shape))  # the control: another replica's start
    assert excess(mf, (standard_normal,)) > 1


# --- identities ------------------------------------------------------------------------------------------------------


@pytest.fixture
def dense(float64):
    """A net, its MF state under SGD, and one batch, in float64."""
    net = nets.mlp(WIDTHS)
    (x,), (y,) = problem((INPUTS,), np.float64)
    return net, start(mf, net, (INPUTS,), np.float64), Batch(jnp.asarray(x), jnp.asarray(y))


def summed_losses(params, batch, net, hand_over):
    """The sum of all local losses; ``hand_over`` is applied to what a layer passes on."""
    a, total = batch.x, 0.0
    for block, layer in zip(net, params, strict=True):
        a = block.apply(layer.block, hand_over(a))
        scores = a.reshape(len(a), -1) @ layer.M.T
        total += optax.softmax_cross_entropy_with_integer_labels(scores, batch.y).mean()
    return total


def test_local_gradients_are_the_gradient_of_the_sum_with_stopped_hand_overs_bit_for_bit(dense, key):
    net, state, batch = dense
    local = mf.grads(state.params, batch, key, net=net)[0]
    stopped = jax.grad(summed_losses)(state.params, batch, net, jax.lax.stop_gradient)
    joint = jax.grad(summed_losses)(state.params, batch, net, lambda a: a)
    jax.tree.map(np.testing.assert_array_equal, local, stopped)
    assert differ(local, joint)


def test_one_layer_is_back_propagation_with_a_bias_free_output_layer(float64, key):
    (x,), (y,) = problem((INPUTS,), np.float64)
    batch = Batch(jnp.asarray(x), jnp.asarray(y))
    for depth, equal in [(1, True), (2, False)]:
        net = nets.mlp(WIDTHS[:depth])
        params = start(mf, net, (INPUTS,), np.float64).params
        twin = bp.Params(tuple(layer.block for layer in params), params[-1].M.T, jnp.zeros(CLASSES))
        local, metrics = mf.grads(params, batch, key, net=net)
        glob, twin_metrics = bp.grads(twin, batch, key, net=net)
        np.testing.assert_allclose(metrics["layer_loss"][-1], twin_metrics["loss"], rtol=1e-14)
        np.testing.assert_allclose(local[-1].M.T, glob.W, atol=1e-14)
        near([weights(local[-1].block)], [weights(glob.blocks[-1])], 1e-13)
        assert differ(local[0].block, glob.blocks[0]) != equal


@pytest.mark.parametrize(("optimiser", "conserved"), [("sgd", True), ("adam", False)])
def test_sgd_conserves_the_sum_of_each_readout_over_classes(float64, optimiser, conserved):
    state = start(mf, nets.mlp(WIDTHS), (INPUTS,), np.float64, OPTIMISERS[optimiser][0], input_readout=True)
    update = update_of(mf, WIDTHS, optimiser, layer=None)
    after, _ = trajectory(update, state, *problem((INPUTS,), np.float64, 100))
    for old, new in zip(state.params, after.params, strict=True):
        assert differ(old.M, new.M, by=1e-2)
        assert (np.abs(old.M.sum(0) - new.M.sum(0)).max() < 1e-13) == conserved


def test_a_constant_on_all_scores_of_a_sample_changes_nothing(dense, key):
    net, state, batch = dense
    shift = jnp.asarray(np.random.default_rng(2).normal(size=3))

    def shifted(rows):  # a sample's scores grow by shift . a_L, in the classes `rows`
        last = state.params[-1]
        return (*state.params[:-1], last._replace(M=last.M.at[rows].add(shift[None])))

    gradient, metrics = mf.grads(state.params, batch, key, net=net)
    same, same_metrics = mf.grads(shifted(jnp.arange(CLASSES)), batch, key, net=net)
    other, other_metrics = mf.grads(shifted(jnp.arange(1)), batch, key, net=net)
    np.testing.assert_allclose(same_metrics["layer_loss"], metrics["layer_loss"], rtol=1e-13)
    near(restated(same), restated(gradient), 1e-12)
    assert differ(other, gradient)
    assert differ(other_metrics, metrics)


def test_permuting_hidden_units_permutes_the_whole_trajectory(float64):
    tx = OPTIMISERS["adam"][0]
    state = start(mf, nets.mlp(WIDTHS), (INPUTS,), np.float64, tx)
    order = np.array([3, 0, 4, 1, 2])  # of the 5 units of layer 1

    def permuted(params, rows=order):
        first, second, *rest = params
        one, two = first.block["params"]["Dense_0"], second.block["params"]["Dense_0"]
        one = {"kernel": one["kernel"][:, order], "bias": one["bias"][order]}
        two = {**two, "kernel": two["kernel"][rows]}
        first = mf.Layer({"params": {"Dense_0": one}}, first.M[:, order])
        return (first, second._replace(block={"params": {"Dense_0": two}}), *rest)

    def final(params):
        state, update = mf.State(params, tuple(map(tx.init, params))), update_of(mf, WIDTHS, "adam", layer=None)
        return trajectory(update, state, *problem((INPUTS,), np.float64, 100))[0].params

    end = final(state.params)
    near(restated(final(permuted(state.params))), restated(permuted(end)), 1e-11)
    assert differ(final(permuted(state.params, rows=np.arange(5))), permuted(end))


def test_simultaneous_with_rate_zero_elsewhere_is_the_greedy_stage(float64):
    simultaneous = update_of(mf, WIDTHS, "adam", layer=None)
    begin = start(mf, nets.mlp(WIDTHS), (INPUTS,), np.float64, OPTIMISERS["adam"][0])
    batches = problem((INPUTS,), np.float64, 100)

    @jax.jit
    def train(rates):  # a factor on the step of each layer
        def step(state, xy):
            new, _ = simultaneous(state, Batch(*xy), jax.random.key(0))
            pairs = zip(rates, new.params, state.params, strict=True)
            kept = [jax.tree.map(partial(jnp.where, rate > 0), *two) for rate, *two in pairs]
            return new._replace(params=tuple(kept)), None

        return jax.lax.scan(step, begin, batches)[0].params

    everything = train(jnp.ones(3))
    for layer in (1, 2, 3):
        frozen = train(jnp.eye(3)[layer - 1])
        greedy = trajectory(update_of(mf, WIDTHS, "adam", layer=layer), begin, *batches)[0].params
        near(restated(greedy), restated(frozen), 1e-11)
        assert differ(greedy, begin.params)
        assert differ(everything[layer - 1], greedy[layer - 1]) == (layer > 1)  # layer 1 has no layer below


@pytest.mark.parametrize("net", [nets.mlp(WIDTHS), nets.cnn([2, 3])], ids=["mlp", "cnn"])
def test_the_input_readout_changes_no_bit_of_the_layers(net):
    shape, tx = (6, 6, 1), optax.adam(0.01)
    batches = problem(shape, np.float32, 10)
    without, with_input = (
        mf.init(jax.random.key(3), jnp.ones((1, *shape)), net=net, tx=tx, num_classes=CLASSES, input_readout=on)
        for on in (False, True)
    )
    ends = [trajectory(partial(mf.update, net=net, tx=tx), state, *batches)[0] for state in (without, with_input)]
    jax.tree.map(np.testing.assert_array_equal, ends[0].params, ends[1].params[1:])
    jax.tree.map(np.testing.assert_array_equal, ends[0].opt_state, ends[1].opt_state[1:])
    assert differ(with_input.params[0], ends[1].params[0])  # while M_0 itself learns


# --- controls --------------------------------------------------------------------------------------------------------


def test_zero_readouts_send_no_error_into_the_blocks(dense, key):
    net, state, batch = dense
    silent = tuple(layer._replace(M=0 * layer.M) for layer in state.params)
    for layer, loud in zip(*(mf.grads(p, batch, key, net=net)[0] for p in (silent, state.params)), strict=True):
        assert not any(leaf.any() for leaf in jax.tree.leaves(layer.block))
        assert layer.M.any()
        assert all(leaf.any() for leaf in jax.tree.leaves(loud))


def blobs(steps, seed):
    """Four noisy clusters in eight dimensions: learnable, though not by the first features alone."""
    rng = np.random.default_rng(seed)
    centres = 1.5 * np.random.default_rng(99).normal(size=(4, 8))
    y = rng.integers(0, 4, size=(steps, 32))
    return (centres[y] + rng.normal(size=(steps, 32, 8))).astype(np.float32), y.astype(np.int32)


@pytest.fixture(scope="module")
def learnt():
    """A net, its start and the states after 200 steps as they should be and with frozen readouts."""
    net, tx = nets.mlp([16, 16]), optax.adam(0.01)
    state = mf.init(jax.random.key(0), jnp.ones((1, 8)), net=net, tx=tx, num_classes=4)

    def frozen_readouts(state, batch, key):
        new, metrics = mf.update(state, batch, key, net=net, tx=tx)
        pairs = zip(new.params, state.params, strict=True)
        return new._replace(params=tuple(n._replace(M=old.M) for n, old in pairs)), metrics

    runs = (trajectory(f, state, *blobs(200, 1)) for f in (partial(mf.update, net=net, tx=tx), frozen_readouts))
    return net, *((state, losses) for state, (_, losses) in runs)


def test_frozen_readouts_still_train_but_differently(learnt):
    _, (normal, normal_loss), (frozen, frozen_loss) = learnt
    for losses in (normal_loss, frozen_loss):
        assert (losses[-20:].mean(0) < 0.7 * losses[:5].mean(0)).all()
    assert differ([layer.block for layer in normal.params], [layer.block for layer in frozen.params], by=1e-2)


def test_the_two_predictions_disagree_on_some_samples(learnt):
    net, (state, _), _ = learnt
    x = jnp.asarray(blobs(20, 2)[0].reshape(-1, 8))
    last, total = (mf.predict(state, x, net=net, prediction=mode).argmax(1) for mode in ("last", "sum"))
    assert 0 < (last != total).mean() < 0.2


def test_every_rule_has_a_restatement():
    assert set(fwdonly.RULES) <= {path.stem for path in Path(reference.mf.__file__).parent.glob("*.py")}
