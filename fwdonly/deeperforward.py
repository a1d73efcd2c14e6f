r"""DeeperForward: goodness is the mean of a group's activities, and the norm between layers takes all of it away.

Sun, Zhang, Wen, Shen, Xie, He, *DeeperForward: Enhanced Forward-Forward Training for Deeper and Better Performance*,
ICLR 2025. As in CwC (`fwdonly.cwc`) the channels of every layer form one group per class, without negative data.
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
    Statistics,
    after,
    at_state,
    begin_layers,
    check_classes,
    check_labels,
    chosen,
    cross_entropy,
    descend_layers,
    every,
    kept,
    predicting,
    run_block,
    stepping,
)
from .card import Card, Variant
from .errors import UsageError, check_word

EPS = 1e-5
"""Added to the variance in both norms, as by PyTorch."""

Shortcut = Literal["none", "add", "concat"]


class Options(NamedTuple):
    """Options of the rule; keywords of `init`, `grads`, `update`, `predict` and `rule`."""

    shortcuts: tuple[str, ...] = ()
    """Residual form: what layers 3, 4, ... do with the output two layers below, which is pooled to their size: none,
    add (to their own output) or concat (behind it). Repeated over the layers; "add none concat none" is the paper's
    17-layer network. Empty: none."""
    first_layer: int = 2
    """Predictions sum the goodness of layers, from this one on, counted from 1."""
    last_layer: int = 0
    """The last layer of that sum; 0 is the network's last."""


Params = tuple[Any, ...]
"""Per layer, 1..L, the block's parameters."""


class State(NamedTuple):
    """``params``, one optimizer state per layer, and the ``statistics`` of blocks that have some."""

    params: Params
    opt_state: tuple[Any, ...]
    statistics: Statistics = ()


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    **options: Any,
) -> State:
    """Start values: blocks as the network draws them, for the inputs that shortcuts make.

    Raises:
        UsageError: fewer than two classes, channels that do not split into one group per class, shortcuts between
            outputs that do not fit, or inputs that the network cannot take.
    """
    check_classes(num_classes)
    settings = _checked(options, net)
    block_key, _ = jax.random.split(key)  # as other rules do, so that one key gives equal blocks to all
    params, statistics, outputs = [], [], [normalised(x, 1)]
    for i, block in enumerate(net, start=1):
        (weights,), known, _ = nets.init(block_key, outputs[-1], (block,), first=i)
        statistics += known or ({},)
        a, _ = run_block(nets.before_pooling(block), weights, statistics[-1], outputs[-1])
        _check_groups(a, num_classes, i, is_last=i == len(net))
        params.append(weights)
        outputs.append(_handed_on(i, block, a, outputs, num_classes, settings))
    return State(tuple(params), begin_layers(tx, params), kept(statistics))


def _check_groups(a: Array, num_classes: int, i: int, *, is_last: bool) -> None:
    if a.shape[-1] % num_classes:
        raise UsageError(
            f"the {a.shape[-1]} channels of block {i} do not split into {num_classes} equal groups, one per class; use "
            f"a multiple of {num_classes}"
        )
    if a[0].size == num_classes and not is_last:
        raise UsageError(
            f"block {i} has one value per class, of which normalisation leaves nothing; use {2 * num_classes} channels "
            "or more"
        )


def grads(
    params: Params,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    num_classes: int,
    statistics: Statistics = (),
    **options: Any,
) -> tuple[Params, Metrics]:
    r"""The gradient of each layer's own loss with respect to that layer's own parameters.

    For i = 1..L, with y_0 = norm(x) (B samples, C classes; channels split into C groups of equal size, in order)::

        a_i = dropout(max(0, y_{i-1} * W_i))                       (block i without its pooling; * is a convolution)
        G_ij = mean of a_i over the channels of group j and all positions                     (goodness, (B, C))
        loss_i = -(1/B) sum_b log softmax(G_i)[b, label_b]                                    (nats)
        n_i = pooling(norm_C(a_i))
        y_i = n_i        or n_i + s_i ("add"), (n_i, s_i) along channels ("concat")           s_i = y_{i-2}, for i > 2

    norm(x) has mean 0 and variance 1 over all values of a sample, norm_C(a) over every group of a sample, without
    scale or shift: every group's mean, which is the goodness, is gone. s_i is averaged over 2x2 windows where it is
    twice as high as n_i. Classes are told by the sum of G_i over layers ``first_layer`` to ``last_layer``.

    Held constant: y_{i-1} and all other layers. No gradient crosses a layer, nor any norm: it is that of the mean of a
    layer's own activities, by automatic differentiation.

    Args:
        params: from `init`.
        batch: inputs (B, *features) and labels (B,).
        key: of the noise of blocks that have some.
        net: the layers; those of the paper have no bias.
        num_classes: C.
        statistics: of blocks that have some, ``state.statistics``.
        **options: see `Options`.

    Returns:
        Gradients shaped like ``params``, and ``layer_loss`` (layers,) and its sum ``loss``, in nats, before any update.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only), or an option
            that does not exist or does not fit.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([6, 9]), fwdonly.Batch(jax.numpy.eye(4, 6), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.deeperforward.init(jax.random.key(0), batch.x, net=net, tx=optax.adam(1e-3), num_classes=3)
        >>> key = jax.random.key(1)
        >>> grads, metrics = fwdonly.deeperforward.grads(state.params, batch, key, net=net, num_classes=3)
        >>> metrics["layer_loss"].shape
        (2,)

    Deviations:
        * The text of the paper was not available; equations are those of a public copy of its code
          (GitHub BasitHussain5/project_1, deeperforward-main).
        * That code chooses the pair (``first_layer``, ``last_layer``) that is best on the validation set after every
          epoch. Here it is an option; the default is the pair that the code starts from, layer 2 to the last one.
          `layer_scores` has the goodness of every layer.
        * Its small network pools a layer's inputs, which is the pooling of the layer before it here: of n_i, behind
          the norm. Pooling inside of blocks other than `fwdonly.nets.Conv` stays in front of the norm.
        * Its learning rate falls along a cosine to a tenth of the first one; that of the presets falls to 0.
    """
    return _pass(params, every(statistics, net), batch, key, net, num_classes, _checked(options, net))[:2]


def _pass(
    params: Params,
    statistics: Statistics,
    batch: Batch,
    key: Array,
    net: Net,
    num_classes: int,
    options: Options,
) -> tuple[Params, Metrics, Statistics]:
    """Gradients, metrics and every layer's statistics after this batch."""
    doubt = check_labels(batch, num_classes)
    outputs, gradients, losses, moved = [normalised(batch.x, 1)], [], [], []
    for i, (block, layer, known) in enumerate(zip(net, params, statistics, strict=True), start=1):
        local = jax.value_and_grad(_local_loss, has_aux=True)
        noise = jax.random.fold_in(key, i)
        run = partial(run_block, nets.before_pooling(block), statistics=known, x=outputs[-1], key=noise)
        (loss, (a, known)), g = local(layer, run, batch.y, num_classes)
        outputs.append(after(_handed_on(i, block, a, outputs, num_classes, options), g))
        gradients.append(g)
        losses.append(loss)
        moved.append(known)
    layer_loss = jnp.stack(losses)
    return tuple(gradients), {"loss": layer_loss.sum() + doubt, "layer_loss": layer_loss}, kept(moved)


def _local_loss(layer: Any, run: partial, labels: Array, num_classes: int) -> tuple[Array, tuple[Array, Any]]:
    """loss_i, then a_i and the block's statistics; ``run(layer)`` is block i on y_{i-1}."""
    a, known = run(layer)
    return cross_entropy(goodness(a, num_classes), labels), (a, known)


def goodness(a: Float[Array, "batch *positions channels"], num_classes: int) -> Float[Array, "batch classes"]:
    """G: the mean over the channels of each group and over all positions."""
    return _groups(a, num_classes).mean((1, 3))


def normalised(a: Float[Array, "batch *positions channels"], count: int) -> Float[Array, "batch *positions channels"]:
    """Every one of ``count`` groups of channels with mean 0 and variance 1 over it and all positions of a sample."""
    groups = _groups(a, count)
    mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    return ((groups - mean) / jnp.sqrt(variance + EPS)).reshape(a.shape)


def _groups(a: Array, count: int) -> Array:
    return a.reshape(a.shape[0], -1, count, a.shape[-1] // count)


def _handed_on(i: int, block: Any, a: Array, outputs: list[Array], num_classes: int, options: Options) -> Array:
    """y_i; ``outputs`` are y_0..y_{i-1}.

    Raises:
        UsageError: a shortcut from an output of another shape.
    """
    n, word = nets.pooled(block, normalised(a, num_classes)), _word(i, options)
    if word == "none":
        return n
    s = outputs[i - 2]
    if s.ndim == n.ndim == 4 and s.shape[1] // 2 == n.shape[1] != s.shape[1]:
        s = nets.POOLINGS["average"].function(s)
    if s.shape[:-1] != n.shape[:-1] or (word == "add" and s.shape != n.shape):
        raise UsageError(
            f"layer {i} cannot {word} the output of layer {i - 2}: {s.shape[1:]} does not fit its {n.shape[1:]}; "
            "change shortcuts, channels or strides"
        )
    return n + s if word == "add" else jnp.concatenate([n, s], axis=-1)


def _word(i: int, options: Options) -> str:
    """What layer i does with the output two layers below."""
    return options.shortcuts[(i - 3) % len(options.shortcuts)] if i > 2 and options.shortcuts else "none"


@stepping(State)
def update(
    state: State,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    **options: Any,
) -> tuple[State, Metrics]:
    """One step: `grads` at the old parameters, then one optax step per layer."""
    known, settings = every(state.statistics, net), _checked(options, net)
    gradients, metrics, moved = _pass(state.params, known, batch, key, net, num_classes, settings)
    params, opt_state = descend_layers(tx, gradients, state.opt_state, state.params, metrics["layer_loss"])
    return State(params, opt_state, moved), metrics


@predicting
def predict(
    state: State, x: Float[Array, "batch *features"], *, net: Net, num_classes: int, **options: Any
) -> Float[Array, "batch classes"]:
    """Class scores: the sum of G_i over layers ``first_layer`` to ``last_layer``."""
    return training_scores(state, x, None, net=net, num_classes=num_classes, **options)


def training_scores(
    state: State,
    x: Float[Array, "batch *features"],
    key: Array | None,
    *,
    net: Net,
    num_classes: int,
    **options: Any,
) -> Float[Array, "batch classes"]:
    """The scores of `predict` as a step with ``key`` sees them: with noise."""
    settings = _checked(options, net)
    last = settings.last_layer or len(net)
    first = min(settings.first_layer, last)
    scores, _ = _run(state, x, key, net[:last], num_classes, settings)
    return jnp.stack(scores[first - 1 :]).sum(0)


@predicting
def layer_scores(
    state: State, x: Float[Array, "batch *features"], *, net: Net, num_classes: int, **options: Any
) -> Float[Array, "layers batch classes"]:
    """G_1..G_L."""
    return jnp.stack(_run(state, x, None, net, num_classes, _checked(options, net))[0])


@predicting
def activations(
    state: State, x: Float[Array, "batch *features"], *, net: Net, num_classes: int, **options: Any
) -> tuple[Float[Array, "batch *_"], ...]:
    """y_1..y_L, what layers hand on."""
    return tuple(_run(state, x, None, net, num_classes, _checked(options, net))[1])


def _run(
    state: State, x: Array, key: Array | None, net: Net, num_classes: int, options: Options
) -> tuple[list[Array], list[Array]]:
    """G and y of every layer of ``net``, which may end early; with a key as in training."""
    scores, outputs = [], [normalised(x, 1)]
    layers = zip(net, state.params, state.statistics or ({},) * len(state.params), strict=False)
    for i, (block, layer, known) in enumerate(layers, start=1):
        noise = None if key is None else jax.random.fold_in(key, i)
        a, _ = run_block(nets.before_pooling(block), layer, known, outputs[-1], noise)
        scores.append(goodness(a, num_classes))
        outputs.append(_handed_on(i, block, a, outputs, num_classes, options))
    return scores, outputs[1:]


def rule(net: Net, tx: optax.GradientTransformation, *, num_classes: int, **options: Any) -> LearningRule:
    """DeeperForward with its options bound; all layers learn in every batch.

    Raises:
        UsageError: an option that does not exist or does not fit.
    """
    _checked(options, net)
    common: dict[str, Any] = {"net": net, "num_classes": num_classes, **options}
    return LearningRule(
        init=partial(init, **common, tx=tx),
        update=partial(update, **common, tx=tx),
        predict=partial(predict, **common),
        grads=at_state(grads, "statistics", **common),
        training_scores=partial(training_scores, **common),
        layer_scores=partial(layer_scores, **common),
        activations=partial(activations, **common),
    )


def work(
    layers: tuple[nets.LayerSize, ...], num_classes: int, batch: int, *, shortcuts: tuple[str, ...] = ()
) -> Products:
    """Every layer has its product twice: forward, and for the weights. Behind "concat" it has more inputs."""
    products: Products = []
    options, channels, factor = Options(tuple(shortcuts)), [0], 1.0
    for i, size in enumerate(layers, start=1):
        macs = round(batch * size.macs * factor)
        products += [(i, "forward", macs), (i, "weight gradient", macs)]
        channels.append(size.out[-1] + (channels[i - 2] if _word(i, options) == "concat" else 0))
        factor = channels[i] / size.out[-1]
    return products


def _checked(options: dict[str, Any], net: Net) -> Options:
    """The options.

    Raises:
        UsageError: one that does not exist, a word that is no shortcut, or layers that the network does not have.
    """
    nets.check_net(net)
    settings = chosen(Options, options, "DeeperForward")
    for word in settings.shortcuts:
        check_word("shortcuts", word, get_args(Shortcut))
    first, last = settings.first_layer, settings.last_layer
    if first < 1 or not 0 <= last <= len(net) or (last and first > last):
        raise UsageError(
            f"first_layer and last_layer are layers from 1 to {len(net)}, in this order (last_layer 0: the last one); "
            f"got {first} and {last}"
        )
    return settings


CARD = Card(
    variants={"deeperforward": Variant("DeeperForward")},
    options=(Options,),
    net="cnn:20,40,80,80;kernel=5,5,3,3;pool=average,average,none,none",
    start={"start": "he_normal_fan_out", "bias": "none"},
    recipe={"epochs": 20, "learning_rate": 0.03, "optimizer": "adamw", "weight_decay": 0.01},
    compared={"optimizer": "adamw"},
    twin={"learning_rate": 1e-3},
)
