"""Networks that people have: running statistics, noise, other libraries' modules, and parts that a block declares.

The oracle is Flax (or NNX, Equinox) itself, asked directly, and NumPy.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import fwdonly
from fwdonly import RULES, Batch, Plan, UsageError, bp, cafo, cwc, measure, mf, nets
from fwdonly.measure import angles

CLASSES, TX = 3, optax.sgd(0.1)
KEY = jax.random.key(5)
X = jax.random.normal(jax.random.key(1), (12, 5))
BATCH = Batch(X, jnp.arange(12) % CLASSES)


class Noisy(nn.Module):
    """A user's own layer, as Flax's guide writes it."""

    width: int

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(self.width)(x))
        return nn.relu(nn.Dropout(0.5, deterministic=not train)(x))


class Counted(nn.Module):
    """Counts its training steps in an integer beside its parameters."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        count = self.variable("counts", "steps", lambda: jnp.zeros((), jnp.int32))
        if train:
            count.value += 1
        return nn.relu(nn.Dense(6)(x))


NET = (Noisy(6), Noisy(9))
TAKE = {"bp": {}, "mf": {}, "ff": {}, "cwc": {}, "deeperforward": {}, "cafo": {"part": "blocks", "block_tx": TX}}
TAKE |= {"forward_gradient": {"perturb": "weights"}, "zeroth_order": {}}
"""Rules that take blocks with statistics and noise, with the form that trains the blocks."""


def differ(a, b):
    return any(not np.allclose(x, y, atol=1e-5) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def near(a, b, tol=1e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=10 * tol, atol=tol), a, b)


def in_training(block, params, known, x, i):
    """Flax itself, in training: the output and what it does to the statistics."""
    noise = {"dropout": jax.random.fold_in(KEY, i)}
    return block.apply({**params, **known}, x, train=True, mutable=["batch_stats"], rngs=noise)


@pytest.mark.parametrize("shape", [(9, 7), (3, 3, 4, 5)])
def test_laws_of_start_values_have_the_bits_of_flaxs(shape):
    flaxs = nn.initializers.variance_scaling
    for fan, law in (("in", "uniform"), ("out", "normal"), ("avg", "normal"), ("avg", "uniform")):
        drawn = nets.starts.scaled(2.0, fan, law)(KEY, shape)
        assert (drawn == flaxs(2.0, f"fan_{fan}", law)(KEY, shape)).all()
        assert (drawn != flaxs(1.0, f"fan_{fan}", law)(KEY, shape)).any()  # the control
    assert (nets.he_uniform(KEY, shape) == nn.initializers.he_uniform()(KEY, shape)).all()


def make(name, net=NET):
    return RULES[name].rule(net, TX, num_classes=CLASSES, **TAKE[name])


def test_bp_with_statistics_and_noise_is_flaxs_own_gradient():
    rule = make("bp")
    state = rule.init(KEY, X)

    def loss(params):
        a, moved = X, []
        for i, (block, weights, known) in enumerate(zip(NET, params.blocks, state.statistics, strict=True), start=1):
            a, known = in_training(block, weights, known, a, i)
            moved.append(known)
        scores = a @ params.W + params.b[None]
        return optax.softmax_cross_entropy_with_integer_labels(scores, BATCH.y).mean(), tuple(moved)

    (value, moved), want = jax.value_and_grad(loss, has_aux=True)(state.params)
    gradients, metrics = rule.grads(state, BATCH, KEY)
    near((gradients, metrics["loss"]), (want, value))
    stepped, _ = jax.jit(rule.update)(state, BATCH, KEY)
    near(stepped.statistics, moved)
    a = X
    for block, weights, known in zip(NET, stepped.params.blocks, stepped.statistics, strict=True):
        a = block.apply({**weights, **known}, a, train=False)
    near(rule.predict(stepped, X), a @ stepped.params.W + stepped.params.b[None])
    assert differ(rule.grads(state, BATCH, jax.random.key(6))[0], want)  # the controls: other noise, old statistics
    assert differ(rule.predict(stepped._replace(statistics=state.statistics), X), rule.predict(stepped, X))


@pytest.mark.parametrize("layer", [None, 1, 2])
def test_mf_with_statistics_and_noise_is_flaxs_own_gradient_layer_by_layer(layer):
    rule = mf.rule(NET, TX, num_classes=CLASSES, layer=layer)
    state = rule.init(KEY, X)
    gradients, _ = rule.grads(state, BATCH, KEY)
    stepped, _ = rule.update(state, BATCH, KEY)
    a = X
    for i, (block, weights, known) in enumerate(zip(NET, state.params, state.statistics, strict=True), start=1):

        def loss(weights, a=a, block=block, known=known, i=i):
            a, known = in_training(block, weights.block, known, a, i)
            scores = a @ weights.M.T
            return optax.softmax_cross_entropy_with_integer_labels(scores, BATCH.y).mean(), (a, known)

        (_, (output, moved)), want = jax.value_and_grad(loss, has_aux=True)(weights)
        if layer in (None, i):
            near(gradients[i - 1], want)
            near(stepped.statistics[i - 1], moved)
            a = output
        else:  # as it is: in prediction, with the statistics at rest
            assert gradients[i - 1] is None
            near(stepped.statistics[i - 1], known, 0)
            a = block.apply({**weights.block, **known}, a, train=False)


@pytest.mark.parametrize("name", TAKE)
def test_every_rule_that_can_takes_statistics_and_noise(name):
    """Compiled and over seeds; statistics move, reach no optimizer, and are what predictions are made with."""
    rule = RULES[name].rule(NET, optax.sgd(0.1, momentum=0.9), num_classes=CLASSES, **TAKE[name])
    starts = [rule.init(jax.random.key(seed), X) for seed in (0, 1)]
    step = jax.jit(rule.update)
    ends = [step(state, BATCH, KEY)[0] for state in starts]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    together, _ = jax.jit(jax.vmap(rule.update, in_axes=(0, None, None)))(both, BATCH, KEY)
    near(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ends), 1e-5)
    assert jax.tree.structure(ends[0]) == jax.tree.structure(starts[0])
    assert differ(ends[0].statistics, starts[0].statistics)
    trained = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(ends[0].opt_state)]
    assert trained and not [place for place in trained if "mean" in place or "var" in place]
    assert differ(step(starts[0], BATCH, jax.random.key(7))[0].params, ends[0].params)  # another key, other noise
    scores = jax.jit(rule.predict)(ends[0], X)
    np.testing.assert_array_equal(scores, jax.jit(rule.predict)(ends[0], X))
    if name != "cafo":  # its batch normalisation behind the block takes a shift of the mean away
        other = ends[0]._replace(statistics=jax.tree.map(lambda a: a + 0.5, ends[0].statistics))
        assert differ(rule.predict(other, X), scores)


@pytest.mark.parametrize("name", TAKE)
def test_variables_beside_the_parameters_may_be_integers(name):
    rule = make(name, (Counted(), nets.Dense(9)))
    state = rule.init(KEY, X)
    for _ in range(3):
        state, _ = rule.update(state, BATCH, KEY)
    (count,) = [leaf for leaf in jax.tree.leaves(state.statistics) if leaf.dtype == jnp.int32]
    assert count == 3


def test_a_module_that_rests_on_its_running_average_keeps_it():
    """The fault of a review: mean and variance moved by gradient descent."""
    block = nn.Sequential([nn.Dense(6), nn.BatchNorm(use_running_average=True), nn.relu])
    for module in (bp, mf):
        rule = module.rule((block,), TX, num_classes=CLASSES)
        state = rule.init(KEY, X)
        stepped, _ = rule.update(state, BATCH, KEY)
        near(stepped.statistics, state.statistics, 0)
        assert differ(stepped.params, state.params)


@pytest.mark.parametrize("name", ["pepita", "foton", "feedback", "phyll"])
@pytest.mark.parametrize(
    ("block", "line"),
    [
        (Noisy(6), "block 1 is a Noisy; this rule treats its linear part .* methods linear"),
        (nets.Dense(6, norm="batch"), "block 1 normalises between its linear part and its activation"),
        (nets.Dense(6, dropout=0.5), "block 1 drops activities, and this rule needs one and the same network"),
        (nets.Affine(nn.BatchNorm(use_running_average=True), jnp.tanh), "block 1 has batch_stats beside its param"),
    ],
)
def test_rules_that_take_blocks_apart_say_why_not(name, block, line):
    with pytest.raises(UsageError, match=line) as refused:
        RULES[name].rule((block,), TX, num_classes=CLASSES).init(KEY, X)
    assert "\n" not in str(refused.value)


def test_statistics_that_are_left_out_are_missed_in_one_line():
    state = make("bp").init(KEY, X)
    with pytest.raises(UsageError, match=r"pass statistics=state\.statistics") as refused:
        bp.predict(state._replace(statistics=()), X, net=NET)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("form", [{}, {"batch_norm": True}])
@pytest.mark.parametrize("net", [nets.mlp([6, 9]), NET], ids=["plain", "noisy"])
def test_backpropagation_is_aligned_with_itself(net, form):
    """Statistics of the same batch, noise of the same key."""
    rule = bp.rule(net, TX, num_classes=CLASSES, **form)
    state = rule.init(KEY, X)
    _, metrics = measure.with_alignment(rule).update(state, BATCH, KEY)
    near((metrics["cosine"], metrics["norm_ratio"]), (np.ones(3), np.ones(3)), 1e-5)
    _, control = measure.with_alignment(rule._replace(training_scores=None)).update(state, BATCH, KEY)
    assert (control["cosine"].min() < 0.999) == (bool(form) or net is NET)


@pytest.mark.parametrize(
    "rule",
    [
        cwc.rule(nets.mlp([6, 9]), TX, num_classes=CLASSES),
        mf.rule(NET, TX, num_classes=CLASSES),
        make("cafo", nets.mlp([6, 9])),
    ],
    ids=["cwc", "mf", "cafo"],
)
def test_the_last_layers_direction_is_backpropagations(rule):
    """What a local rule's last layer learns by, it shares with the prediction's gradient, in training mode alone."""
    state = rule.init(KEY, X)
    at = -1 if isinstance(state.params[-1], mf.Layer | dict) else -2
    for rule_there, aligned in [(rule, True), (rule._replace(training_scores=None), False)]:
        _, metrics = measure.with_alignment(rule_there).update(state, BATCH, KEY)
        assert (metrics["cosine"][at] > 1 - 1e-5) == aligned


def test_angles_leave_out_readouts_alone():
    layers = cwc.rule(nets.mlp([6]), TX, num_classes=CLASSES).init(KEY, X).params
    assert angles._layers(layers)[0].size == 5 * 6 + 6 + 2 * 6  # gamma and beta belong to the layer
    layers = mf.rule(nets.mlp([6]), TX, num_classes=CLASSES).init(KEY, X).params
    assert angles._layers(layers)[0].size == 5 * 6 + 6


def test_batch_norm_of_frozen_layers_is_refused_at_every_door():
    net, how = nets.mlp([6]), {"hidden": "frozen", "batch_norm": True}
    state = bp.init(KEY, X, net=net, tx=TX, num_classes=CLASSES)
    doors = [
        lambda: bp.rule(net, TX, num_classes=CLASSES, **how),
        lambda: bp.init(KEY, X, net=net, tx=TX, num_classes=CLASSES, **how),
        lambda: bp.grads(state.params, BATCH, KEY, net=net, **how),
        lambda: bp.update(state, BATCH, KEY, net=net, tx=TX, **how),
        lambda: bp.predict(state, X, net=net, **how),
        lambda: measure.macs(bp, net, (5,), num_classes=CLASSES, batch=4, **how),
    ]
    for door in doors:
        with pytest.raises(UsageError, match="batch_norm learns with the hidden layers"):
            door()


def test_frozen_blocks_rest_with_their_statistics_and_without_noise():
    rule = bp.rule(NET, TX, num_classes=CLASSES, hidden="frozen")
    state = rule.init(KEY, X)
    stepped, _ = rule.update(state, BATCH, KEY)
    near(stepped.statistics, state.statistics, 0)
    kept = rule.frozen.update(state, Batch(rule.frozen.features(state, X), BATCH.y), KEY)[0]
    near(kept, stepped)
    assert differ(stepped.params, state.params)


# --- networks of this library ----------------------------------------------------------------------------------------


def moments(h, axes):
    return h.mean(axes, keepdims=True), h.var(axes, keepdims=True)


@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_norms_equal_numpy(norm):
    """(h - mean) / sqrt(var + eps) before the activation, over what the name says."""
    block = nets.Conv(32, norm=norm, pool="none", activation=nets.identity)
    x = jax.random.normal(KEY, (4, 6, 6, 2))
    variables = block.init(KEY, x)
    y, _ = block.apply(variables, x, train=True, mutable=True)
    h = np.asarray(nets.linear(block).apply(variables, x), np.float64)
    if norm == "group":  # two groups of 16 channels
        parts = h.reshape(4, 36, 2, 16)
        mean, var = moments(parts, (1, 3))
        want = ((parts - mean) / np.sqrt(var + 1e-6)).reshape(h.shape)
    else:
        mean, var = moments(h, (0, 1, 2) if norm == "batch" else (3,))
        want = (h - mean) / np.sqrt(var + (1e-5 if norm == "batch" else 1e-6))
    near(y, want, 1e-5)
    assert differ(y, h)


def test_dropout_of_a_block_keeps_the_mean_and_scales_what_is_kept():
    block = nets.Dense(2000, dropout=0.25)
    variables = block.init(KEY, X)
    a = block.apply(variables, X)
    b = block.apply(variables, X, train=True, rngs={"dropout": KEY})
    dropped = np.asarray((b == 0) & (a != 0))
    assert abs(dropped[np.asarray(a) != 0].mean() - 0.25) < 0.01
    near(np.asarray(b)[~dropped], np.asarray(a / 0.75)[~dropped])


def shifted(x, kernel, bias, stride, groups=1):
    """A 3x3 or 1x1 convolution of the same size, by loops."""
    size, n = kernel.shape[0], x.shape[1]
    edge = ((size - 1) // 2, size // 2)
    padded = np.pad(x, ((0, 0), edge, edge, (0, 0)))
    out = np.zeros((len(x), -(-n // stride), -(-n // stride), kernel.shape[-1]))
    each = kernel.shape[-1] // groups
    for i, j in np.ndindex(*out.shape[1:3]):
        window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
        for g in range(groups):
            part = window[..., g * kernel.shape[2] : (g + 1) * kernel.shape[2]]
            out[:, i, j, g * each : (g + 1) * each] = np.tensordot(part, kernel[..., g * each : (g + 1) * each], 3)
    return out + bias


@pytest.mark.parametrize(("stride", "channels"), [(1, 3), (2, 4)])
def test_a_residual_block_equals_numpy(stride, channels):
    block = nets.Residual(channels, stride=stride, bias="uniform")
    x = jax.random.normal(KEY, (2, 6, 6, 3))
    own = block.init(KEY, x)["params"]
    conv = lambda name, h, step: shifted(h, *(np.asarray(own[name][k], np.float64) for k in ("kernel", "bias")), step)
    h = conv("Conv_1", np.maximum(conv("Conv_0", np.asarray(x, np.float64), stride), 0), 1)
    short = np.asarray(x) if (stride, channels) == (1, 3) else conv("Conv_2", np.asarray(x, np.float64), stride)
    assert len(own) == (2 if (stride, channels) == (1, 3) else 3)
    near(block.apply({"params": own}, x), np.maximum(h + short, 0), 1e-5)
    assert differ(block.apply({"params": own}, x), np.maximum(h, 0))


def test_a_separable_block_equals_numpy():
    block = nets.Separable(4, bias="uniform", pool="none", stride=2)
    x = jax.random.normal(KEY, (2, 6, 6, 3))
    own = block.init(KEY, x)["params"]
    assert own["Conv_0"]["kernel"].shape == (3, 3, 1, 3) and own["Conv_1"]["kernel"].shape == (1, 1, 3, 4)
    first, second = ([np.asarray(own[name][k], np.float64) for k in ("kernel", "bias")] for name in sorted(own))
    want = np.maximum(shifted(shifted(np.asarray(x, np.float64), *first, 2, groups=3), *second, 1), 0)
    near(block.apply({"params": own}, x), want, 1e-5)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("mlp:8,6;dropout=0.25;norm=layer", "MLP 8-6 layer norm dropout 0.25"),
        ("cnn:4,6;norm=batch;stride=2", "CNN 4-6 batch norm"),
        ("residual:4,6;dense=5;norm=group;stride=2", "ResNet 4-6-5 group norm"),
        ("separable:4,6;pool=max", "separable CNN 4-6"),
    ],
)
def test_specifications_of_the_new_blocks(text, label):
    spec = nets.parse(text)
    assert str(spec) == text and spec.label == label
    net = spec.build(CLASSES)
    assert nets.described(net, CLASSES) == text and net == spec.build(CLASSES)
    x = jax.random.normal(KEY, (12, 16, 16, 1))
    for module in (bp, mf):
        rule = module.rule(net, TX, num_classes=CLASSES)
        state, metrics = jax.jit(rule.update)(rule.init(KEY, x), Batch(x, BATCH.y), KEY)
        assert np.isfinite(metrics["loss"]) and bool(state.statistics) == ("batch" in text)
    for wrong in ("mlp:8;dropout=1", "mlp:8;norm=group2", "residual:4;padding=valid"):
        with pytest.raises(UsageError, match="--net"):
            nets.parse(wrong)


def test_a_block_normalised_from_outside_equals_flaxs_batch_norm():
    inner = nets.Dense(6)
    block = nets.Normalised(inner)
    variables = block.init(KEY, X)
    h = inner.apply(inner.init(KEY, X), X)
    flax = nn.BatchNorm(momentum=0.9, epsilon=1e-5)
    known = flax.init(KEY, h, use_running_average=True)
    want, moved = flax.apply(known, h, use_running_average=False, mutable=["batch_stats"])
    y, after = block.apply_in_training(variables, X, KEY)
    near(y, want, 1e-5)
    near(
        {name: after["statistics"][name] for name in ("mean", "var")},
        moved["batch_stats"]["BatchNorm_0"] if "BatchNorm_0" in moved["batch_stats"] else moved["batch_stats"],
        1e-6,
    )
    near(block.apply(after, X), flax.apply({**known, **moved}, h, use_running_average=True), 1e-5)
    assert differ(block.apply(variables, X), y)


@pytest.mark.usefixtures("users_compilation")
def test_mf_with_batch_normalisation_needs_no_more_memory_for_more_layers():
    def temporary(module, depth):
        rule = module.rule(nets.mlp([500] * depth, norm="batch"), TX, num_classes=10)
        return measure.compile_step(rule, (500,), 2048).compiled.memory_analysis().temp_size_in_bytes

    activation = 2048 * 500 * 4
    assert temporary(mf, 10) - temporary(mf, 4) < activation
    assert temporary(bp, 10) - temporary(bp, 4) > 5 * activation  # the control


# --- other libraries -------------------------------------------------------------------------------------------------


class Own(nnx.Module):
    def __init__(self, size, width, rngs):
        self.linear, self.norm = nnx.Linear(size, width, rngs=rngs), nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.drop(self.norm(self.linear(x))))


def test_an_nnx_module_is_what_nnx_makes_of_it():
    block = nets.from_nnx(lambda rngs: Own(5, 6, rngs))
    variables = block.init(KEY, X)
    module = Own(5, 6, nnx.Rngs(KEY))
    near(variables["params"]["linear.kernel"], module.linear.kernel[...], 0)
    module.eval()
    near(block.apply(variables, X), module(X))
    module.train()
    module.drop.rate = 0.0
    quiet = nets.from_nnx(module)
    start = quiet.init(KEY, X)
    y, after = quiet.apply_in_training(start, X, KEY)
    near(y, module(X))
    near(after["statistics"]["norm.mean"], module.norm.mean[...])
    assert differ(after["statistics"], start["statistics"])
    one, two, again = (block.apply_in_training(variables, X, k)[0] for k in (KEY, jax.random.key(6), KEY))
    assert differ(one, two) and not differ(one, again)  # noise comes from the key alone
    other = block.init(jax.random.key(2), X)["params"]["linear.kernel"]
    assert differ(other, variables["params"]["linear.kernel"])  # every seed has a start of its own


def equinox_blocks():
    eqx = pytest.importorskip("equinox")

    class Layer(eqx.Module):
        linear: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout

        def __init__(self, size, width, key):
            self.linear, self.drop = eqx.nn.Linear(size, width, key=key), eqx.nn.Dropout(0.5)
            self.norm = eqx.nn.BatchNorm(width, "batch", mode="batch")

        def __call__(self, x, state, *, key=None):
            x, state = self.norm(self.linear(x), state)
            return jax.nn.relu(self.drop(x, key=key)), state

    return tuple(nets.from_equinox(lambda key, io=io: Layer(*io, key)) for io in ((5, 6), (6, 9)))


def test_an_equinox_module_is_what_equinox_makes_of_it():
    eqx = pytest.importorskip("equinox")
    block = nets.from_equinox(lambda key: eqx.nn.MLP(5, 6, 4, 1, key=key))
    variables = block.init(KEY, X)
    near(block.apply(variables, X), jax.vmap(eqx.nn.MLP(5, 6, 4, 1, key=KEY))(X))
    noisy, _ = equinox_blocks()
    variables = noisy.init(KEY, X)
    module, state = eqx.nn.make_with_state(noisy.make)(KEY)
    run = jax.vmap(module, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
    near(
        noisy.apply(variables, X),
        jax.vmap(eqx.nn.inference_mode(module), in_axes=(0, None), out_axes=(0, None), axis_name="batch")(X, state)[0],
    )
    quiet = eqx.tree_at(lambda m: m.drop, module, eqx.nn.Dropout(0.0))
    run = jax.vmap(quiet, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
    _, moved = run(X, state)
    one, after = noisy.apply_in_training(variables, X, KEY)
    near(list(after["statistics"].values()), jax.tree.leaves(moved))
    assert differ(one, noisy.apply_in_training(variables, X, jax.random.key(6))[0])
    assert differ(after["statistics"], variables["statistics"])


LIBRARIES = {
    "nnx": lambda: (nets.from_nnx(lambda rngs: Own(5, 6, rngs)), nets.from_nnx(lambda rngs: Own(6, 9, rngs))),
    "equinox": equinox_blocks,
}


FEW = [("equinox", name) for name in ("bp", "mf")]
"""Adapters do not know the rule: the gate has every rule with one library, and two with the other."""
MANY = [pytest.param("equinox", name, marks=pytest.mark.slow) for name in TAKE if name not in ("bp", "mf")]


@pytest.mark.parametrize(("library", "name"), [*(("nnx", name) for name in TAKE), *FEW, *MANY])
def test_rules_train_modules_of_other_libraries(library, name):
    rule = make(name, LIBRARIES[library]())
    start = jax.vmap(lambda seed: rule.init(jax.random.key(seed), X))(jnp.arange(2))
    end, metrics = jax.jit(jax.vmap(rule.update, in_axes=(0, None, None)))(start, BATCH, KEY)
    one, _ = jax.jit(rule.update)(rule.init(jax.random.key(1), X), BATCH, KEY)
    near(jax.tree.map(lambda leaf: leaf[1], end), one, 1e-5)
    assert np.isfinite(metrics["loss"]).all() and differ(end.statistics, start.statistics)
    assert differ(end.params, start.params)


def test_adapters_refuse_what_is_no_module():
    for wrong in (3, Own):
        with pytest.raises(UsageError, match="from_nnx takes a module, or a function of rngs"):
            nets.from_nnx(wrong)
    with pytest.raises(UsageError, match=r"returns an nnx.Module; got int"):
        nets.from_nnx(lambda rngs: 3).init(KEY, X)


NO_NETWORKS = """
import jax, jax.numpy as jnp, optax, fwdonly, sys
from flax import nnx
from fwdonly import nets, RULES, UsageError
linear = nnx.Linear(64, 4, rngs=nnx.Rngs(0))
wrong = {"list": list(nets.mlp([8])), "module": nets.mlp([8])[0], "nnx": linear, "of nnx": (linear,), "none": None}
digits = fwdonly.data.load("digits")
for name, module in RULES.items():
    for what, net in wrong.items():
        doors = [lambda: module.rule(net, optax.sgd(0.1), num_classes=10)]
        doors += [lambda: module.stages(net, optax.sgd(0.1), num_classes=10)] if hasattr(module, "stages") else []
        doors += [lambda: fwdonly.sweep(lambda: module.rule(net, optax.sgd(0.1), num_classes=10), digits,
                                        fwdonly.Plan(epochs=1), seeds=[0])]
        for door in doors:
            try:
                door()
                print(name, what, "is taken")
            except UsageError as error:
                assert "\\n" not in str(error), error
                need = "from_nnx(module)" if "nnx" in what else "tuple of blocks"
                assert need in str(error), (name, what, error)
print("refused")
"""


def test_what_is_no_tuple_of_blocks_is_refused_at_every_door():
    """In a process without beartype, which would refuse it before."""
    ended = subprocess.run([sys.executable, "-c", NO_NETWORKS], capture_output=True, text=True, timeout=200)
    assert ended.stdout == "refused\n", ended.stdout + ended.stderr[-2000:]


# --- parts that a block declares -------------------------------------------------------------------------------------


class Tanh:
    """A user's own block: a matrix and no bias."""

    def init(self, key, x):
        return {"w": jax.random.normal(key, (x.shape[1], 6)) / 3}

    def linear(self, variables, x):
        return x @ variables["w"]

    def activation(self, a):
        return jnp.tanh(a)

    def apply(self, variables, x):
        return self.activation(self.linear(variables, x))


@pytest.mark.parametrize("name", ["pepita", "feedback", "foton"])
@pytest.mark.parametrize("own", ["affine", "methods"])
@pytest.mark.filterwarnings("ignore::fwdonly.foton.ExpansionWarning")
def test_declared_parts_give_what_dense_gives(name, own):
    """The same numbers as a `nets.Dense` with the same weights; another activation gives others."""
    dense = nets.Dense(6, activation=jnp.tanh, bias="none")
    mine = nets.Affine(nn.Dense(6, use_bias=False), jnp.tanh) if own == "affine" else Tanh()
    rules = [RULES[name].rule((block,), TX, num_classes=CLASSES) for block in (dense, mine)]
    state = rules[0].init(KEY, X)
    (kernel,) = jax.tree.leaves(state.params.blocks)
    other = rules[1].init(KEY, X)
    refilled = jax.tree.map(lambda leaf: kernel, other.params.blocks)
    params = state.params._replace(blocks=refilled)
    if name == "feedback":
        feedback = jax.tree.map(lambda leaf: jax.tree.leaves(state.B.blocks)[0], other.B.blocks)
        other = other._replace(B=state.B._replace(blocks=feedback))
    else:
        other = other._replace(F=state.F)
    found, metrics = rules[1].grads(other._replace(params=params), BATCH, KEY)
    want, expected = rules[0].grads(state, BATCH, KEY)
    near(jax.tree.leaves(found), jax.tree.leaves(want))
    near(metrics["loss"], expected["loss"])
    near(rules[1].predict(other._replace(params=params), X), rules[0].predict(state, X))
    control = RULES[name].rule((dense.clone(activation=jax.nn.relu),), TX, num_classes=CLASSES)
    assert differ(jax.tree.leaves(control.grads(state, BATCH, KEY)[0]), jax.tree.leaves(found))
    stepped, _ = jax.jit(rules[1].update)(other._replace(params=params), BATCH, KEY)
    assert differ(stepped.params, params)


def test_a_declared_linear_part_comes_with_its_bias_or_without():
    """As `nets.Dense` gives both, of which PEPITA's and FOTON's modulated pass needs the one without."""
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(X.shape[1], 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    layer = {"kernel": jnp.asarray(W), "bias": jnp.asarray(b)}
    affine, dense = nets.Affine(nn.Dense(6), jnp.tanh), nets.Dense(6, activation=jnp.tanh)
    for block, weights in ((affine, {"params": layer}), (dense, {"params": {"Dense_0": layer}})):
        near(nets.linear(block).apply(weights, X), np.asarray(X) @ W + b)
        near(nets.linear(block, bias=False).apply(weights, X), np.asarray(X) @ W)


# --- saved and resumed -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return fwdonly.data.load("digits")


@pytest.mark.parametrize("name", ["mf", "bp"])
def test_a_saved_model_carries_the_running_statistics(name, digits, tmp_path):
    net = nets.mlp([12], norm="batch", dropout=0.1)
    rule = RULES[name].rule(net, optax.adam(1e-2), num_classes=10)
    result = fwdonly.fit(rule, digits, Plan(epochs=1))
    fwdonly.save(tmp_path / "m.safetensors", result, rule, digits)
    model = fwdonly.load(tmp_path / "m.safetensors")
    assert model.saved.network == "mlp:12;dropout=0.1;norm=batch"
    near(model.state.statistics, result.state.statistics, 0)
    assert model.evaluate(digits).accuracy == pytest.approx(result.test_accuracy, abs=1e-6)
    fresh = model.state._replace(statistics=rule.init(KEY, jnp.ones((2, 8, 8, 1))).statistics)
    assert differ(rule.predict(fresh, jnp.ones((2, 8, 8, 1))), rule.predict(model.state, jnp.ones((2, 8, 8, 1))))


def test_a_resumed_training_has_the_statistics_it_left(digits, tmp_path):
    rule = mf.rule(nets.mlp([12], norm="batch", dropout=0.1), optax.adam(1e-2), num_classes=10)
    whole = fwdonly.fit(rule, digits, Plan(epochs=2))
    stop = lambda progress: progress.epoch >= 1
    fwdonly.fit(rule, digits, Plan(epochs=2), checkpoint=tmp_path / "c", callback=stop)
    resumed = fwdonly.fit(rule, digits, Plan(epochs=2), checkpoint=tmp_path / "c")
    near((resumed.state.params, resumed.state.statistics), (whole.state.params, whole.state.statistics), 0)


def test_the_example_of_ones_own_network(tmp_path):
    example = Path(__file__).parents[2] / "examples" / "own_network.py"
    assert len(example.read_text().splitlines()) <= 40
    out = subprocess.run(
        [sys.executable, str(example), str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    lines = [line for line in out.splitlines() if "bit for bit" in line]
    assert len(lines) == 2 and all(line.endswith("agrees bit for bit: True") for line in lines)
    assert all(float(line.split()[2].rstrip(";")) > 0.9 for line in lines)


def test_frozen_and_heads_of_cascaded_forward_take_a_users_statistics():
    """Random blocks keep the statistics of the start; their features are those of predictions."""
    rule = cafo.rule(NET, TX, num_classes=CLASSES)
    state = rule.init(KEY, X)
    stepped, _ = rule.update(state, BATCH, KEY)
    near((stepped.statistics, stepped.params.blocks), (state.statistics, state.params.blocks), 0)
    near(rule.grads(state, BATCH, KEY)[1]["loss"], rule.grads(state, BATCH, jax.random.key(9))[1]["loss"], 0)
