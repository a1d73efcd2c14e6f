"""Strong convolutional rules (DeeperForward, SCFF) against restatements in float64, closed forms and identities."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference.deeperforward as deeper_restated
import reference.scff as scff_restated
from comparing import differ, drawn, jit, near, weights

from fwdonly import Batch, UsageError, deeperforward, nets, scff

CLASSES, BATCH = 3, 8
SGD = optax.sgd(0.1)
KEY = jax.random.key(5)
WORDS = ("add", "none", "concat")


def problem(shape=(9,), seed=0):
    """Random inputs and labels of which none is missing, in float64."""
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=BATCH)
    y[:CLASSES] = np.arange(CLASSES)
    return Batch(jnp.asarray(rng.uniform(-1, 1, size=(BATCH, *shape))), jnp.asarray(y, jnp.int32))


def started(module, net, x, **options):
    """A state of random parameters."""
    init = partial(module.init, net=net, tx=SGD, **options)
    shapes = jax.eval_shape(init, KEY, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return shapes._replace(params=drawn(shapes.params), opt_state=tuple(map(SGD.init, shapes.params)))


# --- DeeperForward ---------------------------------------------------------------------------------------------------


IMAGES = (nets.Conv(6, bias="none"), *nets.cnn([6, 6], pool="none"), nets.Conv(6), nets.Conv(9, pool="none"))
"""Halved behind blocks 1 and 4: the shortcut of block 4 is twice as high as its own output."""


@pytest.mark.parametrize("kind", ["dense", "images"])
def test_deeperforward_equals_the_restatement(kind, float64):
    net, shape = (nets.mlp([6] * 4), (9,)) if kind == "dense" else (IMAGES, (8, 8, 2))
    words = ("add", "concat", "none")
    options = {"net": net, "num_classes": CLASSES, "shortcuts": words}
    batch = problem(shape)
    state = started(deeperforward, net, batch.x, num_classes=CLASSES, shortcuts=words)

    @jit
    def run(state):
        stepped, metrics = deeperforward.update(state, batch, KEY, tx=SGD, **options)
        seen = [read(state, batch.x, **options) for read in (deeperforward.layer_scores, deeperforward.activations)]
        return metrics, stepped.params, seen

    metrics, after, (scores, outputs) = run(state)
    layers = [
        weights(params) | {"pool": getattr(block, "pool", "none") == "average"}
        for block, params in zip(net, state.params, strict=True)
    ]
    restated = partial(deeper_restated.step, layers, *map(np.asarray, batch), CLASSES)
    losses, want, goodness, activities = restated(words)
    near(metrics["layer_loss"], np.array(losses))
    steps = [{name: layer[name] - 0.1 * g for name, g in of.items()} for layer, of in zip(layers, want, strict=True)]
    near(list(map(weights, after)), steps)
    near((scores, list(outputs)), (np.stack(goodness), activities))
    assert differ(restated(("none", *words[1:]))[0][3:], losses[3:], 1e-3)  # the control: shortcuts matter
    assert all(np.abs(g["W"]).max() > 1e-3 for g in want)


def test_goodness_is_the_mean_of_the_activities_and_its_gradient_a_closed_form(float64):
    """Inputs (0, 2) become (-k, k), k = 1/sqrt(1 + 1e-5); through W = 1 and ReLU the goodness is (0, k)."""
    net, k = (nets.Dense(2, bias="none"),), 1 / np.sqrt(1 + 1e-5)
    params = ({"params": {"Dense_0": {"kernel": jnp.eye(2)}}},)
    batch = Batch(jnp.array([[0.0, 2.0]]), jnp.array([0], jnp.int32))
    gradients, metrics = jit(partial(deeperforward.grads, net=net, num_classes=2))(params, batch, KEY)
    near(metrics["loss"], np.log(1 + np.exp(k)), 1e-14)
    slope = 1 / (1 + np.exp(-k))
    near(gradients[0]["params"]["Dense_0"]["kernel"], np.array([[0, -k * slope], [0, k * slope]]), 1e-14)
    assert differ(metrics["loss"], np.log(1 + np.exp(k**2)))  # the control: squares


def test_normalisation_leaves_nothing_of_the_goodness(float64):
    """Variants 8.4: every group of a sample has mean 0 and variance 1, whatever its goodness was."""
    a = np.maximum(drawn(jnp.zeros((4, 2, 3, 6)), scale=2.0) + np.arange(6.0)[None, None, None], 0)

    @jit
    def read(a):
        n, whole = deeperforward.normalised(a, CLASSES), deeperforward.normalised(a, 1)
        return n, [deeperforward.goodness(b, CLASSES) for b in (n, n**2, whole)]

    n, (mean, squares, whole) = read(a)
    near(mean, np.zeros((4, CLASSES)), 1e-10)
    near(squares, np.ones((4, CLASSES)), 1e-4)
    near(read(3 * a + 7)[0], n, 1e-4)  # apart from what is added to the variance
    assert differ(whole, np.zeros((4, CLASSES)), 0.1)  # the control: normalisation of all channels together


def test_deeperforward_sums_goodness_from_one_layer_to_another(float64):
    net, x = nets.mlp([6, 6, 6]), problem().x
    state = started(deeperforward, net, x, num_classes=CLASSES)
    ranges = ({}, {"first_layer": 1, "last_layer": 2}, {"first_layer": 3})

    @jit
    def read(state):
        predict = partial(deeperforward.predict, state, x, num_classes=CLASSES)
        sums = [predict(net=net, **options) for options in ranges]
        return deeperforward.layer_scores(state, x, net=net, num_classes=CLASSES), [*sums, predict(net=net[:1])]

    G, sums = read(state)
    near(sums, [G[1] + G[2], G[0] + G[1], G[2], G[0]], 1e-14)  # the last one of a network of one layer
    assert differ(G[0], G[2])


@pytest.mark.parametrize(
    ("net", "options", "words"),
    [
        (nets.mlp([6, 6]), {"shortcuts": ("sum",)}, "shortcuts is one of 'none', 'add', 'concat'"),
        (nets.mlp([6, 6]), {"first_layer": 0}, "layers from 1 to 2"),
        (nets.mlp([6, 6]), {"last_layer": 3}, "layers from 1 to 2"),
        (nets.mlp([6, 6]), {"first_layer": 2, "last_layer": 1}, "in this order"),
        (nets.mlp([6, 6, 9]), {"shortcuts": ("add",)}, "layer 3 cannot add the output of layer 1"),
        (nets.mlp([3, 6]), {}, "one value per class"),
        (nets.mlp([6, 7]), {}, "do not split into 3 equal groups"),
    ],
)
def test_bad_options_of_deeperforward_are_refused_in_one_line(net, options, words):
    with pytest.raises(UsageError, match=words) as caught:
        rule = deeperforward.rule(net, SGD, num_classes=CLASSES, **options)
        jax.eval_shape(rule.init, KEY, jnp.ones((1, 9)))
    assert "\n" not in str(caught.value)


# --- SCFF ------------------------------------------------------------------------------------------------------------


CONVOLUTIONS = (
    nets.Conv(4, kernel=5, padding="reflect", pool="max4"),
    nets.Conv(5, padding="reflect", pool="max4"),
    nets.Conv(6),
)
SCFF_NETS = {"dense": (nets.mlp([6, 7, 5]), (9,)), "images": (CONVOLUTIONS, (16, 16, 2))}
THREE = {
    "pairs": ("anew", "carried", "anew"),
    "threshold_pos": (0.5, 1.5, 0.7),
    "threshold_neg": (0.4, 0.9),
    "penalty": (0.03, 0.02, 0.05),
    "handed_on": ("triangle", "triangle", "activation"),
    "readout_pool": (8, 2),
    "readout_dropout": 0.0,
}
"""Of three layers; thresholds of negatives and windows of the readout are two, of which the last one counts twice."""
PER_LAYER = ("pairs", "threshold_pos", "threshold_neg", "penalty", "handed_on")


def restated_layers(net, params, options=THREE):
    """The layers as the restatement writes them."""
    layers = []
    for i, (block, own) in enumerate(zip(net, params[:-1], strict=True)):
        of = {name: values[min(i, len(values) - 1)] for name, values in options.items() if name in PER_LAYER}
        rest = {"above": of["threshold_pos"], "below": of["threshold_neg"], "penalty": of["penalty"]}
        rest |= {"carried": of["pairs"] == "carried", "triangle": of["handed_on"] == "triangle"}
        rest |= {"pad": getattr(block, "padding", ""), "pool": getattr(block, "pool", "none")}
        layers.append(weights(own) | rest)
    return layers


@pytest.mark.parametrize("kind", SCFF_NETS)
def test_scff_equals_the_restatement(kind, float64):
    """The shift is random: of the seven, one must give every layer's loss, and none but B less it: the same pairs."""
    net, shape = SCFF_NETS[kind]
    batch = problem(shape)
    state = started(scff, net, batch.x, num_classes=CLASSES, **THREE)

    @jit
    def run(state):
        stepped, metrics = scff.update(state, batch, KEY, net=net, tx=SGD, **THREE)
        seen = [read(state, batch.x, net=net, **THREE) for read in (scff.predict, scff.features, scff.activations)]
        return metrics["layer_loss"], stepped.params, seen

    losses, after, (scores, F, outputs) = run(state)
    y, carried, want = np.asarray(batch.x), np.asarray(batch.x), []
    for i, layer in enumerate(restated_layers(net, state.params)):
        shifts = [None] if layer["carried"] else range(1, BATCH)
        steps = [scff_restated.layer_step(layer, y, carried, shift) for shift in shifts]
        near_by = [step for step in steps if abs(step[0] - losses[i]) < 1e-10]
        assert 1 <= len(near_by) <= 2
        loss, gradient, y, carried = near_by[0]
        want.append({name: layer[name] - 0.1 * g for name, g in gradient.items()})
        near(outputs[i], y)
        assert all(np.abs(g).max() > 1e-4 for g in gradient.values())
    near(list(map(weights, after[:-1])), want)
    W, b = map(np.asarray, state.params[-1])
    loss, gradient, features, restated = scff_restated.readout(W, b, outputs, (8, 2, 2), np.asarray(batch.y))
    near((losses[-1], F, scores), (loss, features, restated))
    near(tuple(after[-1]), (W - 0.1 * gradient["W"], b - 0.1 * gradient["b"]))


def test_a_shift_is_any_but_none_and_one_sample_has_no_negative(float64):
    net, batch = nets.mlp([6]), problem()
    state = started(scff, net, batch.x, num_classes=CLASSES)
    layer = restated_layers(net, state.params, scff.Options()._asdict())[0]
    shifts = (*range(BATCH // 2 + 1), None)  # the others make the same pairs
    losses = [scff_restated.layer_step(layer, np.asarray(batch.x), None, shift)[0] for shift in shifts]
    grads = jit(jax.vmap(lambda key: scff.grads(state.params, batch, key, net=net)[1]["layer_loss"][0]))
    seen = np.asarray(grads(jax.random.split(KEY, 200)))
    counts = [int((np.abs(seen - loss) < 1e-12).sum()) for loss in losses]
    assert counts[0] == counts[-1] == 0 and sum(counts) == 200 and min(counts[1:-1]) > 10  # the control: no shift
    one = jax.tree.map(lambda a: a[:1], batch)
    (gradient, _), metrics = jit(partial(scff.grads, net=net))(state.params, one, KEY)
    loss, want, *_ = scff_restated.layer_step(layer, np.asarray(one.x), None, None)
    near((metrics["layer_loss"][0], weights(gradient)), (loss, want))


def test_where_goodness_is_at_both_thresholds_equal_pairs_leave_no_gradient(float64):
    """Variants 8.5: softplus(t - G) + softplus(G - t), whose slope is 0 at G = t; there it is 2 ln 2."""
    net, batch = nets.mlp([6]), problem()
    batch = batch._replace(x=jnp.tile(batch.x[:1], (BATCH, 1)))
    state = started(scff, net, batch.x, num_classes=CLASSES)
    u = scff_restated.standard(*[np.asarray(batch.x[:1])] * 2)
    G = (np.maximum(scff_restated.through(weights(state.params[0]), u), 0) ** 2).mean()

    @jit
    def run(threshold):
        options = {"threshold_pos": (threshold,), "threshold_neg": (threshold,), "penalty": (0.0,)}
        gradients, metrics = scff.grads(state.params, batch, KEY, net=net, **options)
        return jax.tree.leaves(gradients[0]), metrics["layer_loss"][0]

    gradient, loss = run(G)
    near((gradient, loss), (jax.tree.map(jnp.zeros_like, gradient), 2 * np.log(2)), 1e-8)
    off, loss = run(G + 0.5)  # the control
    near(loss, np.logaddexp(0, 0.5) + np.logaddexp(0, -0.5), 1e-8)
    assert differ(off, gradient, 1e-2)


def test_a_layer_of_units_that_are_all_off_has_a_finite_gradient(float64):
    """Of linear units at 0: ReLU hides a slope that is no number."""
    net, batch = nets.mlp([6], activation=nets.identity), problem()
    state = started(scff, net, batch.x, num_classes=CLASSES)
    off = jax.tree.map(jnp.zeros_like, state.params[0])
    (gradient, _), metrics = jit(partial(scff.grads, net=net, penalty=(1.0,)))((off, state.params[1]), batch, KEY)
    near(metrics["layer_loss"][0], np.logaddexp(0, 4.0) + np.logaddexp(0, -6.0), 1e-14)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_stages_of_scff_train_one_layer_each_and_kept_features_change_nothing(float64):
    net, batch = nets.mlp([6, 7]), problem()
    state = started(scff, net, batch.x, num_classes=CLASSES, pairs=("anew", "carried"))
    every = scff.rule(net, SGD, num_classes=CLASSES, pairs=("anew", "carried"))
    rules = scff.stages(net, SGD, num_classes=CLASSES, pairs=("anew", "carried"))
    *_, last = rules
    half = last.frozen

    @jit
    def run(state):
        kept = half.features(state, batch.x)
        with_kept = half.update(state, Batch(kept, batch.y), KEY), half.validate(state, kept)
        whole = last.update(state, batch, KEY), last.predict(state, batch.x)
        return [rule.grads(state, batch, KEY)[0] for rule in (every, *rules)], with_kept, whole

    (gradients, *alone), with_kept, whole = run(state)
    assert len(alone) == 3 and all(rule.frozen is None for rule in rules[:-1])
    for at, one in enumerate(alone):
        assert [part is not None for part in one] == [i == at for i in range(3)]
        near(one[at], gradients[at], 1e-14)
    near(with_kept, whole, 1e-14)
    assert differ(whole[0][0].params[-1], state.params[-1])  # the control: it learns


def test_the_readout_drops_a_share_of_its_inputs_in_training_alone(float64):
    net, x = nets.mlp([400]), drawn(jnp.zeros((8, 9)))
    state = started(scff, net, x, num_classes=400)
    eye = scff.Readout(jnp.eye(400), jnp.zeros(400))
    state = state._replace(params=(state.params[0], eye))
    scores = jit(lambda state, key: scff.training_scores(state, x, key, net=net, readout_dropout=0.25))(state, KEY)
    F = np.asarray(jit(partial(scff.predict, net=net))(state, x))
    near(scores, np.where(np.asarray(scores) == 0, 0, F / 0.75), 1e-14)
    assert abs((np.asarray(scores) == 0).mean() - 0.25) < 0.05 and not (F == 0).any()
    near((F.mean(1), F.std(1, ddof=1)), (np.zeros(8), np.ones(8)), 1e-9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pairs": ("carried",)}, "layer 1 has no negatives to carry on"),
        ({"pairs": ("anew", "again")}, "pairs is one of 'anew', 'carried'"),
        ({"handed_on": ("relu",)}, "handed_on is one of 'triangle', 'activation'"),
        ({"threshold_pos": (1.0, 2.0, 3.0)}, "up to that of the last layer, 2; got 3"),
        ({"penalty": ()}, "penalty has one value, or more"),
        ({"readout_layers": (1, 3)}, "layers from 1 to 2; got 3"),
        ({"readout_pool": (4, -1)}, "or 0; got -1"),
        ({"readout_dropout": 1.0}, "at least 0 and below 1"),
        ({"layer": 4}, "or 3, the readout; got 4"),
    ],
)
def test_bad_options_of_scff_are_refused_in_one_line(options, words):
    with pytest.raises(UsageError, match=words) as caught:
        scff.rule(nets.mlp([6, 6]), SGD, num_classes=CLASSES, **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="a layer has one input, of which standardisation leaves nothing"):
        jax.eval_shape(scff.rule(nets.mlp([1, 6]), SGD, num_classes=CLASSES).init, KEY, jnp.ones((1, 9)))


@pytest.mark.parametrize("side", [7, 8])
def test_mirrored_edges_and_maxima_of_4x4_windows_are_numpys(side, float64):
    """A convolution over mirrored edges is one over NumPy's; an odd last row counts only where a window reaches it."""
    x = drawn(jnp.zeros((2, side, side, 3)))
    for kernel in (2, 5):
        block = nets.Conv(4, activation=nets.identity, kernel=kernel, padding="reflect", pool="max4")
        params = drawn(jax.eval_shape(block.init, KEY, x))
        reach = ((kernel - 1) // 2, kernel // 2)
        wide = np.pad(np.asarray(x), ((0, 0), reach, reach, (0, 0)), "reflect")
        layer = weights(params)
        h = scff_restated.rows(layer, wide) @ layer["W"].reshape(-1, 4) + layer["b"]
        near(jit(block.apply)(params, x), scff_restated.maxima(h), 1e-12)
        inner, padded = nets.padded(block, x)
        near(padded, wide)
        near(jit(nets.linear(inner).apply)(params, padded), h, 1e-12)
        zeros = block.clone(padding="same")
        assert differ(jit(zeros.apply)(params, x), scff_restated.maxima(h), 1e-2)  # the control
        inner, padded = nets.padded(zeros, x)
        near(jit(nets.linear(inner).apply)(params, padded), jit(nets.linear(zeros).apply)(params, x), 1e-12)
