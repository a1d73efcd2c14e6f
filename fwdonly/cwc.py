r"""Channel-wise competitive learning (CwC), a convolutional Forward-Forward without negative data.

Papachristodoulou, Kyrkou, Timotheou, Theocharides, *Convolutional Channel-wise Competitive Learning for the
Forward-Forward Algorithm*, AAAI 2024, arXiv 2312.12668. The channels of every layer form one group per class, and the
groups compete for goodness.
"""

from functools import partial
from typing import Any, NamedTuple

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
    Statistics,
    after,
    at_state,
    begin_layers,
    check_classes,
    check_labels,
    cross_entropy,
    descend_layers,
    every,
    predicting,
    run_block,
)
from .card import Card, Setting, Stage, Variant
from .errors import UsageError

EPS = 1e-4
"""Added to the variance in batch normalisation."""


class Options(NamedTuple):
    """Options of the rule; a keyword of `init` and `rule`."""

    affine: bool = True
    """Batch normalisation with a scale and a shift per channel, which learn with the layer."""


Params = tuple[Any, ...]
"""Per layer, 1..L, the block's parameters, and gamma and beta of batch normalisation (`fwdonly.nets.Normalised`)."""


class State(NamedTuple):
    """``params``, one optimizer state per layer, and ``statistics``: running mean and variance per channel and layer,
    and those of blocks that have some of their own.
    """

    params: Params
    opt_state: tuple[Any, ...]
    statistics: Statistics


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    affine: bool = True,
) -> State:
    """Start values: blocks as the network draws them, gamma 1 and beta 0, running mean 0 and variance 1.

    Raises:
        UsageError: fewer than two classes, channels that do not split into one group per class, or inputs that the
            network cannot take.
    """
    check_classes(num_classes)
    block_key, _ = jax.random.split(key)  # as other rules do, so that one key gives equal blocks to all
    params, statistics, activations = nets.init(block_key, x, _normalised(net, affine))
    for number, a in enumerate(activations, start=1):
        if a.shape[-1] % num_classes:
            raise UsageError(
                f"the {a.shape[-1]} channels of block {number} do not split into {num_classes} equal groups, one per "
                f"class; use a multiple of {num_classes}"
            )
    return State(params, begin_layers(tx, params), statistics)


def _normalised(net: Net, affine: bool = True) -> Net:
    """The layers: every block with batch normalisation behind it."""
    return nets.normalised(net, eps=EPS, affine=affine)


def grads(
    params: Params, batch: Batch, key: Array, *, net: Net, num_classes: int, statistics: Statistics = ()
) -> tuple[Params, Metrics]:
    r"""The gradient of each layer's own loss with respect to that layer's own parameters.

    For i = 1..L, with y_0 = x (B samples, C classes; channels split into C groups of equal size, in order)::

        n_i = normalised(block_i(y_{i-1}))        (per channel, by mean and variance of the batch)
        y_i = gamma_i n_i + beta_i                (gamma = 1 and beta = 0 throughout without ``affine``)
        G_ij = mean of y_i^2 over the channels of group j and all positions                  (goodness, (B, C))
        loss_i = -(1/B) sum_b log softmax(G_i)[b, label_b]                                   (nats)

    Held constant: y_{i-1} and all other layers. No gradient crosses a layer; within one, through batch normalisation,
    pooling, ReLU and convolution, it is taken by automatic differentiation.

    Args:
        params: from `init`.
        batch: inputs (B, *features) and labels (B,).
        key: of the noise of blocks that have some; CwC itself is deterministic.
        net: the layers; `fwdonly.nets.cwc` are the paper's.
        num_classes: C.
        statistics: ``state.statistics``; no gradient depends on those of batch normalisation.

    Returns:
        Gradients shaped like ``params``, and ``layer_loss`` (layers,) and its sum ``loss``, before any update.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only).

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([6, 9]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.cwc.init(jax.random.key(0), batch.x, net=net, tx=optax.adam(1e-3), num_classes=3)
        >>> grads, metrics = fwdonly.cwc.grads(state.params, batch, jax.random.key(1), net=net, num_classes=3)
        >>> metrics["layer_loss"].shape
        (2,)

    Deviations:
        * The text of arXiv 2312.12668 was not available; the equations are those of its public code (GitHub
          andreaspapac/CwComp), whose batch normalisation has a scale and a shift that learn, and contiguous groups.
        * Running variances average the biased one; PyTorch's, in that code, the unbiased one.
        * All layers train in all epochs. The public code trains layer i in an epoch window of its own.
        * Prediction by the goodness of the last layer; its linear softmax readout is not here.
    """
    return _pass(params, statistics, batch, key, net, num_classes)[:2]


def _pass(
    params: Params, statistics: Statistics, batch: Batch, key: Array, net: Net, num_classes: int
) -> tuple[Params, Metrics, Statistics]:
    """Gradients, metrics and every layer's statistics after this batch."""
    doubt = check_labels(batch, num_classes)
    y, gradients, losses, moved = batch.x, [], [], []
    layers = zip(_normalised(net), params, every(statistics, net), strict=True)
    for i, (block, layer, known) in enumerate(layers, start=1):
        local = jax.value_and_grad(_local_loss, has_aux=True)
        layer_key = jax.random.fold_in(key, i)
        (loss, (y, known)), g = local(layer, known, block, y, batch.y, num_classes, layer_key)
        y = after(y, g)
        gradients.append(g)
        losses.append(loss)
        moved.append(known)
    layer_loss = jnp.stack(losses)
    return tuple(gradients), {"loss": layer_loss.sum() + doubt, "layer_loss": layer_loss}, tuple(moved)


def _local_loss(
    layer: Any, known: Any, block: Any, y: Array, labels: Array, num_classes: int, key: Array
) -> tuple[Array, tuple[Array, Any]]:
    """loss_i, then y_i and the layer's statistics, given y_{i-1}."""
    y, known = run_block(block, layer, known, y, key)
    return cross_entropy(goodness(y, num_classes), labels), (y, known)


def goodness(y: Float[Array, "batch *positions channels"], num_classes: int) -> Float[Array, "batch classes"]:
    """G: the mean of squares over the channels of each group and over all positions."""
    groups = y.reshape(y.shape[0], -1, num_classes, y.shape[-1] // num_classes)
    return (groups**2).mean((1, 3))


def update(
    state: State,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
) -> tuple[State, Metrics]:
    """One step: `grads` at the old parameters, one optax step per layer, running statistics moved by a tenth."""
    gradients, metrics, moved = _pass(state.params, state.statistics, batch, key, net, num_classes)
    params, opt_state = descend_layers(tx, gradients, state.opt_state, state.params, metrics["layer_loss"])
    return State(params, opt_state, moved), metrics


@predicting
def predict(
    state: State, x: Float[Array, "batch *features"], *, net: Net, num_classes: int
) -> Float[Array, "batch classes"]:
    """Class scores: the goodness G_L of the last layer's groups, with the running statistics."""
    return goodness(activations(state, x, net=net)[-1], num_classes)


def training_scores(
    state: State, x: Float[Array, "batch *features"], key: Array, *, net: Net, num_classes: int
) -> Float[Array, "batch classes"]:
    """The scores of `predict` as a step with ``key`` sees them: statistics of the batch, and noise."""
    return goodness(_outputs(state, x, net, key)[-1], num_classes)


@predicting
def layer_scores(
    state: State, x: Float[Array, "batch *features"], *, net: Net, num_classes: int
) -> Float[Array, "layers batch classes"]:
    """G_1..G_L, with the running statistics."""
    return jnp.stack([goodness(y, num_classes) for y in activations(state, x, net=net)])


@predicting
def activations(state: State, x: Float[Array, "batch *features"], *, net: Net) -> tuple[Float[Array, "batch *_"], ...]:
    """y_1..y_L, with the running statistics."""
    return _outputs(state, x, net)


def _outputs(state: State, x: Array, net: Net, key: Array | None = None) -> tuple[Array, ...]:
    """y_1..y_L, with a key as in training."""
    y, out = x, []
    layers = zip(_normalised(net), state.params, state.statistics, strict=True)
    for i, (block, layer, known) in enumerate(layers, start=1):
        y, _ = run_block(block, layer, known, y, None if key is None else jax.random.fold_in(key, i))
        out.append(y)
    return tuple(out)


def rule(net: Net, tx: optax.GradientTransformation, *, num_classes: int, affine: bool = True) -> LearningRule:
    """CwC with its options bound; all layers learn in every batch."""
    nets.check_net(net)
    return LearningRule(
        init=partial(init, net=net, tx=tx, num_classes=num_classes, affine=affine),
        update=partial(update, net=net, tx=tx, num_classes=num_classes),
        predict=partial(predict, net=net, num_classes=num_classes),
        grads=at_state(grads, "statistics", net=net, num_classes=num_classes),
        training_scores=partial(training_scores, net=net, num_classes=num_classes),
        layer_scores=partial(layer_scores, net=net, num_classes=num_classes),
        activations=partial(activations, net=net),
    )


def work(layers: tuple[nets.LayerSize, ...], num_classes: int, batch: int) -> Products:
    """Every layer has its product twice: forward, and for the weights."""
    products: Products = []
    for i, size in enumerate(layers, start=1):
        products += [(i, "forward", batch * size.macs), (i, "weight gradient", batch * size.macs)]
    return products


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage."""
    return (Stage(rule(setting.net, setting.tx, num_classes=setting.num_classes, **setting.of(Options))),)


CARD = Card(
    variants={"cwc": Variant("CwC")},
    options=(Options,),
    net="cwc:20,80,240,480",
    start={"start": "torch_uniform", "bias": "uniform"},
    recipe={"epochs": 20, "learning_rate": 0.01, "lr_schedule": "constant"},
    compared={"optimizer": "adamw"},
    twin={"learning_rate": 1e-3, "batch_norm": True},
    batch_norm=True,
)
