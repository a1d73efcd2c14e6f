"""Forward gradients, zeroth order and PhyLL against restatements, closed forms and what they must never do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparing import differ, drawn, jit, near, weights
from reference import forward_gradient as dual
from reference import phyll as physical
from reference import zeroth_order as difference

from fwdonly import (
    Batch,
    UsageError,
    _forward_passes,
    base,
    bp,
    data,
    fit,
    forward_gradient,
    measure,
    nets,
    phyll,
    zeroth_order,
)
from fwdonly.training import Plan

CLASSES, TX, KEY = 3, optax.sgd(0.1), jax.random.key(7)


def problem(inputs=4, count=5, classes=CLASSES):
    rng = np.random.default_rng(3)
    return Batch(jnp.asarray(rng.normal(size=(count, inputs))), jnp.asarray(rng.integers(0, classes, count)))


def restated(layers):
    """Layers with blocks as dicts of arrays."""
    parts = [weights(layer.block) | ({} if layer.M is None else {"M": np.asarray(layer.M)}) for layer in layers]
    return [{name: np.asarray(a, np.float64) for name, a in part.items()} for part in parts]


def start(module, net, batch, classes=CLASSES, **options):
    """A state of random float64 parameters."""
    state = module.init(KEY, batch.x, net=net, tx=TX, num_classes=classes, **options)
    return state._replace(params=drawn(state.params))


# --- forward gradients -----------------------------------------------------------------------------------------------

FORWARD = [
    {},
    {"readout": "estimated", "num_directions": 2},
    {"loss": "global", "readout": "estimated"},
    {"perturb": "weights", "num_directions": 2},
    {"perturb": "weights", "loss": "global", "readout": "estimated", "distribution": "rademacher"},
]


def directions_of(part, sums, options, at):
    """Direction number ``at`` of a part's layers, as the restatement has it."""
    settings = forward_gradient.Options(**options)
    draw = partial(forward_gradient._directions, KEY, options=settings)
    if options.get("perturb") == "weights":
        is_exact = options.get("readout") != "estimated"
        layers = [layer._replace(M=None) if is_exact else layer for layer in part.layers]
        drawn = [draw(i, layer) for i, layer in zip(part.numbers, layers, strict=True)]
        return restated(jax.tree.map(lambda v: v[at], drawn))
    moved = [{"z": np.asarray(draw(i, z)[at])} for i, z in zip(part.numbers, sums, strict=True)]
    if options.get("readout") == "estimated":
        scores = jnp.zeros((len(sums[0]), CLASSES))
        key = jax.random.fold_in(KEY, part.numbers[-1])
        moved[-1]["G"] = np.asarray(forward_gradient._directions(key, 0, scores, settings)[at])
    return moved


@pytest.mark.parametrize("options", FORWARD, ids=range(len(FORWARD)))
def test_forward_gradients_equal_the_restatement(float64, options):
    net, batch, k = nets.mlp([4, 3]), problem(), options.get("num_directions", 1)
    params = start(forward_gradient, net, batch, **options).params
    found, metrics = jit(partial(forward_gradient.grads, net=net, **options))(params, batch, KEY)
    a, want, losses = np.asarray(batch.x), [], []
    for part in forward_gradient._parts(params, ({},) * 2, net):
        sums = [jnp.zeros((len(a), width)) for width in [(4, 3)[i - 1] for i in part.numbers]]
        layers = restated(part.layers)
        estimates = [dual.estimate(layers, a, batch.y, directions_of(part, sums, options, at)) for at in range(k)]
        g = jax.tree.map(lambda *parts: sum(parts) / k, *[estimate[0] for estimate in estimates])
        a, loss = estimates[0][1:]
        want, losses = [*want, *g], [*losses, loss]
    near(restated(found), want)
    np.testing.assert_allclose(metrics["layer_loss"], losses, rtol=1e-12)


def samples(options, net, batch, count, spread=1.0, monkeypatch=None):
    """Estimates (count, P) for as many keys, the exact gradient (P,), and how many numbers were moved."""
    if spread != 1.0:
        draw = forward_gradient._directions
        wrong = lambda *args: jax.tree.map(lambda v: spread * v, draw(*args))
        monkeypatch.setattr(forward_gradient, "_directions", wrong)
    params = start(forward_gradient, net, batch, 2, **options).params

    def loss(params):
        a = batch.x
        for block, layer in zip(net, params, strict=True):
            a = block.apply(layer.block, a)
        return base.cross_entropy(a @ params[-1].M.T, batch.y)

    vector = lambda tree: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    one = lambda key: vector(forward_gradient.grads(params, batch, key, net=net, **options)[0])
    return np.asarray(jit(jax.vmap(one))(jax.random.split(KEY, count))), np.asarray(vector(jax.grad(loss)(params)))


def off(values, expected):
    """How many standard errors the mean of each column is away, at most."""
    return np.abs((values.mean(0) - expected) / (values.std(0) / np.sqrt(len(values)) + 1e-12)).max()


ESTIMATED = {"readout": "estimated"}
LAWS = [
    {"perturb": "weights", **ESTIMATED},
    {"perturb": "weights", "distribution": "rademacher"},
    {**ESTIMATED, "distribution": "rademacher"},
    {},
]


@pytest.mark.parametrize("options", LAWS, ids=range(len(LAWS)))
def test_estimates_have_the_gradient_as_their_mean(float64, options, monkeypatch):
    """Within 4 standard errors over 1e5 directions; directions of variance 1.1 are more than 4 away."""
    net, batch = nets.mlp([2]), problem(2, 3, 2)
    found, exact = samples(options, net, batch, 100_000)
    assert off(found, exact) < 4
    found, exact = samples(options, net, batch, 100_000, 1.1**0.5, monkeypatch)
    assert off(found, exact) > 4


@pytest.mark.parametrize("perturb", ["weights", "activities"])
@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
def test_variances_are_the_closed_forms(float64, perturb, distribution):
    """(P + 1) |G|^2 or (P - 1) |G|^2; of activities, with one sample, for the bias alone: db is g(z) itself."""
    net, batch = nets.mlp([3]), problem(2, 1 if perturb == "activities" else 3, 2)
    readout = "estimated" if perturb == "weights" else "exact"
    options = {"perturb": perturb, "distribution": distribution, "readout": readout}
    found, exact = samples(options, net, batch, 100_000)
    moved = slice(None) if perturb == "weights" else slice(0, 3)  # leaves in their order: bias, kernel, M
    found, exact = found[:, moved], exact[moved]
    squares = ((found - exact) ** 2).sum(1)[:, None]
    law = partial(dual.total_variance, len(exact), exact @ exact)
    other = {"normal": "rademacher", "rademacher": "normal"}[distribution]
    assert off(squares, law(distribution)) < 4 < off(squares, law(other))


def test_directions_of_one_layers_weights_move_its_sums_as_directions_of_activities_do(float64):
    """z moves by v_W^T x + v_b, of variance |x|^2 + 1 in every unit: directions of z, but for that length."""
    batch, layer = problem(4, 1), start(forward_gradient, nets.mlp([3]), problem(4, 1)).params[0]
    v = forward_gradient._directions(KEY, 1, layer._replace(M=None), forward_gradient.Options(num_directions=50_000))
    dense = v.block["params"]["Dense_0"]
    shifts = jnp.einsum("i,kio->ko", batch.x[0], dense["kernel"]) + dense["bias"]
    scaled = np.asarray(shifts) / np.sqrt((batch.x[0] ** 2).sum() + 1)
    assert off(scaled, 0) < 4 and off(scaled**2, 1) < 4 and off(scaled[:, :1] * scaled[:, 1:], 0) < 4
    assert off((1.1 * scaled) ** 2, 1) > 4  # the control


def test_nothing_but_forward_derivatives_is_asked_for(monkeypatch):
    """Reverse mode raises; BP is the control. Dense layers alone: a convolution's kernel has a transposed product."""

    def refused(*args, **kwargs):
        raise AssertionError("reverse mode")

    net, batch = nets.mlp([4, 3]), jax.tree.map(lambda a: a.astype(jnp.float32) if a.ndim > 1 else a, problem())
    states = [(module, start(module, net, batch)) for module in (forward_gradient, zeroth_order)]
    for name in ("grad", "value_and_grad", "vjp", "linearize"):
        monkeypatch.setattr(jax, name, refused)
    for module, state in states:
        jax.eval_shape(partial(module.update, net=net, tx=TX), state, batch, KEY)
    with pytest.raises(AssertionError, match="reverse mode"):
        bp.grads(bp.init(KEY, batch.x, net=net, tx=TX, num_classes=3).params, batch, KEY, net=net)


# --- zeroth order ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"eps": 0.1}, {"eps": 0.02, "num_directions": 3, "distribution": "rademacher"}])
def test_zeroth_order_equals_the_restatement(float64, options):
    net, batch = nets.mlp([4, 3]), problem()
    state = start(zeroth_order, net, batch, **options)
    settings = zeroth_order.Options(**options)
    keys = jax.random.split(jax.random.fold_in(KEY, 0), settings.num_directions)
    draw = lambda k, i, layer: _forward_passes.directions(jax.random.fold_in(k, i), layer, settings.distribution)
    v = [restated(draw(k, i, layer) for i, layer in enumerate(state.params, start=1)) for k in keys]
    want, loss = difference.estimate(restated(state.params), np.asarray(batch.x), batch.y, v, options["eps"])
    found, metrics = jit(partial(zeroth_order.grads, net=net, **options))(state.params, batch, KEY)
    near(restated(found), want, 1e-9)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-12)
    stepped, _ = jit(partial(zeroth_order.update, net=net, tx=TX, **options))(state, batch, KEY)
    near(stepped.params, jax.tree.map(lambda a, g: a - 0.1 * g, state.params, found))


def test_on_a_quadratic_the_quotient_is_the_directional_derivative(float64):
    rng = np.random.default_rng(0)
    A, theta = rng.normal(size=(6, 6)), jnp.asarray(rng.normal(size=6))
    options = zeroth_order.Options()
    v = np.asarray(_forward_passes.directions(KEY, theta, options.distribution))

    def quotient(f, eps):
        return zeroth_order.slope(lambda step: (f(zeroth_order.shifted(KEY, theta, step, options)), ()), eps)[0]

    for eps in (0.01, 3.0):
        expected = ((A + A.T) @ np.asarray(theta) + 1) @ v
        np.testing.assert_allclose(quotient(lambda a: a @ A @ a + a.sum(), eps), expected, rtol=1e-10)
    cubic = (3 * np.asarray(theta) ** 2) @ v
    assert abs(quotient(lambda a: (a**3).sum(), 3.0) - cubic) > 0.1  # the control: eps^2 sum v^3 too much


def test_the_weak_directions_of_the_past_are_taken_out(float64):
    rng = np.random.default_rng(1)
    past = {"a": rng.normal(size=(5, 2, 4)) * np.array([3, 2, 1, 0.5]), "b": rng.normal(size=(5, 3))}
    g = {"a": rng.normal(size=(2, 4)), "b": rng.normal(size=3)}
    rows = np.concatenate([past["a"].reshape(5, -1), past["b"]], axis=1)
    vector = np.concatenate([g["a"].ravel(), g["b"]])
    for share in (0.4, 0.7, 0.9, 1.0):
        left = zeroth_order._without(g, zeroth_order.noise_of(jax.tree.map(jnp.asarray, past), share))
        found = np.concatenate([np.asarray(left["a"]).ravel(), left["b"]])
        np.testing.assert_allclose(found, difference.without_noise(vector, rows, share), atol=1e-9)
        assert np.allclose(found, vector) == (share == 1.0)


def test_the_subspace_is_of_the_last_parameters(float64):
    """Nothing is taken out before the history is full; then what its weak directions say."""
    net, batch, options = nets.mlp([3]), problem(), {"history": 3, "variance": 0.6}
    state, past = start(zeroth_order, net, batch, **options), []
    to_double = lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a
    state = state._replace(subspace=jax.tree.map(to_double, state.subspace))
    update = jit(partial(zeroth_order.update, net=net, tx=TX, **options))
    grads = jit(partial(zeroth_order.grads, net=net, **options))
    for at in range(4):
        g, _ = grads(state.params, batch, KEY, subspace=state.subspace)
        whole, _ = grads(state.params, batch, KEY)
        assert differ(g, whole) == (at == 3)
        state, _ = update(state, batch, jax.random.fold_in(KEY, at))
        past.append(np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.params)]))
        vector, taken = (np.concatenate([np.asarray(a).ravel() for a in jax.tree.leaves(of)]) for of in (whole, g))
    np.testing.assert_allclose(taken, difference.without_noise(vector, np.stack(past[:3]), 0.6), atol=1e-8)


def test_memory_of_zeroth_order_does_not_grow_with_depth(users_compilation, monkeypatch):
    """Temporary bytes, by the compiler. The control: directions that nothing holds back are drawn all at once."""

    def temporary(depth):
        rule = zeroth_order.rule(nets.mlp([64] * depth), optax.sgd(0.1), num_classes=3, distribution="rademacher")
        return measure.compile_step(rule, (64,), 128).compiled.memory_analysis().temp_size_in_bytes

    layer = 64 * 64 * 4
    assert temporary(4) - temporary(2) < layer / 2
    monkeypatch.setattr(zeroth_order, "after", lambda a, done: a)
    assert temporary(4) - temporary(2) > layer


# --- PhyLL -----------------------------------------------------------------------------------------------------------

EXAMPLE = {
    "pos": np.array([[1, -1, 0.5], [0.2, 0.4, -0.6]]),
    "neg": np.array([[1, 1, -0.5], [-0.2, 0.4, 0.6]]),
    "xi": np.array([0.6, -0.8]),
    "W": np.array([[-0.9, -0.4], [0.1, 0.6], [1.1, -0.9]]),
    "b": np.array([0.05, -0.05]),
}


def test_worked_example_of_phyll(float64):
    block = nets.mlp([2])[0]
    weights_of = {"params": {"Dense_0": {"kernel": jnp.asarray(EXAMPLE["W"]), "bias": jnp.asarray(EXAMPLE["b"])}}}
    F = jnp.concatenate([EXAMPLE["pos"], EXAMPLE["neg"]])
    of_layer = partial(phyll._gradient, block=block, F=F, xi=jnp.asarray(EXAMPLE["xi"]), options=phyll.Options())
    g, loss = of_layer(weights_of)
    dense = g["params"]["Dense_0"]
    np.testing.assert_allclose(loss, 2.6054215579, atol=6e-11)
    expected = [[0.523039, -1.505076], [-0.869142, 0.195590], [0.353774, 0.642995]]
    np.testing.assert_allclose(dense["kernel"], expected, atol=6e-7)
    np.testing.assert_allclose(dense["bias"], [1.958998, 1.402825], atol=6e-7)
    loss, g = physical.gradient(EXAMPLE, EXAMPLE["pos"], EXAMPLE["neg"])
    np.testing.assert_allclose(loss, 2.6054215579, atol=6e-11)
    np.testing.assert_allclose(g["W"], expected, atol=6e-7)


@pytest.mark.parametrize("goodness", ["abs", "activation"])
def test_the_closed_form_is_the_gradient_and_knows_no_scale(float64, goodness):
    net, batch = nets.mlp([4, 3], activation=jax.nn.gelu), problem(6)
    how = {"net": net, "num_classes": CLASSES, "goodness": goodness, "physics": "none"}
    state = phyll.init(KEY, batch.x, tx=TX, **how)
    params = drawn(state.params)

    @jit
    def both(params, theta):
        at = partial(phyll.grads, batch=batch, key=KEY, xi=state.xi, theta=theta, **how)
        first = jax.grad(lambda layer: at((layer, params[1]))[1]["layer_loss"][0])  # layer 2's inputs are constants
        return at(params), first(params[0])

    (g, metrics), first = both(params, 4.0)
    near(g[0], first, 1e-10)
    if goodness == "abs":
        for layer, of_layer in zip(g, params, strict=True):
            inner = sum(np.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (layer, of_layer)), strict=True))
            np.testing.assert_allclose(inner, 0, atol=1e-14)
    assert all(np.log1p(np.exp(-8)) < value < np.log1p(np.exp(8)) for value in metrics["layer_loss"])
    (g, metrics), _ = both(params, 0.0)
    np.testing.assert_allclose(metrics["layer_loss"], np.log(2))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(g))  # theta = 0 teaches nothing


def black_box(h, key):
    """A measurement that no one differentiates: its derivative raises."""

    @jax.custom_jvp
    def box(h):
        return jnp.abs(jnp.sin(3 * h)) + 0.1 * h**2

    @box.defjvp
    def raises(primals, tangents):
        raise AssertionError("the physics was differentiated")

    return box(h)


@pytest.mark.parametrize(("inner_steps", "physics"), [(1, "optics"), (3, "optics"), (3, "box"), (3, "host")])
def test_phyll_equals_the_restatement(float64, inner_steps, physics):
    """A simulated medium, a function whose derivative raises, and a host function."""
    net, batch = nets.mlp([4, 6], activation=nets.ACTIVATIONS["identity"]), problem(6)
    seen = lambda h: np.abs(np.sin(3 * h)) + 0.1 * h**2
    boxes = (phyll.on_host(seen, 6), phyll.on_host(seen, 4))
    box = {"optics": None, "box": black_box, "host": boxes}[physics]
    how = {"net": net, "num_classes": CLASSES, "black_box": box, "inner_steps": inner_steps}
    state = phyll.init(KEY, batch.x, tx=TX, **how)
    state = state._replace(params=drawn(state.params))
    layers = [weights(block) | {"xi": np.asarray(xi)} for block, xi in zip(state.params, state.xi, strict=True)]
    of_layer = (lambda t, h: physical.optics(h, np.asarray(state.phases[t]))) if box is None else lambda t, h: seen(h)
    y_neg = phyll.wrong_labels(jax.random.split(KEY)[0], batch.y, CLASSES)
    assert (y_neg != batch.y).all()
    x = np.asarray(batch.x)
    layers, losses = physical.step(layers, of_layer, x, batch.y, y_neg, CLASSES, 0.1, inner_steps)
    stepped, metrics = jit(partial(phyll.update, tx=TX, **how))(state, batch, KEY)
    near([weights(block) for block in stepped.params], [{k: layer[k] for k in "Wb"} for layer in layers], 1e-9)
    np.testing.assert_allclose(metrics["layer_loss"], losses, rtol=1e-9)
    scores = jit(partial(phyll.predict, **how))(stepped, batch.x)
    np.testing.assert_allclose(scores, physical.scores(layers, of_layer, x, CLASSES), atol=1e-9)


def test_a_black_box_whose_derivative_raises_is_seen_where_it_is_differentiated():
    with pytest.raises(AssertionError, match="was differentiated"):
        jax.grad(lambda h: black_box(h, None).sum())(jnp.ones((2, 3)))


def test_predictions_have_their_derivative_and_refuse_that_of_a_black_box(float64):
    """c_2 by the first layer's weights: by differences; held constant, as a step holds it, it would be 0."""
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 6)))

    def slopes(**physics):
        how = {"net": nets.mlp([4, 6]), "num_classes": CLASSES, **physics}
        state = phyll.init(KEY, x, tx=TX, **how)
        kernel = state.params[0]["params"]["Dense_0"]["kernel"]
        away = jnp.asarray(np.random.default_rng(1).normal(size=kernel.shape))

        def c_2(step):
            first = {"params": {"Dense_0": {**state.params[0]["params"]["Dense_0"], "kernel": kernel + step * away}}}
            return phyll.layer_scores(state._replace(params=(first, state.params[1])), x, **how)[1].sum()

        return jax.grad(c_2)(0.0), (c_2(1e-6) - c_2(-1e-6)) / 2e-6

    for physics in ("none", "optics"):
        slope, difference = slopes(physics=physics)
        assert abs(slope) > 1e-3 and float(slope) == pytest.approx(float(difference), rel=1e-5)
    with pytest.raises(UsageError, match="a black box is measured and has no derivative"):
        slopes(black_box=black_box)


def test_a_start_measures_nothing_and_a_state_with_keys_is_stepped():
    calls = []

    def measured(h):
        calls.append(len(h))
        return np.abs(h[:, ::-1])

    x, y = jnp.ones((3, 6)), jnp.array([0, 1, 2])
    rule = phyll.rule(
        nets.mlp([6, 6]), optax.noisy_sgd(0.1, key=KEY), num_classes=3, black_box=phyll.on_host(measured, 6)
    )
    state = rule.init(KEY, x)
    assert not calls
    new, _ = rule.update(state, Batch(x, y), KEY)
    assert calls == [6, 6]  # positives and negatives, once a layer
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(new.params), jax.tree.leaves(state.params), strict=True))


def test_wrong_labels_are_all_alike():
    y = jnp.tile(jnp.arange(4), 3000)
    drawn = np.asarray(phyll.wrong_labels(KEY, y, 4))
    counts = np.array([[((y == a) & (drawn == b)).sum() for b in range(4)] for a in range(4)])
    assert (np.diag(counts) == 0).all()
    assert np.abs(counts[~np.eye(4, dtype=bool)] - 1000).max() < 5 * np.sqrt(1000 * 2 / 3)


@pytest.mark.parametrize(
    ("module", "options", "line"),
    [
        (forward_gradient, {"num_directions": 0}, "from 1; got 0"),
        (zeroth_order, {"eps": 0.0}, "eps is the length"),
        (zeroth_order, {"history": 1}, "0 or at least 2"),
        (zeroth_order, {"history": 2, "variance": 1.5}, "variance is a share"),
        (zeroth_order, {"num_directions": 1.5}, "num_directions is an integer; got 1.5"),
        (phyll, {"inner_steps": 0}, "from 1; got 0"),
        (phyll, {"inner_steps": 2.5}, "inner_steps is an integer; got 2.5"),
        (phyll, {"theta": -1.0}, "theta is above 0"),
        (phyll, {"physics": "none", "skip": "concat"}, "layers behind physics"),
        (phyll, {"black_box": (black_box,)}, "1 black boxes for 2 layers"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(module, options, line):
    with pytest.raises(UsageError, match=line) as refused:
        module.rule(nets.mlp([4, 3]), TX, num_classes=3, **options)
    assert "\n" not in str(refused.value)


def test_blocks_that_cannot_be_taken_apart_may_have_directions_of_their_weights():
    net, batch = (nets.Dense(4, norm="batch"),), problem()
    with pytest.raises(UsageError, match="perturb='weights', which takes any block"):
        forward_gradient.rule(net, TX, num_classes=3)
    rule = forward_gradient.rule(net, TX, num_classes=3, perturb="weights")
    state, _ = jit(rule.update)(rule.init(KEY, batch.x), batch, KEY)
    assert state.statistics


def test_the_vowels_have_their_form_and_are_learnt_through_a_black_box():
    """7 vowels, 258 rows, 8 zeros in front; the controls: a constant in the place of physics, shuffled labels."""
    vowels = data.vowels(0)
    assert (len(vowels.x_train), len(vowels.x_test)) == (206, 52) and vowels.x_train.shape[1] == 20
    rows = np.concatenate([vowels.x_train, vowels.x_test])
    assert not rows[:, :8].any() and rows.min() == 0
    counts = np.bincount(np.concatenate([vowels.y_train, vowels.y_test]))
    np.testing.assert_array_equal(sorted(counts), [36] + [37] * 6)
    plan = Plan(epochs=60, batch_size=None, keep="last", normalise="none")

    def accuracy(dataset=vowels, **options):
        rule = phyll.rule(nets.mlp([20, 20]), optax.adam(5e-3), num_classes=7, inner_steps=10, **options)
        return fit(rule, dataset, plan).test_accuracy

    assert accuracy(skip="concat") > 0.85
    assert accuracy(black_box=lambda h, key: jnp.ones_like(h)) < 0.4
