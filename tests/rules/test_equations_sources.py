"""Options that the sources have beside each rule's default, against restatements in float64 and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference.bp as bp_restated
import reference.cwc as cwc_restated
import reference.feedback as feedback_restated
import reference.ff as ff_restated
import reference.pepita as pepita_restated
from comparing import differ, drawn, jit, layers_of, near, weights
from reference.mf import cross_entropy

import fwdonly
from fwdonly import Batch, UsageError, bp, cwc, descent, feedback, ff, foton, nets, pepita

CLASSES, BATCH = 3, 8
SGD = optax.sgd(0.1)
NET = nets.mlp([7, 6, 5])
KEY = jax.random.key(5)


def problem(shape=(9,), seed=0, low=-1.0, high=1.0):
    """Random images and labels of which none is missing, in float64."""
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=BATCH)
    y[:CLASSES] = np.arange(CLASSES)
    return Batch(jnp.asarray(rng.uniform(low, high, size=(BATCH, *shape))), jnp.asarray(y, jnp.int32))


# --- Backpropagation -------------------------------------------------------------------------------------------------


def test_smoothed_labels_equal_the_restatement(float64):
    """The loss is linear in the target: (1 - eps) of that of the labels, and eps / C of that of every class."""
    params, batch = started("fa").params, problem()
    take = jit(partial(bp.grads, net=NET))
    found, metrics = take(bp.Params(*params), batch, KEY, label_smoothing=0.2)
    layers, x, y = layers_of(params), *map(np.asarray, batch)
    every = [bp_restated.gradients(layers, x, labels) for labels in (y, *(np.full_like(y, c) for c in range(CLASSES)))]
    shares = [0.8, *[0.2 / CLASSES] * CLASSES]
    loss = sum(share * one for share, (one, _) in zip(shares, every, strict=True))
    parts = [jax.tree.map(lambda g, share=share: share * g, one) for share, (_, one) in zip(shares, every, strict=True)]
    near((metrics["loss"], layers_of(found)), (loss, jax.tree.map(lambda *g: sum(g), *parts)))
    assert differ(loss, every[0][0], 1e-3)  # the control
    near(take(bp.Params(*params), batch, KEY)[1]["loss"], every[0][0])
    for options, words in (
        ({"label_smoothing": 1.0}, "below 1"),
        ({"label_smoothing": 0.1, "hidden": "frozen"}, "frozen"),
    ):
        with pytest.raises(UsageError, match=words):
            bp.rule(NET, SGD, num_classes=CLASSES, **options)


# --- Forward-Forward -------------------------------------------------------------------------------------------------


FF_NET = nets.mlp([7, 6])


def ff_layers():
    """Random layers of FF, as its state and as the restatement has them."""
    init = partial(ff.init, net=FF_NET, tx=SGD, num_classes=CLASSES)
    shapes = jax.eval_shape(init, KEY, jax.ShapeDtypeStruct((1, 9), jnp.float64))
    params = drawn(shapes.params)
    return params, [weights(layer.block) for layer in params]


FF_FORMS = {
    "temperature": ({"loss": "logistic", "temperature": 3.0}, {"loss": "logistic", "temperature": 3.0}),
    "low": ({"loss": "logistic", "positives": "low"}, {"loss": "logistic", "sign": -1}),
    "low pairs": ({"loss": "symba", "positives": "low"}, {"loss": "symba", "alpha": 4.0, "sign": -1}),
    "swish": ({"loss": "swish"}, {"loss": "swish", "alpha": 6.0}),
    "sharp swish": ({"loss": "swish", "alpha": 2.0}, {"loss": "swish", "alpha": 2.0}),
    "identity": ({"loss": "logistic", "relu_gradient": "identity"}, {"loss": "logistic"}),
}


@pytest.mark.parametrize("form", FF_FORMS)
def test_forms_of_ff_equal_the_restatement(form, float64):
    """Of a dense layer full-gradient ReLU is the gated one: the slope of a square is 0 where a unit is off."""
    options, restated = FF_FORMS[form]
    params, layers = ff_layers()
    batch = problem()
    options = {"label_strength": 1.0, **options}
    gradients, metrics = jit(partial(ff.grads, net=FF_NET, **options))(params, batch, KEY)
    x, y = map(np.asarray, batch)
    y_neg = np.asarray(ff.wrong_labels(KEY, jnp.asarray(head_of(params, x)), batch.y))
    n_pos, n_neg = (ff_restated.rms(ff_restated.overlay(x, np.eye(CLASSES)[labels])) for labels in (y, y_neg))
    for at, layer in enumerate(layers):
        loss, dW, db = ff_restated.layer_gradient(layer, n_pos, n_neg, **restated)
        near((metrics["layer_loss"][at], weights(gradients[at].block)), (loss, {"W": dW, "b": db}))
        other = ff_restated.layer_gradient(layer, n_pos, n_neg, loss="logistic", temperature=0.5)  # the control
        assert differ(loss, other[0]) and differ(dW, other[1])
        n_pos, n_neg = (ff_restated.rms(np.maximum(n @ layer["W"] + layer["b"], 0)) for n in (n_pos, n_neg))


def head_of(params, x):
    """sum_l n_l U_l of the neutral label, from layer 2 on."""
    n, q = ff_restated.rms(ff_restated.neutral(x, CLASSES)), 0
    for layer in params:
        block = weights(layer.block)
        n = ff_restated.rms(np.maximum(n @ block["W"] + block["b"], 0))
        q = q + (0 if layer.U is None else n @ np.asarray(layer.U))
    return q


def test_low_positives_predict_the_label_of_least_activity(float64):
    params, _ = ff_layers()
    state, batch = ff.State(params, (), (), ()), problem()
    high, low = (
        jit(partial(ff.predict, net=FF_NET, loss="logistic", positives=positives))(state, batch.x)
        for positives in ("high", "low")
    )
    near(low, -high)


def test_pooled_units_that_are_off_notice_a_full_gradient(float64):
    """Mean of two units of which one is off: a slope of 1 for both, by hand."""
    block = nets.Dense(2)
    W = {"params": {"Dense_0": {"kernel": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)}}}
    for of_block, want in ((block, [4.0, 0.0]), (nets.straight(block), [4.0, 4.0])):
        slope = jax.grad(lambda W, of_block=of_block: of_block.apply(W, jnp.array([[2.0]])).sum() ** 2 / 2)(W)
        near(slope["params"]["Dense_0"]["kernel"], np.array([want]))
    near(nets.straight(block).apply(W, jnp.array([[2.0]])), np.array([[2.0, 0.0]]))


# --- PEPITA and FOTON ------------------------------------------------------------------------------------------------


def two_pass(module, net, **options):
    """Random state and batch of PEPITA or FOTON, and their pseudo-gradients as layers."""
    init = partial(module.init, net=net, tx=SGD, num_classes=CLASSES)
    shapes = jax.eval_shape(init, KEY, jax.ShapeDtypeStruct((1, 9), jnp.float64))
    params, F, batch = drawn(shapes.params), drawn(shapes.F, seed=2), problem()
    found, metrics = jit(partial(module.grads, net=net, **options))(params, batch, KEY, F=F)
    layers = layers_of(params)
    return layers_of(found), metrics["loss"], (layers, np.asarray(F).T, np.asarray(batch.x), np.eye(CLASSES)[batch.y])


PLAIN = nets.mlp([7, 6], bias="none")


@pytest.mark.parametrize("form", ["mse", "batch"])
def test_forms_of_pepita_equal_the_restatement(form, float64):
    options = {"error": "mse"} if form == "mse" else {"hidden_norm": "batch"}
    found, loss, given = two_pass(pepita, PLAIN, dropout=0.0, **options)
    masks = [1.0, 1.0]
    near(found, pepita_restated.pseudo_gradients(*given, masks, 1.0, **options))
    assert differ(found, pepita_restated.pseudo_gradients(*given, masks, 1.0), 1e-4)  # the control
    if form == "mse":
        layers, _, x, t = given
        near(loss, 0.5 * ((pepita_restated.forward(layers, x, masks)[2] - t) ** 2).sum(1).mean())


def test_batch_normalised_pepita_predicts_the_classes_of_the_normalised_pass(float64):
    """Without biases each layer only changes the length of all its activities together."""
    _, _, (layers, _, x, _) = two_pass(pepita, PLAIN, dropout=0.0, hidden_norm="batch")
    plain, normalised = (pepita_restated.forward(layers, x, [1.0, 1.0], hidden_norm=n)[2] for n in ("none", "batch"))
    assert (plain.argmax(1) == normalised.argmax(1)).all()
    near(normalised / normalised[0, 0], plain / plain[0, 0])


def test_fotons_derivative_is_its_second_pass_where_nothing_bends(float64):
    """Equal to rounding on a linear network and in the limit of small perturbations; not with ReLU and eps = 1."""
    linear = nets.mlp([7, 6], activation=nets.identity, bias="none")
    near(two_pass(foton, linear, jvp=True)[0], two_pass(foton, linear)[0], 1e-12)
    derivative = two_pass(foton, PLAIN, jvp=True)[0]
    near(derivative, two_pass(foton, PLAIN, perturbation=1e-7)[0], 1e-6)
    assert differ(derivative, two_pass(foton, PLAIN)[0], 1e-3)  # the control
    with pytest.raises(UsageError, match="perturbation does nothing with jvp=True"):
        two_pass(foton, PLAIN, jvp=True, perturbation=0.01)


# --- CwC -------------------------------------------------------------------------------------------------------------


def cwc_state(net, **options):
    """Random parameters, positive statistics, and the gradients and metrics at them."""
    init = partial(cwc.init, net=net, tx=SGD, num_classes=4, **options)
    shapes = jax.eval_shape(init, KEY, jax.ShapeDtypeStruct((1, 9), jnp.float64))
    params, statistics = drawn(shapes.params), jax.tree.map(jnp.ones_like, drawn(shapes.statistics))
    batch = problem()
    batch = batch._replace(y=jnp.arange(BATCH, dtype=jnp.int32) % 4)
    take = jit(partial(cwc.grads, net=net, num_classes=4, **options))
    return cwc.State(params, (), statistics), batch, *take(params, batch, KEY, statistics=statistics)


def cwc_layer(params):
    """A layer, or its gradient, as the restatement takes it."""
    own = params["params"]
    return weights(own["block"]) | {name: np.asarray(own[name]) for name in ("gamma", "beta")}


@pytest.mark.parametrize("loss", ["pvn", "cwg"])
def test_losses_of_cwc_equal_the_restatement(loss, float64):
    """With super-classes in layer 1: two of two classes each."""
    state, batch, gradients, metrics = cwc_state(nets.mlp([6, 8]), loss=loss, class_groups=(2, 4))
    a, y = map(np.asarray, batch)
    for at, (params, classes) in enumerate(zip(state.params, (2, 4), strict=True)):
        layer = cwc_layer(params)
        value, want, out = cwc_restated.competitive_gradient(layer, a, y * classes // 4, classes, loss=loss)
        near((metrics["layer_loss"][at], cwc_layer(gradients[at])), (value, want))
        plain = cwc_restated.competitive_gradient(layer, a, y * classes // 4, classes)  # the control
        assert differ(value, plain[0], 1e-3) and differ(want["W"], plain[1]["W"], 1e-3)
        a = out


def test_the_readout_of_cwc_learns_by_softmax_regression_and_moves_no_layer(float64):
    net = nets.mlp([4, 8])
    state, batch, gradients, metrics = cwc_state(net, readout=True)
    a, y = map(np.asarray, batch)
    for params in state.params[:2]:
        _, _, a = cwc_restated.competitive_gradient(cwc_layer(params), a, y, 4)
    W, b = map(np.asarray, state.params[-1])
    loss, E = cross_entropy(a @ W + b, y)
    near((metrics["readout_loss"], *gradients[-1]), (loss, a.T @ E, E.sum(0)))
    without = jit(partial(cwc.grads, net=net, num_classes=4))(state.params[:2], batch, KEY, statistics=state.statistics)
    near(gradients[:2], without[0], 1e-14)
    read = partial(cwc.training_scores, state, batch.x, KEY, net=net, num_classes=4)
    near(read(prediction="softmax"), a @ W + b)
    assert differ(read(prediction="softmax"), read())  # the control


def test_classes_of_a_group_share_its_goodness_and_wrong_groups_are_refused(float64):
    state, batch, *_ = cwc_state(nets.mlp([6, 8]), class_groups=(2, 4))
    scores = cwc.layer_scores(state, batch.x, net=nets.mlp([6, 8]), num_classes=4, class_groups=(2, 4))
    assert scores.shape == (2, BATCH, 4) and differ(scores[0, :, 1], scores[0, :, 2])
    near(scores[0, :, ::2], scores[0, :, 1::2], 1e-14)
    for groups in ((2,), (4, 2), (3, 4), (1, 4)):
        with pytest.raises(UsageError, match="class_groups are the classes of 2 layers"):
            cwc.rule(nets.mlp([6, 8]), SGD, num_classes=4, class_groups=groups)
    with pytest.raises(UsageError, match="readout=True"):
        cwc.rule(nets.mlp([8]), SGD, num_classes=4, prediction="softmax")


# --- Optimizers per layer -------------------------------------------------------------------------------------------


LAYERED = {
    "bp": 3,
    "mf": 2,
    "ff": 2,
    "cafo": 2,
    "cwc": 2,
    "deeperforward": 2,
    "foton": 3,
    "forward_gradient": 2,
    "zeroth_order": 2,
    "scff": 3,
}
"""Layers that two blocks have, with the output layer where there is one; PEPITA and feedback alignment step as BP."""


def entries(rule, params):
    """What every layer trains."""
    if hasattr(params, "W"):
        return [*params.blocks, (params.W, params.b)]
    return list(params.heads if rule == "cafo" else params)


def stepped(rule, tx, **options):
    """What a step of the rule changes, per layer, and what its gradient is."""
    of_rule = fwdonly.RULES[rule].rule(nets.mlp([6, 3]), tx, num_classes=CLASSES, **options)

    def step(key, batch):
        state = of_rule.init(key, batch.x)
        gradients = of_rule.grads(state, batch, key)[0]
        moved = jax.tree.map(jnp.subtract, of_rule.update(state, batch, key)[0].params, state.params)
        return entries(rule, moved), entries(rule, gradients)

    return jit(step)(KEY, problem())


@pytest.mark.parametrize("rule", LAYERED)
def test_every_layer_steps_by_its_own_optimizer(rule):
    """SGD of another rate per layer moves layer l by -rate_l times its gradient; FOTON's retraction comes after it."""
    rates = [1.0, 0.3, 3.0][: LAYERED[rule]]
    options = {"retract_every": 2} if rule == "foton" else {}
    moved, gradients = stepped(rule, fwdonly.by_layer(map(optax.sgd, rates)), **options)
    for change, gradient, rate, other in zip(moved, gradients, rates, rates[::-1], strict=True):
        near(change, jax.tree.map(lambda g, rate=rate: -rate * g, gradient), 1e-4)
        assert rate == other or differ(change, jax.tree.map(lambda g, rate=other: -rate * g, gradient), 1e-3)  # control


@pytest.mark.parametrize("at", [0, 1])
def test_a_layer_of_phyll_rests_while_the_other_one_steps(at):
    """Its second layer sees what the first one hands on after its step, so that rates are no factors."""
    moved, _ = stepped("phyll", fwdonly.by_layer([optax.sgd(float(at == 0)), optax.sgd(float(at == 1))]))
    changes = [max(float(jnp.abs(a).max()) for a in jax.tree.leaves(layer)) for layer in moved]
    assert changes[1 - at] == 0.0 < changes[at]


@pytest.mark.parametrize("rule", ["bp", "mf"])
def test_another_number_of_optimizers_than_of_layers_is_refused(rule):
    with pytest.raises(UsageError, match=f"1 optimizers, and this rule trains {LAYERED[rule]} layers"):
        stepped(rule, fwdonly.by_layer([SGD]))
    with pytest.raises(UsageError, match="one per layer"):
        fwdonly.by_layer([])


def test_by_layer_within_a_chain_belongs_to_rules_of_one_step():
    chain = optax.chain(fwdonly.by_layer([SGD] * 3), optax.scale(2.0))
    moved, gradients = stepped("bp", chain)
    near(moved, jax.tree.map(lambda g: -0.2 * g, gradients), 1e-3)
    with pytest.raises(UsageError, match="outermost"):
        stepped("mf", chain)


def test_layers_rest_outside_their_windows_of_epochs(float64):
    """Windows 0-1 and 1-3 of two steps an epoch, and a constant gradient; the count of a schedule rests, too."""
    drops = optax.piecewise_constant_schedule(1.0, {2: 0.1})  # after two steps of a layer
    tx = descent.windowed(optax.sgd(drops), ["0-1", "1-3"], steps=2)
    params = jnp.zeros(2), jnp.zeros(3)

    def step(state, _):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        return state, [update[0] for update in updates]

    first, second = (seen.tolist() for seen in jit(lambda: jax.lax.scan(step, tx.init(params), length=7)[1])())
    assert first == [-1, -1, 0, 0, 0, 0, 0]
    assert second == pytest.approx([0, 0, -1, -1, -0.1, -0.1, 0])
    assert descent.windowed(SGD, (), 2) is SGD
    for text in ("3", "2-1", "0-a", "-1-2"):
        with pytest.raises(UsageError, match="windows such as 0-11"):
            descent.windowed(SGD, [text], 2)


# --- Feedback alignment ----------------------------------------------------------------------------------------------


def started(mode, net=NET, shape=(9,), **options):
    """Random parameters and feedback of a mode."""
    init = partial(feedback.init, net=net, tx=SGD, num_classes=CLASSES, mode=mode, **options)
    shapes = jax.eval_shape(init, KEY, jax.ShapeDtypeStruct((1, *shape), jnp.float64))
    params = drawn(shapes.params)
    opt_state = SGD.init(params if mode != "shallow" else params._replace(blocks=()))
    return feedback.State(params, opt_state, drawn(shapes.B, seed=2))


def sent_by(mode, state):
    """The feedback as the restatement takes it."""
    if mode == "dfa":
        return list(map(np.asarray, state.B))
    return [np.asarray(layer["W"]) for layer in layers_of(state.B)]


@pytest.mark.parametrize("mode", ["fa", "dfa"])
def test_the_two_angles_of_feedback_alignment_equal_the_restatement(mode, float64):
    state, batch = started(mode), problem()
    rule = feedback.rule(NET, SGD, num_classes=CLASSES, mode=mode)
    angles = jit(lambda state: fwdonly.measure.feedback_angles(rule.errors(state, batch, KEY)))
    got = angles(state)
    layers, x, y, B = layers_of(state.params), *map(np.asarray, batch), sent_by(mode, state)
    weights = feedback_restated.ways(layers) if mode == "dfa" else [layer["W"] for layer in layers[1:]]
    cosine = feedback_restated.cosine
    want = [cosine(*pair) for pair in zip(B if mode == "dfa" else B[1:], weights, strict=True)]
    near(got.feedback_cosine, np.array(want))
    errors, exact = (feedback_restated.errors(layers, x, y, way, B) for way in (mode, "bp"))
    near(got.error_cosine, np.array([cosine(*pair) for pair in zip(errors, exact, strict=True)]))
    # The control: by the weights themselves both are 1; by others they are not.
    true = tuple(map(jnp.asarray, feedback_restated.ways(layers))) if mode == "dfa" else state.params
    aligned = angles(state._replace(B=true))
    near(aligned.feedback_cosine, np.ones(3), 1e-12)
    assert (np.abs(got.feedback_cosine) < 0.9).all() and (np.abs(got.error_cosine) < 0.99).all()
    assert mode == "dfa" or (np.abs(1 - aligned.error_cosine) < 1e-12).all()


def test_direct_feedback_by_the_products_of_a_linear_convolutional_net_is_aligned(float64):
    """Without slopes the product of the weights is backpropagation's way, pooling included; with ReLU it is not."""

    def angles(activation):
        net = nets.cnn([3], activation=activation) + nets.mlp([5], activation=activation)
        state, batch = started("dfa", net, (6, 6, 1)), problem((6, 6, 1))
        errors = jit(partial(feedback.errors, net=net, mode="dfa"))
        products = errors(state, batch, KEY).weights
        return fwdonly.measure.feedback_angles(errors(state._replace(B=products), batch, KEY))

    linear, relu = angles(nets.identity), angles(jax.nn.relu)
    near((linear.feedback_cosine, linear.error_cosine), (np.ones(2), np.ones(2)), 1e-12)
    near(relu.feedback_cosine, np.ones(2), 1e-12)
    assert relu.error_cosine[0] < 0.999  # the control


@pytest.mark.parametrize("mode", ["fa", "dfa"])
def test_clipped_errors_equal_the_restatement(mode, float64):
    state, batch = started(mode), problem()
    found = jit(partial(feedback.grads, net=NET, mode=mode, error_clip=0.1))(state.params, batch, KEY, B=state.B)[0]
    layers, x, y, B = layers_of(state.params), *map(np.asarray, batch), sent_by(mode, state)
    near(layers_of(found), feedback_restated.gradients(layers, x, y, mode, B, clip=0.1)[1])
    free = feedback_restated.gradients(layers, x, y, mode, B)[1]  # the control
    assert differ(layers_of(found)[:-1], free[:-1], 1e-3) and not differ(layers_of(found)[-1], free[-1], 1e-12)


@pytest.mark.parametrize(
    ("law", "bounds"),
    [
        ("uniform", (1 / 3000**0.5, 1 / 2500**0.5)),
        ("kaiming", ((6 / 3000) ** 0.5, (6 / 2500) ** 0.5)),
        ("xavier", ((6 / 3003) ** 0.5, (6 / 2503) ** 0.5)),
    ],
)
def test_laws_of_direct_feedback_have_the_bounds_of_the_sources(law, bounds):
    """Uniform on +-bound: the largest of thousands of draws is just below it, and the SD is bound / sqrt(3)."""
    net = nets.mlp([3000, 2500])
    init = partial(feedback.init, net=net, tx=SGD, num_classes=CLASSES, mode="dfa", feedback_law=law)
    B = jit(lambda key, x: init(key, x).B)(KEY, jnp.ones((1, 4)))
    for B_l, bound in zip(B, bounds, strict=True):
        assert 0.998 * bound < np.abs(B_l).max() <= bound * (1 + 1e-6)
        assert np.std(B_l) == pytest.approx(bound / 3**0.5, rel=0.03)


def test_shallow_is_backpropagation_of_the_readout_alone(float64):
    state, batch = started("shallow"), problem()
    tx = optax.chain(optax.add_decayed_weights(0.1), SGD)  # decay would reach hidden layers that are seen
    state = state._replace(opt_state=tx.init(state.params._replace(blocks=())))
    found, _ = jit(partial(feedback.grads, net=NET, B=(), mode="shallow"))(state.params, batch, KEY)
    exact = jit(partial(bp.grads, net=NET))(bp.Params(*state.params), batch, KEY)[0]
    assert found.blocks == (None,) * 3
    near((found.W, found.b), (exact.W, exact.b))
    after = jit(partial(feedback.update, net=NET, tx=tx, mode="shallow"))(state, batch, KEY)[0]
    assert not differ(after.params.blocks, state.params.blocks, 0) and after.params.W.shape == state.params.W.shape
    near(after.params.W, state.params.W - 0.1 * (exact.W + 0.1 * state.params.W))
    others = jit(partial(feedback.update, net=NET, tx=SGD, mode="fa"))(started("fa"), batch, KEY)[0]  # the control
    assert differ(others.params.blocks, state.params.blocks)


def test_a_mirrored_convolution_equals_the_restatement(float64, monkeypatch):
    """A convolution and a dense layer on its pooled maps; P positions count as samples do."""
    noises, uniform = [], jax.random.uniform

    def recorded(*args, **options):
        noise = uniform(*args, **options)
        noises.extend([] if isinstance(noise, jax.core.Tracer) else [noise])  # start values are traced
        return noise

    monkeypatch.setattr(jax.random, "uniform", recorded)
    net, batch = nets.cnn([3]) + nets.mlp([5]), problem((5, 4, 2))
    state = started("wm", net, (5, 4, 2))
    options = {"mode": "wm", "mirror_rate": 0.01, "mirror_noise": 1.5, "mirror_decay": 0.7}
    after = feedback.update(state, batch, KEY, net=net, tx=SGD, part="mirror", **options)[0]
    xi = [np.asarray(noise) for noise in noises[-3:]]
    assert [noise.shape for noise in xi] == [(BATCH, 5, 4, 2), (BATCH, 12), (BATCH, 5)]
    (conv, *dense), (B, *others) = layers_of(state.params), layers_of(state.B)
    want = feedback_restated.mirror_kernel(conv["W"], conv["b"], B["W"], xi[0], 0.01, 0.7, "relu")
    rest = feedback_restated.mirror(dense, others, xi[1:], 0.01, 0.7, "relu", "softmax")
    near([layer["W"] for layer in layers_of(after.B)], [want, *(layer["W"] for layer in rest)])
    assert differ(want, B["W"], 1e-2)  # the control


def test_a_mirrored_kernel_turns_to_the_weights(float64):
    """Without padding every window is full: E of the step is N P A^2 / 12 W, so that B tends to W over the decay."""
    net = (nets.Conv(3, activation=nets.identity, padding="valid", pool="none"),)
    state = started("wm", net, (6, 6, 2))
    options = {"mode": "wm", "mirror_rate": 1e-3, "mirror_noise": 1.0, "mirror_decay": 0.5}

    def step(B, key):
        return feedback.mirrored(state._replace(B=B), key, 100, net=net, shape=(6, 6, 2), **options), None

    B = jit(lambda B: jax.lax.scan(step, B, jax.random.split(KEY, 200))[0])(state.B)
    W, turned, before = (layers_of(tree)[0]["W"] for tree in (state.params, B, state.B))
    assert feedback_restated.cosine(W, turned) > 0.99 > 0.5 > abs(feedback_restated.cosine(W, before))
    assert (W * turned).sum() / (W**2).sum() == pytest.approx(2, rel=0.1)
