r"""Backpropagation (BP), the baseline: the same blocks, one output layer, one global loss.

Rumelhart, Hinton, Williams, *Learning representations by back-propagating errors*, Nature 323, 1986. Start values of
the output layer as in the BP twin of arXiv 2509.19063.
"""

from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from . import nets
from .base import Batch, LearningRule, Metrics, Net, UsageError, cross_entropy, descend


class Params(NamedTuple):
    """``blocks`` holds W_l and b_l of the hidden layers; ``W`` (n_L, classes) and ``b`` (classes,) the output layer.

    ``b`` is None where the output layer has no bias.
    """

    blocks: tuple[Any, ...]
    W: Float[Array, "n classes"]
    b: Float[Array, " classes"] | None


class State(NamedTuple):
    """``params`` and one optimizer state over all of them."""

    params: Params
    opt_state: Any


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    readout_init: nets.Initializer = nets.small_normal,
    readout_bias: bool = True,
) -> State:
    """Start values: blocks as the network draws them (equal to MF's for one key), output W ~ N(0, 0.01^2), b = 0.

    Raises:
        UsageError: fewer than two classes, or inputs the network cannot take.
    """
    params = draw(key, x, net, num_classes, readout_init, readout_bias)
    return State(params, tx.init(cast(Any, params)))


def draw(
    key: Array, x: Array, net: Net, num_classes: int, readout_init: nets.Initializer, readout_bias: bool
) -> Params:
    """Parameters of the blocks and of an output layer, for BP and the rules that send its output error elsewhere."""
    if num_classes < 2:
        raise UsageError(f"classification needs at least 2 classes; got num_classes={num_classes}")
    block_key, readout_key = jax.random.split(key)
    blocks, activations = nets.init(block_key, x, net)
    a = activations[-1]
    W = readout_init(readout_key, (a[0].size, num_classes), a.dtype)
    return Params(blocks, W, jnp.zeros(num_classes, a.dtype) if readout_bias else None)


def grads(params: Params, batch: Batch, key: Array, *, net: Net) -> tuple[Params, Metrics]:
    r"""The gradient of one global loss with respect to every parameter.

    For l = 1..L, with a_0 = x (row vectors, B samples, C classes)::

        a_l = max(0, a_{l-1} W_l + b_l)     s = a_L W + b     loss = -(1/B) sum_b log softmax(s)[b, y_b]    (nats)

    and, with D = (softmax(s) - onehot(y)) / B, dW = a_L^T D, db = sum_b D, the errors travel back as
    ``D_L = (D W^T) * [z_L > 0]``, ``D_{l-1} = (D_l W_l^T) * [z_{l-1} > 0]``, ``dW_l = a_{l-1}^T D_l``.

    Held constant: nothing but the data. Taken by reverse-mode automatic differentiation of the loss.

    Args:
        params: from `init`.
        batch: inputs (B, *features) and labels (B,).
        key: unused, BP is deterministic.
        net: the hidden layers.

    Returns:
        Gradients shaped like ``params`` and the metric ``loss`` in nats, taken before any update.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.bp.init(jax.random.key(0), batch.x, net=net, tx=optax.adam(1e-3), num_classes=3)
        >>> grads, metrics = fwdonly.bp.grads(state.params, batch, jax.random.key(1), net=net)
        >>> grads.W.shape
        (8, 3)

    Deviations: none.
    """
    del key
    loss, gradients = jax.value_and_grad(lambda p: cross_entropy(scores(p, batch.x, net), batch.y))(params)
    return gradients, {"loss": loss}


def scores(params: Params, x: Float[Array, "batch *features"], net: Net) -> Float[Array, "batch classes"]:
    """The output s of the whole network."""
    a = x
    for block, own in zip(net, params.blocks, strict=True):
        a = block.apply(own, a)
    return read(params, a)


def read(params: Params, a: Float[Array, "batch *features"]) -> Float[Array, "batch classes"]:
    """The output layer: s = a_L W + b."""
    s = a.reshape(a.shape[0], -1) @ params.W
    return s if params.b is None else s + params.b[None, :]


def update(
    state: State, batch: Batch, key: Array, *, net: Net, tx: optax.GradientTransformation
) -> tuple[State, Metrics]:
    """One step: `grads`, then one optax step over all parameters together."""
    gradients, metrics = grads(state.params, batch, key, net=net)
    return State(*descend(tx, gradients, state.opt_state, state.params)), metrics


def predict(state: State, x: Float[Array, "batch *features"], *, net: Net) -> Float[Array, "batch classes"]:
    """Class scores s = a_L W + b of shape (batch, classes)."""
    return scores(state.params, x, net)


def rule(net: Net, tx: optax.GradientTransformation, *, num_classes: int, **start: Any) -> LearningRule:
    """BP with its options bound; further keywords are those of `init`."""
    return LearningRule(
        init=partial(init, net=net, tx=tx, num_classes=num_classes, **start),
        update=partial(update, net=net, tx=tx),
        predict=partial(predict, net=net),
    )
