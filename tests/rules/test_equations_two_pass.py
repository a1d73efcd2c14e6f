"""PEPITA and FOTON against float64 restatements, closed forms, identities and backpropagation."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
import reference.foton
import reference.pepita
from comparing import backpropagated, differ, drawn, jit, layers_of, near

from fwdonly import Batch, UsageError, _two_pass, bp, foton, nets, pepita
from fwdonly.base import cross_entropy

CLASSES, BATCH, RATE = 3, 8, 0.1
PIXELS = (3, 3)
SGD = optax.sgd(RATE)
KEY = jax.random.key(5)
linear_mlp = partial(nets.mlp, activation=nets.identity, kernel_init=nets.orthogonal, bias="none")
linear_cnn = partial(nets.cnn, activation=nets.identity, kernel_init=nets.orthogonal, bias="none")
patch_cnn = partial(linear_cnn, kernel=2, stride=2, padding="valid")
pixel_cnn = partial(linear_cnn, kernel=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """BLAS with one thread, where that can be told: several that share cores wait for each other most of the time."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(1):
        yield


def orthonormal(tree, seed=1, dtype=np.float64):
    """Random orthonormal matrices (kernels of convolutions count as such) in the shapes of a tree; other leaves 0."""
    rng = np.random.default_rng(seed)

    def leaf(a):
        if len(a.shape) < 2:
            return jnp.zeros(a.shape, dtype)
        W = rng.normal(size=a.shape).reshape(-1, a.shape[-1])
        Q, R = np.linalg.qr(W if W.shape[0] >= W.shape[1] else W.T)
        Q = Q * np.sign(np.diag(R))  # or it is not uniform
        Q = Q if W.shape[0] >= W.shape[1] else Q.T
        return jnp.asarray(Q.reshape(a.shape), dtype)

    return jax.tree.map(leaf, tree)


def shapes(net, shape=PIXELS, classes=CLASSES, readout_bias=False):
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float64)
    init = partial(bp.init, net=net, tx=SGD, num_classes=classes, readout_bias=readout_bias)
    return nets.output.Params(*jax.eval_shape(init, jax.random.key(3), x).params[:3])


def problem(shape=PIXELS, batch=BATCH, classes=CLASSES, seed=0, dtype=np.float64):
    """Standardised inputs, and labels of which none is missing."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=batch)
    y[:classes] = np.arange(min(classes, batch))
    return Batch(jnp.asarray(rng.normal(size=(batch, *shape)), dtype), jnp.asarray(y, jnp.int32))


def arrays(batch, classes=CLASSES):
    return np.asarray(batch.x), np.eye(classes)[np.asarray(batch.y)]


def masks_of(net, params, x, dropout, key=KEY):
    """The masks that the library draws."""
    ones, masks = x, []
    for at, (block, own) in enumerate(zip(net, params.blocks, strict=True)):
        h = jnp.ones_like(nets.linear(block).apply(own, ones))
        masks.append(np.asarray(h * _two_pass.mask(jax.random.fold_in(key, at), h, dropout)))
        ones = nets.pooled(block, h)
    return masks


def as_matrix(F):
    """The library's F^T (classes, *features) as the papers' F (n_0, classes)."""
    return np.asarray(F).reshape(len(F), -1).T


def cosine(a, b):
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    return (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))


def compared(one, other):
    """Cosine and ratio of lengths of the weights' gradients, layer by layer."""
    pairs = [(a["W"], b["W"]) for a, b in zip(layers_of(one), layers_of(other), strict=True)]
    return (
        np.array([cosine(a, b) for a, b in pairs]),
        np.array([np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]),
    )


# --- PEPITA ----------------------------------------------------------------------------------------------------------

PUBLISHED = {
    "dense of Dellaferrera, Kreiman": {},
    "convolutional of the same": {"output_error": "first"},
    "modulated of Srinivasan": pepita.SRINIVASAN,
    "forward of Srinivasan": pepita.SRINIVASAN | {"presynaptic": "clean"},
    "mixed of Srinivasan": {"sign": -1.0, "form": "hebbian"},
    "mixed_tl of Srinivasan": {"sign": -1.0, "form": "time_local"},
    "none, clean and second": {"presynaptic": "clean"},
    "ERINsign": {"error_sign": True},
}
NET = nets.mlp([7, 6, 5], bias="none")


def pepita_start(net=NET, shape=PIXELS, readout_bias=False, batch=BATCH):
    """Random float64 parameters, F and a batch."""
    params = drawn(shapes(net, shape, readout_bias=readout_bias))
    F = jnp.asarray(0.5 * np.random.default_rng(2).normal(size=(CLASSES, *shape)))
    return params, F, problem(shape, batch)


def pepita_grads(params, F, batch, net=NET, key=KEY, **options):
    return pepita.grads(params, batch, key, net=net, F=F, **({"dropout": 0.0} | options))


def restated(params, F, batch, masks, sign=1.0, form="difference", conv_scale="mean", **options):
    start = layers_of(params), as_matrix(F), *arrays(batch), masks, sign
    if form == "difference":
        return reference.pepita.pseudo_gradients(*start, scale=conv_scale, **options)
    return reference.pepita.hebbian(*start)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("row", PUBLISHED)
def test_pseudo_gradients_are_the_published_ones(float64, row, biased):
    net = nets.mlp([7, 6, 5], bias="zero" if biased else "none")
    params, F, batch = pepita_start(net, readout_bias=biased)
    got, metrics = pepita_grads(params, F, batch, net, dropout=0.3, **PUBLISHED[row])
    masks = masks_of(net, params, batch.x, 0.3)
    near(layers_of(got), restated(params, F, batch, masks, **PUBLISHED[row]))
    x, t = arrays(batch)
    scores = reference.pepita.forward(layers_of(params), x, masks)[2]
    near(metrics["loss"], reference.foton.loss(scores, t), 1e-12)


def test_control_published_rows_differ(float64):
    params, F, batch = pepita_start()
    rows = {row: layers_of(pepita_grads(params, F, batch, **options)[0]) for row, options in PUBLISHED.items()}
    assert not differ(rows.pop("mixed_tl of Srinivasan"), rows["mixed of Srinivasan"], 0)
    for one, other in itertools.combinations(rows, 2):
        assert differ(rows[one], rows[other], 1e-3), (one, other)


@pytest.mark.parametrize("conv_scale", ["mean", "sqrt", "sum"])
def test_convolution_learns_from_the_difference_before_pooling(float64, conv_scale):
    net = (*nets.cnn([4], kernel=5, padding="valid", pool="max"), *nets.mlp([6]))
    params, F, batch = pepita_start(net, (8, 8, 2))
    options = {"conv_scale": conv_scale, "output_error": "first"}
    got = layers_of(pepita_grads(params, F, batch, net, **options)[0])
    masks = masks_of(net, params, batch.x, 0.0)
    near(got, restated(params, F, batch, masks, **options))
    other = {"mean": "sqrt", "sqrt": "sum", "sum": "mean"}[conv_scale]
    assert differ(got[0], restated(params, F, batch, masks, **(options | {"conv_scale": other}))[0], 1e-2)


def test_hebbian_exceeds_the_modulated_rule_by_the_change_of_the_input(float64):
    """Both identities of 3.2: h_{l-1} - h~_{l-1} times what the first pass has above, h_l or y."""
    params, F, batch = pepita_start()
    modulated = layers_of(pepita_grads(params, F, batch, **pepita.SRINIVASAN)[0])
    x, t = arrays(batch)
    h, a, s = reference.pepita.forward(layers_of(params), x, [1.0] * 3)
    y = reference.pepita.softmax(s)
    _, a2, _ = reference.pepita.forward(layers_of(params), x - ((y - t) @ as_matrix(F).T).reshape(x.shape), [1.0] * 3)
    flat = reference.pepita.flat
    extra = [{"W": flat(p - q).T @ up / BATCH} for p, q, up in zip(a, a2, [*h, y], strict=True)]
    want = reference.pepita.plus(modulated, 1, extra)
    near(layers_of(pepita_grads(params, F, batch, form="hebbian", sign=-1.0)[0]), want, 1e-12)
    control = layers_of(pepita_grads(params, F, batch, form="hebbian")[0])  # s = +1
    assert all(differ(a, b, 1e-3) for a, b in zip(control, want, strict=True))


def updated(params, F, batch, rate, momentum=None, **options):
    tx = optax.sgd(rate, momentum)
    state = pepita.State(params, tx.init(params), F, (), jnp.zeros((), jnp.int32))
    return pepita.update(state, batch, KEY, net=NET, tx=tx, **({"dropout": 0.0} | options))[0]


def test_time_local_is_two_halves_of_which_the_second_sees_the_new_weights(float64):
    params, F, batch = pepita_start()
    options = {"sign": -1.0, "form": "time_local", "dropout": 0.3}
    masks = masks_of(NET, params, batch.x, 0.3)
    start = layers_of(params), as_matrix(F), *arrays(batch), masks, -1.0
    got = updated(params, F, batch, RATE, **options)
    near(layers_of(got.params), reference.pepita.time_local(*start, RATE))
    assert int(got.step) == 1
    hebbian = layers_of(updated(params, F, batch, RATE, **(options | {"form": "hebbian"})).params)
    near(hebbian, reference.pepita.plus(layers_of(params), -RATE, reference.pepita.hebbian(*start)))
    assert differ(hebbian, layers_of(got.params), 1e-3)


def test_time_local_is_hebbian_to_first_order_in_the_rate(float64):
    params, F, batch = pepita_start()
    want = reference.pepita.hebbian(layers_of(params), as_matrix(F), *arrays(batch), [1.0] * 3, -1.0)
    errors = []
    for rate in (1e-3, 1e-4):
        new = layers_of(updated(params, F, batch, rate, form="time_local", sign=-1.0).params)
        slope = [(old["W"] - layer["W"]) / rate for old, layer in zip(layers_of(params), new, strict=True)]
        errors.append([np.abs(a - b["W"]).max() for a, b in zip(slope, want, strict=True)])
    ratio = np.array(errors[0]) / errors[1]
    assert np.all((ratio > 8) & (ratio < 12)), ratio
    assert np.max(errors[1]) < 1e-3
    assert min(np.abs(layer["W"]).max() for layer in want) > 1e-2


def test_momentum_is_the_optimizers(float64):
    params, F, batch = pepita_start()
    once = updated(params, F, batch, RATE, 0.9)
    tx = optax.sgd(RATE, 0.9)
    twice = pepita.update(once, batch, KEY, net=NET, tx=tx, dropout=0.0)[0]
    start = as_matrix(F), *arrays(batch), [1.0] * 3, 1.0
    G = reference.pepita.pseudo_gradients(layers_of(params), *start)
    one = reference.pepita.plus(layers_of(params), -RATE, G)
    v = reference.pepita.plus(reference.pepita.pseudo_gradients(one, *start), 0.9, G)
    near(layers_of(twice.params), reference.pepita.plus(one, -RATE, v))


def test_both_passes_share_their_masks(float64, monkeypatch):
    """Without feedback the passes are the same one, so that no hidden layer learns."""
    params, F, batch = pepita_start()

    def hidden():
        return layers_of(pepita_grads(params, jnp.zeros_like(F), batch, dropout=0.5)[0])[:-1]

    assert not any(np.any(layer["W"]) for layer in hidden())
    of_one_pass, calls = _two_pass._run, itertools.count()

    def with_masks_of_its_own(params, x, z, masks, *rest):
        if not isinstance(masks[0], float):  # with floats it is asked for shapes
            masks = [_two_pass.mask(jax.random.fold_in(KEY, next(calls)), m, 0.5) for m in masks]
        return of_one_pass(params, x, z, masks, *rest)

    monkeypatch.setattr(_two_pass, "_run", with_masks_of_its_own)
    assert all(np.any(layer["W"]) for layer in hidden())


@pytest.mark.parametrize("form", ["difference", "hebbian", "time_local"])
def test_every_mask_is_drawn_once_in_a_step(form, monkeypatch):
    """Two draws from one key are equal, but no compiler notices, and threefry costs more than all else but products."""
    net, batch = nets.mlp([5, 4, 3], bias="none"), Batch(jnp.ones((4, 6)), jnp.array([0, 1, 2, 0]))
    drawn, bernoulli = [], jax.random.bernoulli
    monkeypatch.setattr(jax.random, "bernoulli", lambda *given: drawn.append(given) or bernoulli(*given))

    def draws(dropout):
        drawn.clear()
        rule = pepita.rule(net, optax.sgd(0.1), num_classes=3, form=form, dropout=dropout)
        jax.eval_shape(rule.update, rule.init(KEY, batch.x), batch, KEY)
        return len(drawn)

    assert draws(0.1) == len(net) and draws(0.0) == 0


def test_dropout_keeps_the_mean_and_drops_its_share(float64):
    h = jnp.full((200, 200), 3.0)
    for share in (0.1, 0.5):
        kept = np.asarray(h * _two_pass.mask(KEY, h, share))
        assert abs((kept == 0).mean() - share) < 0.01
        np.testing.assert_allclose(kept[kept != 0], 3 / (1 - share), rtol=1e-12)


def test_sign_flips_linear_hidden_layers(float64):
    linear = nets.mlp([7, 6, 5], bias="none", activation=nets.identity)
    params, F, batch = pepita_start()

    def pair(net, presynaptic):
        both = [pepita_grads(params, F, batch, net, sign=s, presynaptic=presynaptic)[0].blocks for s in (1.0, -1.0)]
        return both[0], jax.tree.map(jnp.negative, both[1])

    near(*pair(linear, "clean"), 1e-13)
    assert differ(*pair(linear, "modulated"), 1e-3)
    assert differ(*pair(NET, "clean"), 1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_linear_hidden_layers_change_by_the_projected_error(float64, sign):
    """h_l - h~_l = -s e F^T W_1 .. W_l; one sample's gradient of a bias is that difference."""
    net = nets.mlp([7, 6, 5], activation=nets.identity)
    params, F, batch = pepita_start(net, batch=1)
    got = layers_of(pepita_grads(params, F, batch, net, sign=sign)[0])
    layers = layers_of(params)
    x, t = arrays(batch)
    change = (reference.pepita.softmax(reference.pepita.forward(layers, x, [1.0] * 3, lambda z: z)[2]) - t) @ (
        -sign * as_matrix(F).T
    )
    for layer, own in zip(layers[:-1], got[:-1], strict=True):
        change = change @ layer["W"]
        near(own["b"], change[0], 1e-13)
        assert differ(own["b"], -change[0], 1e-4)


def test_clean_and_first_give_the_output_layer_its_gradient(float64):
    params, F, batch = pepita_start(readout_bias=True)
    want = backpropagated(params, batch, NET)[0]
    for presynaptic, output_error in itertools.product(("clean", "modulated"), ("first", "second")):
        got = pepita_grads(params, F, batch, presynaptic=presynaptic, output_error=output_error)[0]
        if (presynaptic, output_error) == ("clean", "first"):
            near((got.W, got.b), (want.W, want.b), 1e-12)
        else:
            assert differ(got.W, want.W, 1e-5)


@pytest.mark.parametrize("scale", [0.05, 0.2])
@pytest.mark.parametrize("kind", ["uniform", "normal", "mirrored"])
def test_feedback_has_the_published_deviation(kind, scale):
    """Bstd sqrt(2 / n_0), not Bstd."""
    net, x = nets.mlp([256, 128], bias="none"), jnp.zeros((1, 28, 28))
    init = partial(pepita.init, x=x, net=net, tx=SGD, num_classes=10, feedback=kind, feedback_scale=scale)
    Fs = np.stack([init(jax.random.key(seed)).F for seed in range(6)])
    assert Fs.shape == (6, 10, 28, 28)
    wanted = scale * (2 / 784) ** 0.5
    assert abs(Fs.std() / wanted - 1) < 0.05
    bound = 3**0.5 * wanted
    assert (np.abs(Fs).max() <= bound * (1 + 1e-6)) == (kind == "uniform")
    assert abs(Fs.mean()) < 0.05 * wanted
    assert not np.array_equal(Fs[0], Fs[1])


def test_product_of_the_weights_as_feedback_is_foton(float64):
    params, F, batch = pepita_start()
    product = foton.feedback(params, PIXELS, NET)
    near(as_matrix(product), reference.foton.feedback(layers_of(params)), 1e-13)
    want = foton.grads(params, batch, KEY, net=NET, F=product)[0]
    same = {"sign": -1.0, "presynaptic": "clean", "output_error": "first"}
    near(pepita_grads(params, product, batch, **same)[0], want, 1e-15)
    for change in ({"sign": 1.0}, {"presynaptic": "modulated"}, {"output_error": "second"}):
        assert differ(pepita_grads(params, product, batch, **(same | change))[0], want, 1e-3), change
    assert differ(pepita_grads(params, product, batch, sign=-1.0, form="hebbian")[0], want, 1e-3)
    assert differ(pepita_grads(params, F, batch, **same)[0], want, 1e-3)


# --- Weight mirroring ------------------------------------------------------------------------------------------------


def mirror_start(net, n=9, count=BATCH, seed=4, **options):
    """A state with random float64 weights and factors, and a batch of ``count``."""
    rule = partial(pepita.init, net=net, tx=SGD, num_classes=CLASSES, feedback="mirrored", **options)
    shape = jax.eval_shape(rule, jax.random.key(3), jax.ShapeDtypeStruct((1, n), jnp.float64))
    params, B = drawn(shape.params), drawn(shape.B, seed)
    F = jnp.asarray(np.linalg.multi_dot([np.asarray(B_l) for B_l in B]).T)
    state = pepita.State(params, SGD.init(params), F, B, jnp.zeros((), jnp.int32))
    return state, problem((n,), count)


MIRRORED = {"feedback": "mirrored", "mirror_rate": 0.7, "mirror_decay": 0.2, "mirror_noise": 0.6, "feedback_scale": 0.3}


@pytest.mark.parametrize("part", ["mirror", "all"])
def test_mirroring_step_is_the_published_one(float64, monkeypatch, part):
    state, batch = mirror_start(NET)
    rng = np.random.default_rng(8)
    xis = {K.shape[0]: rng.normal(size=(BATCH, K.shape[0])) for K in state.B}
    masks = {n: rng.random((BATCH, n)) < 0.7 for n in (7, 6, 5)}
    monkeypatch.setattr(jax.random, "normal", lambda key, shape=(), dtype=float: jnp.asarray(xis[shape[1]], dtype))
    monkeypatch.setattr(jax.random, "bernoulli", lambda key, p, shape: jnp.asarray(masks[shape[1]]))
    got = pepita.update(state, batch, KEY, net=NET, tx=SGD, part=part, dropout=0.3, **MIRRORED)[0]
    scaled = [masks[n] / 0.7 for n in (7, 6, 5)]
    layers = layers_of(state.params)
    if part == "all":
        start = layers, as_matrix(state.F), *arrays(batch), scaled, 1.0
        layers = reference.pepita.plus(layers, -RATE, reference.pepita.pseudo_gradients(*start))
    near(layers_of(got.params), layers)
    noises = [0.6 * xis[K.shape[0]] for K in state.B]
    B = reference.pepita.mirror(layers, list(map(np.asarray, state.B)), noises, scaled, 0.7, 0.2, 0.3 * (2 / 9) ** 0.5)
    near(list(got.B), B)
    near(as_matrix(got.F), np.linalg.multi_dot(B))
    assert abs(float(got.F.std()) / (0.3 * (2 / 9) ** 0.5) - 1) < 1e-12
    assert int(got.step) == 1


def test_mirroring_is_due_every_so_many_steps(float64):
    state, batch = mirror_start(NET)
    step = jit(partial(pepita.update, net=NET, tx=SGD, mirror_every=2, **MIRRORED))
    moved = []
    for number in range(4):
        new = step(state, batch, jax.random.key(number))[0]
        moved.append((differ(new.B, state.B, 1e-4), differ(new.F, state.F, 1e-6)))
        assert differ(new.params, state.params, 1e-4)
        state = new
    assert moved == [(False, False), (True, True)] * 2
    never = pepita.update(state, batch, KEY, net=NET, tx=SGD, mirror_every=0, **MIRRORED)[0]
    assert not differ((never.B, never.F), (state.B, state.F), 0)


def test_mirroring_moves_towards_the_weights(float64):
    """Stein: sigma^2 W of a linear layer, half of it with ReLU, at the softmax the class-centred weights."""
    sigma, count = 0.1, 60_000
    net = (*nets.mlp([12], bias="none", activation=nets.identity), *nets.mlp([10], bias="none"))
    state, batch = mirror_start(net, n=16, count=count)
    W_1, W_2, W_3 = (layer["W"] for layer in layers_of(state.params))
    centred = W_3 - W_3.mean(1, keepdims=True)
    options = MIRRORED | {"mirror_decay": 0.0, "mirror_noise": sigma}
    empty = state._replace(B=jax.tree.map(jnp.zeros_like, state.B))  # all alike are scaled at the end
    B = pepita.update(empty, batch, KEY, net=net, tx=SGD, part="mirror", dropout=0.0, **options)[0].B
    for got, want in zip(B, (W_1, W_2, centred), strict=True):
        assert cosine(got, want) > 0.99
        assert cosine(got, -want) < 0 and cosine(got, np.random.default_rng(0).permuted(want)) < 0.9
    assert cosine(B[2], centred) > cosine(B[2], W_3) + 0.01
    lengths = [np.linalg.norm(got) / np.linalg.norm(W) for got, W in zip(B[:2], (W_1, W_2), strict=True)]
    assert abs(lengths[0] / lengths[1] - 2) < 0.1

    rng, layers = np.random.default_rng(3), layers_of(state.params)
    noises = [sigma * rng.normal(size=(count, len(W))) for W in (W_1, W_2, W_3)]
    linear, _, _ = reference.pepita.mirror_updates(layers, noises, [1.0] * 2, lambda z: z)
    _, relu, soft = reference.pepita.mirror_updates(layers, noises, [1.0] * 2)
    limits = (sigma**2 * W_1, sigma**2 * W_2 / 2, sigma**2 * centred / CLASSES)  # softmax at 0: I/C - 11^T/C^2
    for got, want in zip((linear, relu, soft), limits, strict=True):
        assert cosine(got, want) > 0.99
        assert abs(np.linalg.norm(got) / np.linalg.norm(want) - 1) < 0.1


def test_mirrored_feedback_turns_to_the_product_of_the_weights(float64):
    net = nets.mlp([12, 10], bias="none", activation=nets.identity)
    state, batch = mirror_start(net, n=16, count=512)
    W_1, W_2, W_3 = (layer["W"] for layer in layers_of(state.params))
    product = W_1 @ W_2 @ (W_3 - W_3.mean(1, keepdims=True))
    options = {"feedback": "mirrored", "mirror_rate": 0.05, "mirror_noise": 1.0, "dropout": 0.0}
    step = jit(partial(pepita.update, net=net, tx=SGD, part="mirror", **options))
    new = state
    for number in range(40):
        new = step(new, batch, jax.random.key(number))[0]
    start, end = (cosine(as_matrix(one.F), product) for one in (state, new))
    assert end > start + 0.3 and end > 0.9
    assert not differ(new.params, state.params, 0)

    frozen = optax.sgd(0.0)
    step = jit(partial(pepita.update, net=net, tx=frozen, feedback="normal"))
    control = state._replace(opt_state=frozen.init(state.params))
    for number in range(3):
        control = step(control, batch, jax.random.key(number))[0]
    assert cosine(as_matrix(control.F), product) <= start
    assert not differ(control.B, state.B, 0)


@pytest.mark.slow
@pytest.mark.parametrize("sign, low, high", [(1.0, 97.0, 107.0), (-1.0, 73.0, 89.0)])
def test_weights_turn_towards_the_feedback_or_away_from_it(sign, low, high):
    """The sheet's small experiment: five Gaussian classes in 50 dimensions, 400 steps, ten seeds."""
    net, tx = nets.mlp([64], bias="none"), optax.sgd(0.1, 0.9)
    options = {"net": net, "tx": tx, "feedback_scale": 0.25}

    def angle(state):
        product = state.params.blocks[0]["params"]["Dense_0"]["kernel"] @ state.params.W
        return np.degrees(np.arccos(cosine(product, state.F.T)))

    @jax.jit
    def trained(key):
        centres = jax.random.normal(key, (5, 50))
        state = pepita.init(key, jnp.zeros((1, 50)), num_classes=5, **options)

        def step(state, key):
            y = jax.random.randint(key, (64,), 0, 5)
            x = jnp.maximum(centres[y] + jax.random.normal(jax.random.fold_in(key, 1), (64, 50)), 0)
            return pepita.update(state, Batch(x, y), key, sign=sign, **options)

        return state, jax.lax.scan(step, state, jax.random.split(key, 400))[0]

    angles = np.array([list(map(angle, trained(jax.random.key(seed)))) for seed in range(10)])
    assert np.all(np.abs(angles[:, 0] - 90) < 15)
    assert low < angles[:, 1].mean() < high
    assert np.all((angles[:, 1] > 90) == (sign > 0))


# --- FOTON: one step -------------------------------------------------------------------------------------------------

TANH = nets.mlp([8, 6], activation=jnp.tanh)


def foton_start(net=TANH, shape=PIXELS, classes=CLASSES, seed=1, tx=SGD, dtype=np.float64, **options):
    """A state of orthonormal weights; options are those of the retraction in the order of `foton.retraction`."""
    params = orthonormal(shapes(net, shape, classes), seed, dtype)
    tx = optax.chain(tx, foton.retraction(**options))
    return foton.State(params, tx.init(params), foton.feedback(params, shape, net), jnp.zeros((), jnp.int32))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"error": "mse"},
        {"temperature": 3.0},
        {"perturbation": 0.01},
        {"presynaptic": "modulated"},
        {"dropout": 0.3},
        {"error": "mse", "perturbation": 0.5, "dropout": 0.3},
    ],
    ids=str,
)
def test_foton_pseudo_gradients_are_the_published_ones(float64, options):
    params, batch = drawn(shapes(TANH, readout_bias=True)), problem()
    F = jnp.asarray(0.3 * np.random.default_rng(2).normal(size=(CLASSES, *PIXELS)))
    got, metrics = foton.grads(params, batch, KEY, net=TANH, F=F, **options)
    other = {"temperature": "T", "perturbation": "eps"}
    written = {other.get(name, name): value for name, value in options.items()}
    masks = masks_of(TANH, params, batch.x, written.pop("dropout", 0.0))
    start = layers_of(params), as_matrix(F), *arrays(batch), masks, np.tanh
    near(layers_of(got), reference.foton.pseudo_gradients(*start, **written), 1e-9 if "eps" in written else 1e-10)
    kinds = {name: value for name, value in written.items() if name in ("error", "T")}
    scores = reference.pepita.forward(layers_of(params), np.asarray(batch.x), masks, np.tanh)[2]
    near(metrics["loss"], reference.foton.loss(scores, arrays(batch)[1], **kinds), 1e-12)
    if options:
        assert differ(layers_of(got), reference.foton.pseudo_gradients(*start[:4], [1.0] * 2, np.tanh), 1e-4)


def test_foton_updates_are_the_published_ones(float64):
    """SGD, the retraction every second step, and F from the new weights every third."""
    net = nets.mlp([8, 6])
    options = {"net": net, "tx": SGD, "retract_every": 2, "retract_iterations": 2, "feedback_every": 3}
    state = foton_start(net, every=2, iterations=2)
    layers, F = layers_of(state.params), as_matrix(state.F)
    near(F, reference.foton.feedback(layers), 1e-13)
    vs = [np.asarray(v) for v in jax.tree.leaves(state.opt_state[-1].v)]
    seen = {"layers": [], "F": []}
    for count in range(1, 7):
        batch = problem(seed=count)
        before = layers, F
        layers, F, vs = reference.foton.step(
            layers,
            F,
            vs,
            *arrays(batch),
            [1.0] * 2,
            lambda z: np.maximum(z, 0),
            count,
            RATE,
            2,
            3,
            2,
            foton.POWER_ITERATIONS,
            foton.ORDER,
        )
        state, metrics = foton.update(state, batch, KEY, **options)
        near(layers_of(state.params), layers)
        near(as_matrix(state.F), F)
        error = np.array([reference.foton.orthogonality_error(layer["W"]) for layer in layers])
        near(foton.orthogonality_error(state.params), error)
        estimate = np.asarray(metrics["orthogonality_error"])  # from one vector
        assert estimate.shape == (3,)
        assert np.all((estimate < 8**0.5 * error + 1e-12) & (estimate > error / 8 - 1e-12))
        seen["layers"].append(error.max() < 1e-4)
        seen["F"].append(differ(F, before[1]))
    assert seen["layers"] == [False, True] * 3
    assert seen["F"] == [False, False, True] * 2
    assert int(state.step) == 6


# --- FOTON and backpropagation ---------------------------------------------------------------------------------------

PATCHES = (
    *patch_cnn([12], pool="none"),
    *pixel_cnn([12, 8], pool="none"),
    *pixel_cnn([8], pool="isometric"),
    *linear_mlp([16, 16]),
)
EXACT = {
    "ten layers": (linear_mlp([12] * 10), (12,)),
    "fifty layers": (linear_mlp([12] * 50), (3, 4)),
    "narrowing": (linear_mlp([10, 7, 4]), (12,)),
    "fewer units than classes": (linear_mlp([6, 2]), (12,)),
    "biases": (nets.mlp([10, 7, 4], activation=nets.identity), (12,)),
    "convolutions": (PATCHES, (8, 8, 3)),
}


def with_feedback(params, batch, net, grads=foton.grads, **options):
    F = foton.feedback(params, batch.x.shape[1:], net)
    return grads(params, batch, KEY, net=net, F=F, **options)[0]


def against_bp(params, batch, net, **options):
    return compared(with_feedback(params, batch, net, **options), backpropagated(params, batch, net)[0])


@pytest.mark.parametrize("name", EXACT)
def test_linear_orthogonal_networks_get_the_gradient(float64, name):
    net, shape = EXACT[name]
    params, batch = orthonormal(shapes(net, shape)), problem(shape)
    got, want = with_feedback(params, batch, net), backpropagated(params, batch, net)[0]
    near(got, want, 1e-11)  # biases, too
    cosines, ratios = compared(got, want)
    assert np.all(cosines > 1 - 1e-12)
    np.testing.assert_allclose(ratios, 1, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["ten layers", "fifty layers", "convolutions"])
def test_linear_orthogonal_networks_get_the_gradient_in_float32(name):
    net, shape = EXACT[name]
    params, batch = orthonormal(shapes(net, shape), dtype=np.float32), problem(shape, dtype=np.float32)
    cosines, ratios = against_bp(params, batch, net)
    assert np.all(cosines > 1 - 1e-6)
    np.testing.assert_allclose(ratios, 1, rtol=0, atol=1e-4)


def test_control_other_linear_networks_do_not_get_the_gradient(float64):
    net, batch = linear_mlp([12] * 10), problem((12,))
    params = orthonormal(shapes(net, (12,)))
    gaussian = drawn(params, scale=12**-0.5)
    assert against_bp(gaussian, batch, net)[0][:-1].mean() < 0.9
    wide = linear_mlp([24, 12])
    cosines, _ = against_bp(orthonormal(shapes(wide, (12,))), batch, wide)
    assert np.all(cosines[:2] < 0.95)
    expanding = (*patch_cnn([24], pool="none"), *linear_mlp([8]))  # patches of 12 values
    cosines, _ = against_bp(orthonormal(shapes(expanding, (4, 4, 3))), problem((4, 4, 3)), expanding)
    assert cosines[0] < 0.9 and cosines[1] < 0.99
    overlapping = (*linear_cnn([3], pool="none"), *linear_mlp([8]))
    cosines, _ = against_bp(orthonormal(shapes(overlapping, (4, 4, 3))), problem((4, 4, 3)), overlapping)
    assert np.all(cosines[:2] < 0.999)


def test_control_switches_of_the_equality(float64):
    net, batch = linear_mlp([12] * 10), problem((12,))
    params = orthonormal(shapes(net, (12,)))
    base = {"grads": pepita.grads, "presynaptic": "clean", "output_error": "first", "dropout": 0.0}
    cosines, ratios = against_bp(params, batch, net, sign=-1.0, **base)
    assert np.all(cosines > 1 - 1e-12)
    cosines, ratios = against_bp(params, batch, net, sign=1.0, **base)
    np.testing.assert_allclose(cosines[:-1], -1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ratios, 1, rtol=0, atol=1e-12)
    cosines, _ = against_bp(params, batch, net, presynaptic="modulated")
    assert np.all(cosines < 0.9999)
    assert np.all(against_bp(params, batch, net, dropout=0.5)[0][:-1] < 0.99)
    assert np.all(against_bp(params, batch, net, perturbation=1e-3)[0] > 1 - 1e-12)  # a linear map's difference
    random = jnp.asarray(np.random.default_rng(2).normal(size=(CLASSES, 12)))
    got = foton.grads(params, batch, KEY, net=net, F=random)[0]
    assert compared(got, backpropagated(params, batch, net)[0])[0][:-1].mean() < 0.8


def test_cosines_do_not_see_the_scale_of_the_weights(float64):
    """W_i^T W_i = 1.69 I: the direction stays exact, the length of layer l is 1.69^l times the gradient's."""
    net, batch = linear_mlp([12] * 10), problem((12,))
    params = jax.tree.map(lambda W: 1.3 * W, orthonormal(shapes(net, (12,))))
    cosines, ratios = against_bp(params, batch, net)
    assert np.all(cosines > 1 - 1e-12)
    np.testing.assert_allclose(ratios[:-1], 1.69 ** np.arange(1, 11), rtol=1e-10)
    np.testing.assert_allclose(ratios[-1], 1, rtol=1e-12)


@pytest.mark.parametrize("T", [0.5, 4.0])
def test_temperature_gives_the_gradient_of_the_tempered_loss(float64, T):
    net, batch = linear_mlp([10, 7, 4]), problem((12,))
    params = orthonormal(shapes(net, (12,)))
    got = with_feedback(params, batch, net, temperature=T)
    want = jax.grad(lambda p: cross_entropy(T * nets.output.scores(p, batch.x, net), batch.y) / T)(params)
    near(got, want, 1e-11)
    assert differ(got, jax.tree.map(lambda g: T * g, want), 1e-3)
    assert differ(got, with_feedback(params, batch, net), 1e-3)


def test_mse_gives_the_gradient_of_half_the_squared_error(float64):
    net, batch = linear_mlp([10, 7, 4]), problem((12,))
    params, t = orthonormal(shapes(net, (12,))), arrays(problem((12,)))[1]
    got = with_feedback(params, batch, net, error="mse")
    squared = jax.grad(lambda p: ((nets.output.scores(p, batch.x, net) - t) ** 2).sum(1).mean())(params)
    near(got, jax.tree.map(lambda g: 0.5 * g, squared), 1e-11)
    assert differ(got, squared, 1e-3)


@pytest.mark.parametrize("pool, behind", [("average", 0.25), ("isometric", 1.0)])
def test_pooling_scales_what_is_behind_it(float64, pool, behind):
    """Average pooling is A with A A^T = I/4; the convolution before it gets the exact gradient in both cases."""
    net, shape = (*patch_cnn([6], pool=pool), *linear_mlp([16])), (8, 8, 3)
    params, batch = orthonormal(shapes(net, shape)), problem(shape)
    cosines, ratios = against_bp(params, batch, net)
    assert np.all(cosines > 1 - 1e-12)
    np.testing.assert_allclose(ratios, [1, behind, 1], rtol=0, atol=1e-11)


def test_control_maximum_pooling_is_not_linear(float64):
    net, shape = (*patch_cnn([6], pool="isometric"), *linear_mlp([16])), (8, 8, 3)
    params, batch = orthonormal(shapes(net, shape)), problem(shape)
    largest = (net[0].clone(pool="max"), net[1])
    F = foton.feedback(params, shape, net)
    same = {"sign": -1.0, "presynaptic": "clean", "output_error": "first", "conv_scale": "sum"}
    got = pepita_grads(params, F, batch, largest, **same)[0]
    assert compared(got, backpropagated(params, batch, largest)[0])[0][0] < 0.9


def test_trajectory_is_that_of_backpropagation(float64):
    """A hundred steps with the same retraction; F that stays at its start departs."""
    net, steps, iterations = linear_mlp([10, 7, 6]), 100, 3
    tx = optax.chain(SGD, foton.retraction(iterations=iterations))
    start = foton_start(net, (12,), iterations=iterations)
    rng = np.random.default_rng(0)
    xs, keys = jnp.asarray(rng.normal(size=(steps, BATCH, 12))), jax.random.split(KEY, steps)
    ys = jnp.asarray(rng.integers(CLASSES, size=(steps, BATCH)), jnp.int32)

    def trained(rule, state):
        update = jit(lambda state, x, y, key: rule.update(state, Batch(x, y), key)[0])
        for each in zip(xs, ys, keys, strict=True):
            state = update(state, *each)
        return nets.output.Params(*state.params[:3])

    def own_start(tx):
        params = bp.Params(*start.params)
        return bp.State(params, tx.init(params))

    twin = bp.rule(net, tx, num_classes=CLASSES, readout_init=nets.orthogonal, readout_bias=False)
    want = trained(twin, own_start(tx))
    assert differ(want, start.params, 0.1)
    own = partial(foton.rule, net, SGD, num_classes=CLASSES, retract_iterations=iterations)
    near(trained(own(), start), want)
    assert differ(trained(own(feedback_every=10**6), start), want, 1e-2)
    loose = trained(bp.rule(net, SGD, num_classes=CLASSES), own_start(SGD))
    assert differ(loose, want, 1e-2)


def test_expansion_law(float64):
    """E[cos] = sqrt(n_0 / n) behind a first layer that widens from n_0 to n."""
    for wide, expected in ((256, 0.5**0.5), (512, 0.5), (128, 1.0)):
        net, found = linear_mlp([wide]), []
        for seed in range(5):
            params, batch = orthonormal(shapes(net, (128,), 10), seed), problem((128,), 32, 10, seed)
            found.append(against_bp(params, batch, net)[0][0])
        assert abs(np.mean(found) - expected) < (0.02 if expected < 1 else 1e-12), wide


# --- The retraction --------------------------------------------------------------------------------------------------


def with_ratio(n, m, ratio, seed=0):
    """A matrix of singular values from 3 down to 3 times ``ratio``."""
    rng, k = np.random.default_rng(seed), min(n, m)
    U, V = (reference.foton.polar(rng.normal(size=(size, k))) for size in (n, m))
    return 3 * U * np.geomspace(1, ratio, k) @ V.T


def lib_bjorck(W, iterations, powers=10):
    v = np.random.default_rng(1).normal(size=min(W.shape))
    return np.asarray(foton.bjorck(jnp.asarray(W), jnp.asarray(v / np.linalg.norm(v)), iterations, powers)[0])


@pytest.mark.parametrize("n, m", [(12, 8), (8, 12), (9, 9)])
@pytest.mark.parametrize("ratio, iterations", [(0.3, 20), (0.02, 20), (1e-3, 40)])
def test_bjorck_tends_to_the_polar_factor(float64, n, m, ratio, iterations):
    W = with_ratio(n, m, ratio)
    Q = lib_bjorck(W, iterations)
    near(Q, reference.foton.polar(W), 1e-12)
    near(lib_bjorck(Q, 3), Q, 1e-13)
    near(lib_bjorck(W.T, iterations), Q.T, 1e-12)
    near(foton.polar(jnp.asarray(W)), reference.foton.polar(W), 1e-12)
    if ratio == 1e-3:
        assert differ(lib_bjorck(W, 3), Q, 1e-2)  # far from done


@pytest.mark.parametrize("n, m", [(12, 8), (8, 12)])
def test_bjorck_iterations_are_the_published_ones(float64, n, m):
    W, v = with_ratio(n, m, 0.3), np.random.default_rng(1).normal(size=min(n, m))
    for iterations, powers in ((1, 1), (3, 2)):
        Q, u = foton.bjorck(jnp.asarray(W), jnp.asarray(v), iterations, powers)
        want, end = reference.foton.bjorck(W, v, iterations, powers, order=foton.ORDER, bound=foton.BOUND)
        near((Q, u), (want, end), 1e-13)


@pytest.mark.parametrize("size", [0.5, 1.0, 1.5, 3.0])
def test_a_spike_that_the_power_method_overlooks_does_no_harm(float64, size):
    worst, unbounded = 0.0, 0.0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        Q, a, b = reference.foton.polar(rng.normal(size=(32, 32))), *rng.normal(size=(2, 32))
        W, v = Q + size * np.outer(a / np.linalg.norm(a), b / np.linalg.norm(b)), rng.normal(size=32)
        found, _ = foton.bjorck(jnp.asarray(W), jnp.asarray(v), 1, 1)
        worst = max(worst, np.linalg.svd(found, compute_uv=False)[0])
        lower = reference.foton.bjorck(W, v, 1, 1, order=foton.ORDER)[0]
        unbounded = max(unbounded, np.linalg.svd(lower, compute_uv=False)[0])
    assert worst < 1.1
    assert unbounded > 2 or size == 0.5  # the control


def test_a_matrix_of_zeros_stays_and_is_left_again(float64):
    tx = foton.retraction()
    params = {"W": jnp.zeros((5, 4))}
    _, state = tx.update(params, tx.init(params), params)
    step, _ = tx.update({"W": jnp.asarray(3 * np.eye(5, 4))}, state, params)
    near(step["W"], np.eye(5, 4), 1e-12)


def test_scaling_by_the_largest_singular_value_is_needed(float64):
    W = with_ratio(12, 8, 1.0) / 3
    v = np.ones(8)
    near(reference.foton.bjorck(2.0 * W, v, 40, scaled=False)[0], -W, 1e-12)  # the directions flip
    with np.errstate(all="ignore"):
        assert not np.all(np.isfinite(reference.foton.bjorck(2.5 * W, v, 20, scaled=False)[0]))
    for factor in (2.0, 2.5, 1e3):
        near(lib_bjorck(factor * W, 5), W, 1e-12)


@pytest.mark.parametrize("iterations, error", [(1, 5e-5), (2, 1e-14)])
def test_few_iterations_are_enough_after_a_small_step(float64, iterations, error):
    """The sheet's step of 5 %: singular values from .87 of the largest, E < .25; one iteration leaves some E^7 / 2."""
    rng = np.random.default_rng(0)
    Q = reference.foton.polar(rng.normal(size=(64, 64)))
    W = Q + 0.05 / 8 * rng.normal(size=(64, 64))
    got = lib_bjorck(W, iterations, foton.POWER_ITERATIONS)
    assert np.abs(got.T @ got - np.eye(64)).max() < error
    assert np.abs(W.T @ W - np.eye(64)).max() > 1e-2


def test_singular_matrices_stay_finite_and_are_reported(float64):
    zero = np.zeros((12, 8))
    assert not np.any(lib_bjorck(zero, 5))
    half = np.concatenate([with_ratio(12, 4, 0.5), np.zeros((12, 4))], axis=1)
    got = lib_bjorck(half, 20)
    near(got[:, :4], reference.foton.polar(half[:, :4]), 1e-12)
    assert not np.any(got[:, 4:])
    net = linear_mlp([8])
    params = orthonormal(shapes(net, (12,)))
    np.testing.assert_allclose(foton.orthogonality_error(params), 0, atol=1e-14)
    for W, error in ((zero, 1), (got, 0.5**0.5)):  # half of the singular values are 0
        dead = params._replace(blocks=({"params": {"Dense_0": {"kernel": jnp.asarray(W)}}},))
        np.testing.assert_allclose(foton.orthogonality_error(dead), [error, 0], atol=1e-12)


def retracted(params, steps, seed=0, **options):
    """Parameters after every one of ``steps`` random steps through the retraction, and the same without it."""
    tx = foton.retraction(**options)
    state, seen = tx.init(params), []
    for number in range(steps):
        change = drawn(params, seed + number, 0.05)
        plain = optax.apply_updates(params, change)
        updates, state = tx.update(change, state, params)
        params = optax.apply_updates(params, updates)
        seen.append((params, plain))
    return seen


def test_retraction_acts_when_it_is_due_and_on_matrices_only(float64):
    net = (*patch_cnn([6], pool="none"), *nets.mlp([16, 20]))
    params = orthonormal(shapes(net, (8, 8, 3), readout_bias=True))
    for number, (got, plain) in enumerate(retracted(params, 6, every=3, iterations=8), start=1):
        errors = np.asarray(foton.orthogonality_error(got))
        if number % 3:
            near(got, plain, 1e-14)
            assert np.all(errors > 1e-3)
            continue
        assert np.all(errors < 1e-12)
        for layer, moved in zip(layers_of(got), layers_of(plain), strict=True):
            W = moved["W"]
            Q = reference.foton.polar(W.reshape(-1, W.shape[-1])).reshape(W.shape)
            near(layer, moved | {"W": Q}, 1e-11)  # biases go as they would


def test_retraction_leaves_the_output_layer_where_told_so(float64):
    params = orthonormal(shapes(linear_mlp([8, 6]), (12,)))
    for output in (True, False):
        ((got, plain),) = retracted(params, 1, iterations=8, output=output)
        errors = np.asarray(foton.orthogonality_error(got))
        assert np.all(errors[:-1] < 1e-12)
        assert (errors[-1] < 1e-12) == output
        assert differ(got.W, plain.W, 1e-3) == output
    net = linear_mlp([8, 6])
    state, batch = foton_start(net, (12,), output=False), problem((12,))
    new, metrics = foton.update(state, batch, KEY, net=net, tx=SGD, retract_output=False)
    G = reference.foton.pseudo_gradients(
        layers_of(state.params), as_matrix(state.F), *arrays(batch), [1.0] * 2, lambda z: z
    )
    near(new.params.W, np.asarray(state.params.W) - RATE * G[-1]["W"])
    assert metrics["orthogonality_error"][-1] > 1e-4 > 1e-6 > metrics["orthogonality_error"][:-1].max()


def test_weights_stay_orthonormal_in_float32():
    net = nets.mlp([24, 16], kernel_init=nets.orthogonal)
    batch = problem((30,), 32, dtype=np.float32)

    def errors(**options):
        rule = foton.rule(net, SGD, num_classes=CLASSES, **options)
        state, update = rule.init(jax.random.key(0), batch.x), jit(rule.update)
        seen = [foton.orthogonality_error(state.params)]
        for number in range(20):
            state, metrics = update(state, batch, jax.random.key(number))
            seen.append(metrics["orthogonality_error"])
        assert metrics["orthogonality_error"].shape == (3,)
        return np.max(seen)

    assert errors() < 1e-5
    assert errors(retract_every=1000) > 1e-2


@pytest.mark.parametrize("init", ["he_uniform", "orthogonal"])
def test_start_values_are_orthonormal(init):
    net = nets.mlp([24, 16], kernel_init=getattr(nets, init), bias="none")
    state = foton.init(jax.random.key(0), jnp.zeros((1, 5, 6)), net=net, tx=SGD, num_classes=10)
    assert np.max(foton.orthogonality_error(state.params)) < 1e-5
    near(as_matrix(state.F), reference.foton.feedback(layers_of(state.params)), 1e-5)
    assert state.F.shape == (10, 5, 6)


# --- No automatic differentiation ------------------------------------------------------------------------------------


def test_dense_networks_learn_without_automatic_differentiation(monkeypatch):
    net, batch = nets.mlp([8, 6], kernel_init=nets.orthogonal), problem((12,), dtype=np.float32)
    rules = {
        "pepita": pepita.rule(net, SGD, num_classes=CLASSES),
        "time_local": pepita.rule(net, SGD, num_classes=CLASSES, form="time_local"),
        "mirrored": pepita.rule(net, SGD, num_classes=CLASSES, feedback="mirrored"),
        "foton": foton.rule(net, SGD, num_classes=CLASSES),
        "bp": bp.rule(net, SGD, num_classes=CLASSES),
    }
    states = {name: rule.init(jax.random.key(0), batch.x) for name, rule in rules.items()}

    def refuse(*_, **__):
        raise AssertionError("automatic differentiation")

    for name in ("grad", "value_and_grad", "vjp", "jvp", "linearize", "jacfwd", "jacrev"):
        monkeypatch.setattr(jax, name, refuse)
    for name, rule in rules.items():
        for update in (rule.update, jit(lambda *inputs, rule=rule: rule.update(*inputs))):
            if name == "bp":
                with pytest.raises(AssertionError, match="automatic differentiation"):
                    update(states[name], batch, KEY)
            else:
                assert differ(update(states[name], batch, KEY)[0].params, states[name].params)


# --- Nonlinear networks at initialisation ----------------------------------------------------------------------------


def mean_cosine(activation, depth, seed, rule="foton"):
    """Over the hidden layers, for the sheet's network: 784 standard normal inputs, widths of 256, batches of 64."""
    init = nets.orthogonal if rule == "foton" else nets.he_uniform
    net = nets.mlp([256] * depth, activation=activation, kernel_init=init, bias="none")
    batch = problem((784,), 64, 10, seed, np.float32)
    module = {"foton": foton, "pepita": pepita}[rule]
    options = {} if rule == "foton" else pepita.SRINIVASAN | {"presynaptic": "clean", "dropout": 0.0}
    if rule == "foton":
        params = orthonormal(shapes(net, (784,), 10), seed, np.float32)
        F = foton.feedback(params, (784,), net)
    else:
        params, _, F, *_ = pepita.init(jax.random.key(seed), batch.x, net=net, tx=SGD, num_classes=10)
    got = module.grads(params, batch, KEY, net=net, F=F, **options)[0]
    return compared(got, backpropagated(params, batch, net)[0])[0][:-1].mean()


@pytest.mark.parametrize(
    "activation, depth, expected",
    [(jax.nn.relu, 2, 0.718), (jax.nn.relu, 10, 0.039), (jnp.tanh, 2, 0.923), (jnp.tanh, 10, 0.815)],
)
def test_cosines_at_the_start_are_the_sheets(activation, depth, expected):
    assert abs(np.mean([mean_cosine(activation, depth, seed) for seed in range(5)]) - expected) < 0.05


@pytest.mark.parametrize("depth, expected", [(2, -0.003), (10, -0.005)])
def test_random_feedback_starts_at_right_angles(depth, expected):
    found = np.mean([mean_cosine(jax.nn.relu, depth, seed, "pepita") for seed in range(5)])
    assert abs(found - expected) < 0.06  # the sheet's deviation over seeds is 0.03


def leaky(slope):
    return partial(jax.nn.leaky_relu, negative_slope=slope)


TABLE = {
    "relu": (jax.nn.relu, 0.718, 0.253, 0.039, -0.015),
    "leaky .01": (leaky(0.01), 0.724, 0.263, 0.048, 0.002),
    "leaky .1": (leaky(0.1), 0.780, 0.364, 0.096, -0.001),
    "leaky .3": (leaky(0.3), 0.881, 0.609, 0.319, -0.002),
    "tanh": (jnp.tanh, 0.923, 0.849, 0.815, 0.787),
    "gelu": (jax.nn.gelu, 0.774, 0.556, 0.512, 0.475),
}
SPREAD_AT_50 = {"relu": 0.041, "leaky .01": 0.053, "leaky .1": 0.054, "leaky .3": 0.034, "tanh": 0.005, "gelu": 0.027}
"""The sheet's deviation over its eight seeds; three standard errors of five seeds against eight can exceed 0.05."""


@pytest.mark.slow
@pytest.mark.parametrize("column, depth", [(1, 2), (2, 5), (3, 10), (4, 50)])
@pytest.mark.parametrize("name", TABLE)
def test_table_of_cosines_at_the_start(name, column, depth):
    activation, expected = TABLE[name][0], TABLE[name][column]
    tolerance = max(0.05, 3 * SPREAD_AT_50[name] * (1 / 5 + 1 / 8) ** 0.5) if depth == 50 else 0.05
    assert abs(np.mean([mean_cosine(activation, depth, seed) for seed in range(5)]) - expected) < tolerance


# --- What users are told ---------------------------------------------------------------------------------------------

VECTORS, IMAGES = jnp.zeros((2, 12)), jnp.zeros((2, 8, 8, 3))


@pytest.mark.parametrize(
    "net, x, words",
    [
        (nets.mlp([8, 16]), VECTORS, "layer 2 widens from 8 to 16"),
        (nets.mlp([24, 8]), VECTORS, r"layer 1 widens from 12 to 24 .* 0\.71"),
        (patch_cnn([24], pool="none"), IMAGES, "layer 1 widens from 192 to 384"),
        (linear_cnn([3]), IMAGES, "windows of convolution 1 overlap"),
    ],
)
def test_networks_that_are_not_exact_are_warned_about(net, x, words):
    with pytest.warns(foton.ExpansionWarning, match=words) as caught:
        foton.rule(net, SGD, num_classes=CLASSES).init(jax.random.key(0), x)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


@pytest.mark.parametrize("net, x", [(nets.mlp([12, 8]), VECTORS), (PATCHES, IMAGES)], ids=["mlp", "cnn"])
def test_control_no_warning_where_nothing_widens(net, x):
    foton.rule(net, SGD, num_classes=CLASSES).init(jax.random.key(0), x)  # warnings are errors here


DENSE, CONV = nets.mlp([8]), nets.cnn([4], pool="max")
REFUSED = {
    "temperature 0": lambda: foton.rule(DENSE, SGD, num_classes=3, temperature=0.0),
    "temperature below 0": lambda: foton.rule(DENSE, SGD, num_classes=3, temperature=-1),
    "retract_every": lambda: foton.rule(DENSE, SGD, num_classes=3, retract_every=0),
    "feedback_every": lambda: foton.rule(DENSE, SGD, num_classes=3, feedback_every=0),
    "retract_iterations": lambda: foton.rule(DENSE, SGD, num_classes=3, retract_iterations=0),
    "retraction": lambda: foton.retraction(every=0),
    "dropout": lambda: foton.rule(DENSE, SGD, num_classes=3, dropout=1.0),
    "negative dropout": lambda: pepita.rule(DENSE, SGD, num_classes=3, dropout=-0.1),
    "dropout of PEPITA": lambda: pepita.rule(DENSE, SGD, num_classes=3, dropout=1.0),
    "maximum pooling": lambda: foton.rule(CONV, SGD, num_classes=3),
    "option of FOTON": lambda: foton.rule(DENSE, SGD, num_classes=3, form="hebbian"),
    "option of PEPITA": lambda: pepita.rule(DENSE, SGD, num_classes=3, temperature=2.0),
    "word of FOTON": lambda: foton.rule(DENSE, SGD, num_classes=3, error="l2"),
    "word of PEPITA": lambda: pepita.rule(DENSE, SGD, num_classes=3, feedback="random"),
    "form": lambda: pepita.rule(DENSE, SGD, num_classes=3, form="mixed"),
    "part": lambda: pepita.rule(DENSE, SGD, num_classes=3, part="feedback"),
    "mirrored convolution": lambda: pepita.rule(CONV, SGD, num_classes=3, feedback="mirrored"),
    "mirroring alone": lambda: pepita.rule(DENSE, SGD, num_classes=3, part="mirror"),
    "mirror_every": lambda: pepita.rule(DENSE, SGD, num_classes=3, feedback="mirrored", mirror_every=-1),
    "no layer in FOTON": lambda: foton.rule((), SGD, num_classes=3),
    "no layer in PEPITA": lambda: pepita.rule((), SGD, num_classes=3),
    "strange layer": lambda: pepita.rule((nets.Identity(),), SGD, num_classes=3),
    "one class": lambda: foton.rule(DENSE, SGD, num_classes=1).init(KEY, VECTORS),
    "an image": lambda: pepita.rule(CONV, SGD, num_classes=3).init(KEY, VECTORS),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_line(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or it would speak first
    with pytest.raises(UsageError) as caught:
        REFUSED[name]()
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "options", "words"),
    [
        ("mirrors", {"feedback": "mirrored"}, "'mirrors'"),
        ("mirror", {"feedback": "normal"}, 'feedback="mirrored"'),
        ("mirror", {}, 'feedback="mirrored"'),
    ],
)
def test_an_update_refuses_a_part_that_does_not_fit_in_one_line(part, options, words, float64, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or it would speak first
    state, batch = mirror_start(NET)
    step = partial(pepita.update, state, batch, KEY, net=NET, tx=SGD)
    with pytest.raises(UsageError) as caught:
        step(part=part, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    mirrored = step(part="mirror", feedback="mirrored")[0]  # the control
    assert differ(mirrored.B, state.B) and not differ(mirrored.params, state.params, 0)


def test_control_options_that_fit_are_taken():
    foton.rule(nets.cnn([4], pool="average"), SGD, num_classes=3, temperature=2, dropout=0.5)
    pepita.rule(CONV, SGD, num_classes=3, conv_scale="sqrt")
    pepita.rule(DENSE, SGD, num_classes=3, part="mirror", feedback="mirrored", mirror_every=0)
