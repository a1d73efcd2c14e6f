"""Backpropagation with less memory: the same gradient, and the compiler's account of what it takes."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fwdonly import Batch, UsageError, bp, measure, nets
from fwdonly.nets import savings

CLASSES, SAMPLES = 3, 7
FORMS = ({"remat": "block"}, {"remat": "sqrt", "chunks": 3}, {"chunks": 9})
"""7 samples in 3 chunks are 3 + 3 + 1, and in 9 each stands alone."""


def problem(net, key, **form):
    """Parameters that are no start values, and a batch, in float64."""
    x = jax.random.normal(key, (SAMPLES, 8, 8, 1), jnp.float64)
    shapes = jax.eval_shape(partial(bp.init, net=net, tx=optax.sgd(0.1), num_classes=CLASSES, **form), key, x).params
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape)), shapes)
    return params, Batch(x, jnp.asarray([0, 1, 2, 0, 1, 2, 2]))


def plain_loss(params, batch, net):
    """The loss of BP written anew: no helper of the package but the blocks themselves."""
    a = batch.x
    for block, weights in zip(net, params.blocks, strict=True):
        a = block.apply(weights, a)
    s = a.reshape(len(a), -1) @ params.W + params.b[None, :]
    return -jnp.take_along_axis(jax.nn.log_softmax(s), batch.y[:, None], axis=1).mean()


def gap(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


@pytest.mark.parametrize("net", [nets.mlp([6, 5, 4]), nets.cnn([2, 3, 2])], ids=["mlp", "cnn"])
def test_every_exact_form_has_the_gradient_of_the_plain_loss(float64, net, key, monkeypatch):
    params, batch = problem(net, key)

    @jax.jit
    def outcomes(params, batch):
        loss_of = partial(plain_loss, net=net)
        # The control: chunks of 3 + 3 + 1 samples that count alike.
        parts = [jax.tree.map(lambda a, at=at: a[at : at + 3], batch) for at in (0, 3, 6)]
        alike = jax.grad(lambda params: sum(loss_of(params, part) for part in parts) / 3)(params)
        forms = [bp.grads(params, batch, key, net=net, **form) for form in FORMS]
        return jax.value_and_grad(loss_of)(params, batch), alike, forms

    (wanted_loss, wanted), alike, forms = outcomes(params, batch)
    for gradient, metrics in forms:
        assert gap(gradient, wanted) < 1e-12 and abs(metrics["loss"] - wanted_loss) < 1e-12
    assert gap(alike, wanted) > 1e-3


def test_deep_supervision_in_chunks_is_deep_supervision(float64, key):
    params, batch = problem(nets.mlp([5, 4]), key, readouts="deep")

    def deep(params, chunks):
        form = {"readouts": "deep", "auxiliary_weight": 0.5, "chunks": chunks}
        return bp.grads(params, batch, key, net=nets.mlp([5, 4]), **form)

    wanted, outcome = jax.jit(lambda params: [deep(params, chunks) for chunks in (1, 3)])(params)
    assert gap(outcome, wanted) < 1e-12


@pytest.mark.parametrize(
    ("count", "remat", "lengths"),
    [(5, "none", [5]), (5, "block", [1] * 5), (20, "sqrt", [5] * 4), (15, "sqrt", [4, 4, 4, 3]), (1, "sqrt", [1])],
)
def test_segments_are_as_long_as_the_paper_says(count, remat, lengths):
    ranges = savings.segments(count, remat)
    assert [len(at) for at in ranges] == lengths and [i for at in ranges for i in at] == list(range(count))


def test_noise_and_statistics_of_blocks_pass_through_segments(key):
    net = (*nets.normalised(nets.mlp([6, 5])), *nets.mlp([4]))
    x = jax.random.normal(key, (SAMPLES, 6))
    state = bp.init(key, x, net=net, tx=optax.sgd(0.1), num_classes=CLASSES)
    batch = Batch(x, jnp.asarray([0, 1, 2, 0, 1, 2, 2]))
    update = partial(bp.update, net=net, tx=optax.sgd(0.1))
    ends = jax.jit(lambda state: [update(state, batch, key, remat=remat)[0] for remat in ("none", "block")])(state)
    assert gap(*ends) < 1e-6 and gap(ends[0].statistics, state.statistics) > 1e-3
    with pytest.raises(UsageError, match="statistics of their own"):
        update(state, batch, key, chunks=2)


class Counting(nn.Module):
    """A layer that counts its steps."""

    @nn.compact
    def __call__(self, x, train=False):
        count = self.variable("counts", "steps", lambda: jnp.zeros((), jnp.int32))
        if train:
            count.value += 1
        return jax.nn.relu(nn.Dense(5)(x))


def test_statistics_that_are_integers_pass_through_segments(key):
    net, tx = (Counting(), Counting(), Counting()), optax.sgd(0.1)
    batch = Batch(jax.random.normal(key, (SAMPLES, 6)), jnp.asarray([0, 1, 2, 0, 1, 2, 2]))
    state = bp.init(key, batch.x, net=net, tx=tx, num_classes=CLASSES)
    ends = [bp.update(state, batch, key, net=net, tx=tx, remat=remat)[0] for remat in ("none", "block")]
    assert gap(ends[0].params, ends[1].params) < 1e-6
    assert [int(leaf) for leaf in jax.tree.leaves(ends[1].statistics)] == [1, 1, 1]


@pytest.mark.parametrize("form", [{}, {"remat": "block"}, {"chunks": 3}])
def test_a_line_search_sees_the_loss_whose_gradient_it_is_given(form, key):
    """value_fn at the parameters is the value, and its gradient the one that is given."""
    net, batch = nets.mlp([6, 5]), Batch(jax.random.normal(key, (SAMPLES, 6)), jnp.asarray([0, 1, 2, 0, 1, 2, 2]))

    def update(gradients, state, params, *, value, value_fn, **_):
        loss, slopes = jax.value_and_grad(value_fn)(params)
        seen = {"loss": loss - value, "slope": jax.tree.map(jnp.subtract, slopes, gradients)}
        return jax.tree.map(jnp.zeros_like, gradients), state | seen

    def start(params):
        return {"loss": jnp.ones(()), "slope": jax.tree.map(jnp.ones_like, params)}

    seen = optax.GradientTransformationExtraArgs(start, update)
    state = bp.init(key, batch.x, net=net, tx=seen, num_classes=CLASSES)
    after, _ = jax.jit(partial(bp.update, net=net, tx=seen, **form))(state, batch, key)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(after.opt_state)) < 1e-6


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"chunks": 1.5}, "chunks is an integer; got 1.5"),
        ({"chunks": 0}, "at least 1"),
        ({"chunks": 2, "batch_norm": True}, "without batch_norm"),
        ({"chunks": 2, "hidden": "frozen"}, "layers that learn"),
        ({"remat": "block", "readouts": "deep"}, "remat keeps no outputs"),
        ({"remat": "block", "hidden": "frozen"}, "remat keeps no outputs"),
        ({"remat": "all"}, "remat"),
    ],
)
def test_forms_that_save_nothing_or_are_not_exact_are_refused(form, words):
    with pytest.raises(UsageError, match=words):
        bp.rule(nets.mlp([4]), optax.sgd(0.1), num_classes=CLASSES, **form)


DEPTH, WIDTH, BATCH = 9, 64, 1024
MEMORY = ({"remat": "block"}, {"remat": "sqrt"}, {"chunks": 16})
ACTIVATIONS = BATCH * WIDTH * 4
"""Bytes of one layer's outputs."""


def temporary(**form):
    rule = bp.rule(nets.mlp([WIDTH] * DEPTH), optax.sgd(0.1), num_classes=CLASSES, **form)
    return measure.compile_step(rule, (WIDTH,), BATCH).compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures("users_compilation")
def test_the_compilers_account_falls_as_the_sheet_says(monkeypatch):
    naive, block, sqrt, chunks = (temporary(**form) for form in ({}, *MEMORY))
    gradient = DEPTH * (WIDTH + 1) * WIDTH * 4
    assert naive >= DEPTH * ACTIVATIONS
    # Inputs of all blocks, and the inside of one; inputs of three segments, and the inside of one of three blocks.
    assert block <= min(naive, (DEPTH + 3) * ACTIVATIONS + 2 * gradient)
    assert sqrt <= min(block, (3 + 2 * 3 + 2) * ACTIVATIONS + 2 * gradient)
    assert chunks <= naive / 16 + 3 * gradient
    # The control: without `base.after` the compiler merges the second run with the first, as of `jax.checkpoint`.
    monkeypatch.setattr(savings, "after", lambda a, errors: a)
    assert temporary(remat="sqrt") > 0.9 * naive
