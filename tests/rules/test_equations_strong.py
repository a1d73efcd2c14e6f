"""Strong convolutional rules (DeeperForward) against restatements in float64, closed forms and identities."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference.deeperforward as deeper_restated
from comparing import differ, drawn, jit, near, weights

from fwdonly import Batch, UsageError, deeperforward, nets

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
