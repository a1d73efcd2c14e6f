r"""Backpropagation (BP), the baseline: the same blocks, one output layer, one global loss.

Rumelhart, Hinton, Williams, *Learning representations by back-propagating errors*, Nature 323, 1986. Start values of
the output layer as in the BP twin of arXiv 2509.19063. ``readouts`` adds the class readouts of Mono-Forward, for the
controls between the two rules: "deep" is deep supervision (BP-DS; Lee et al., *Deeply-supervised nets*, AISTATS 2015),
"sum" one loss of all readouts together.
"""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from . import nets
from .base import (
    Batch,
    LearningRule,
    Metrics,
    Net,
    Products,
    at_state,
    begin,
    check_classes,
    check_labels,
    cross_entropy,
    descend,
    flat,
)
from .card import Card, Setting, Stage, Variant
from .errors import UsageError, check_word

Readouts = Literal["output", "deep", "sum"]


class Options(NamedTuple):
    """How a training with BP goes."""

    readouts: Readouts = "output"
    """output: the loss of the output layer. deep: BP-DS, deep supervision, with the losses of Mono-Forward's readouts
    added to it. sum: one loss of the sum of the output layer's scores and all readouts', which also predicts."""
    auxiliary_weight: float = 1.0
    """With --readouts deep: factor on the losses of the readouts."""
    readout_start: Literal["small_normal", "network"] = "small_normal"
    """Start of the output layer: N(0, 0.01^2), or the law of the network's start weights."""
    readout_bias: bool = True
    """Give the output layer a bias."""


class Params(NamedTuple):
    """``blocks`` holds W_l and b_l of the hidden layers; ``W`` (n_L, classes) and ``b`` (classes,) the output layer.

    ``b`` is None where the output layer has no bias, ``M`` where there are no readouts M_l (classes, n_l) beside it.
    """

    blocks: tuple[Any, ...]
    W: Float[Array, "n classes"]
    b: Float[Array, " classes"] | None
    M: tuple[Float[Array, "classes _"], ...] | None = None


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
    readouts: Readouts = "output",
) -> State:
    """Start values: blocks as the network draws them (equal to MF's for one key), output W ~ N(0, 0.01^2), b = 0.

    The readouts M_l of "deep" and "sum" are MF's for one key, too, and change no other start value.

    Raises:
        UsageError: fewer than two classes, inputs the network cannot take, or unknown readouts.
    """
    check_word("readouts", readouts, get_args(Readouts))
    check_classes(num_classes)
    block_key, readout_key = jax.random.split(key)
    blocks, activations = nets.init(block_key, x, net)
    W, b = nets.output.layer(readout_key, activations[-1], num_classes, readout_init, readout_bias)
    M = None if readouts == "output" else nets.output.class_readouts(readout_key, activations, num_classes)
    params = Params(blocks, W, b, M)
    return State(params, begin(tx, params))


def grads(
    params: Params,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    readouts: Readouts = "output",
    auxiliary_weight: float | Array = 1.0,
) -> tuple[Params, Metrics]:
    r"""The gradient of one global loss with respect to every parameter.

    For l = 1..L, with a_0 = x (row vectors, B samples, C classes)::

        a_l = max(0, a_{l-1} W_l + b_l)     s = a_L W + b     loss = -(1/B) sum_b log softmax(s)[b, y_b]    (nats)

    and, with D = (softmax(s) - onehot(y)) / B, dW = a_L^T D, db = sum_b D, the errors travel back as
    ``D_L = (D W^T) * [z_L > 0]``, ``D_{l-1} = (D_l W_l^T) * [z_{l-1} > 0]``, ``dW_l = a_{l-1}^T D_l``.

    With readouts G_l = a_l M_l^T of every hidden layer, and lambda for ``auxiliary_weight``::

        "deep"  loss = CE(s) + lambda sum_l CE(G_l)     D_l = (D_{l+1} W_{l+1}^T + lambda E_l M_l) * [z_l > 0]
        "sum"   loss = CE(s + sum_l G_l)                D_l = (D_{l+1} W_{l+1}^T + D M_l) * [z_l > 0]

    where CE is the loss above of other scores, E_l = (softmax(G_l) - onehot(y)) / B, W_{L+1} is W, and dM_l is
    lambda E_l^T a_l or D^T a_l. "deep" predicts from s, "sum" from its sum.

    Held constant: nothing but the data. Taken by reverse-mode automatic differentiation of the loss.

    Args:
        params: from `init`, with the same ``readouts``.
        batch: inputs (B, *features) and labels (B,).
        key: unused, BP is deterministic.
        net: the hidden layers.
        readouts: "output" for BP, "deep" for BP-DS, "sum" for BP with all readouts.
        auxiliary_weight: lambda, for "deep" alone; it may be traced.

    Returns:
        Gradients shaped like ``params`` and the metric ``loss``, and for "deep" ``layer_loss`` (L + 1,), never
        weighted, that of the output layer last; in nats, taken before any update.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only),
            unknown readouts, some that ``params`` have not, or a weight for others than "deep".

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.bp.init(jax.random.key(0), batch.x, net=net, tx=optax.adam(1e-3), num_classes=3)
        >>> grads, metrics = fwdonly.bp.grads(state.params, batch, jax.random.key(1), net=net)
        >>> grads.W.shape
        (8, 3)

    Deviations:
        * "output" has none.
        * BP-DS follows the re-measurement of 2026 (GitHub Przemyslaw11/BeyondBackpropagation, ``bp_ds.py``): every
          hidden layer has a loss, the last one too, and lambda is 1 unless tuned (between 0.01 and 10). It also trains
          M_0 on the raw input, which no other parameter feels under an element-wise optimizer; here there is none.
        * "sum" is this library's reading of "BP with all of MF's readouts": one loss of their sum, as MF predicts with
          ``prediction="sum"``, and the output layer among them. No publication has it.
        * lambda scales the step of M_l, too, which Adam undoes.
    """
    _check(readouts, auxiliary_weight)
    del key
    doubt = check_labels(batch, params.W.shape[1])

    def objective(params: Params) -> tuple[Array, Metrics]:
        s, G = outputs(params, batch.x, net, readouts)
        loss = cross_entropy(s, batch.y)
        if readouts != "deep":
            return loss, {}
        local = [cross_entropy(G_l, batch.y) for G_l in G]
        return loss + auxiliary_weight * sum(local), {"layer_loss": jnp.stack([*local, loss])}

    (loss, more), gradients = jax.value_and_grad(objective, has_aux=True)(params)
    return gradients, {"loss": loss + doubt} | more


def outputs(
    params: Params, x: Float[Array, "batch *features"], net: Net, readouts: Readouts = "output"
) -> tuple[Float[Array, "batch classes"], list[Array]]:
    """The scores that are predicted from, and G_1..G_L unless ``readouts`` are the "output" alone."""
    M = () if readouts == "output" else params.M
    if M is None:
        raise UsageError(f"there are no readouts M_l in these parameters; give init readouts={readouts!r}, too")
    a, G = x, []
    for block, own, M_l in zip(net, params.blocks, M or [None] * len(net), strict=True):
        a = block.apply(own, a)
        if M_l is not None:
            G.append(flat(a) @ M_l.T)
    s = nets.output.read(params, a)
    return (s + sum(G) if readouts == "sum" else s), G


def update(
    state: State,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    tx: optax.GradientTransformation,
    readouts: Readouts = "output",
    auxiliary_weight: float | Array = 1.0,
) -> tuple[State, Metrics]:
    """One step: `grads`, then one optax step over all parameters together."""
    gradients, metrics = grads(state.params, batch, key, net=net, readouts=readouts, auxiliary_weight=auxiliary_weight)
    return State(*descend(tx, gradients, state.opt_state, state.params, metrics["loss"])), metrics


def predict(
    state: State, x: Float[Array, "batch *features"], *, net: Net, readouts: Readouts = "output"
) -> Float[Array, "batch classes"]:
    """Class scores of shape (batch, classes): s = a_L W + b, for the readouts "sum" with G_1..G_L added."""
    return outputs(state.params, x, net, "sum" if readouts == "sum" else "output")[0]


def rule(
    net: Net,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    readouts: Readouts = "output",
    auxiliary_weight: float | Array = 1.0,
    **start: Any,
) -> LearningRule:
    """BP with its options bound; further keywords are those of `init`.

    Raises:
        UsageError: unknown readouts, or a weight for others than "deep".
    """
    _check(readouts, auxiliary_weight)
    return LearningRule(
        init=partial(init, net=net, tx=tx, num_classes=num_classes, readouts=readouts, **start),
        update=partial(update, net=net, tx=tx, readouts=readouts, auxiliary_weight=auxiliary_weight),
        predict=partial(predict, net=net, readouts=readouts),
        grads=at_state(grads, net=net, readouts=readouts, auxiliary_weight=auxiliary_weight),
    )


def work(layers: tuple[nets.LayerSize, ...], num_classes: int, batch: int, *, readouts: str = "output") -> Products:
    """Multiply-accumulates of layer l, per sample: F_l forward, F_l for the weights, F_l for the input but in layer 1.

    F_l is the product of the layer, n_{l-1} n_l where it is dense. Three products of the output layer; "deep" and
    "sum": three more with every M_l.
    """
    check_word("readouts", readouts, get_args(Readouts))
    found: Products = []
    for i, own in enumerate(layers, start=1):
        found += [(i, "forward", batch * own.macs), (i, "weight gradient", batch * own.macs)]
        found += [(i, "input gradient", batch * own.macs)] if i > 1 else []
        found += [(i, "readout", 3 * batch * num_classes * own.n)] if readouts != "output" else []
    return [*found, (len(layers), "output layer", 3 * batch * num_classes * layers[-1].n)]


def _check(readouts: str, auxiliary_weight: float | Array) -> None:
    check_word("readouts", readouts, get_args(Readouts))
    if readouts != "deep" and not (isinstance(auxiliary_weight, int | float) and auxiliary_weight == 1):
        raise UsageError("auxiliary_weight needs readouts='deep'; no other loss has parts to weigh")


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage."""
    options = setting.of(Options)
    law = setting.start if options.pop("readout_start") == "network" else nets.small_normal
    made = rule(setting.net, setting.tx, num_classes=setting.num_classes, readout_init=law, **options)
    return (Stage(made),)


CARD = Card(
    variants={
        "bp": Variant("BP", tuned={"learning_rate": 0.0012, "weight_decay": 1e-6}),
        "bp-deep": Variant("BP, deep supervision", {"readouts": "deep"}),
        "bp-sum": Variant("BP, all readouts", {"readouts": "sum"}),
    },
    options=(Options,),
    recipe={"epochs": 16},
    compared={"optimizer": "adamw"},
)
