r"""Channel-wise competitive learning (CwC), a convolutional Forward-Forward without negative data.

Papachristodoulou, Kyrkou, Timotheou, Theocharides, *Convolutional Channel-wise Competitive Learning for the
Forward-Forward Algorithm*, AAAI 2024, arXiv 2312.12668. The channels of every layer form one group per class, and the
groups compete for goodness.
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
    flat,
    needs,
    predicting,
    run_block,
    stepping,
)
from .card import Card, Setting, Stage, Variant
from .descent import by_layer, of_layers
from .errors import UsageError, check_word

EPS = 1e-4
"""Added to the variance in batch normalisation."""


THRESHOLD, SHARE = 2.0, 0.28
"""The threshold of "pvn", and the part of "ce" in "cwg"."""

Loss = Literal["ce", "pvn", "cwg"]
Prediction = Literal["goodness", "softmax"]


class Options(NamedTuple):
    """Options of the rule; keywords of `init`, `grads`, `update` and `rule`. `predict` takes ``prediction`` alone."""

    affine: bool = True
    """Batch normalisation with a scale and a shift per channel, which learn with the layer."""
    loss: Loss = "ce"
    """"ce" (the paper's CwC): cross-entropy of the groups' goodness. "pvn": goodness of the true group above 2, the
    mean of the others below. "cwg": 0.28 of the first and 0.72 of the second."""
    class_groups: tuple[int, ...] = ()
    """Classes that layers tell apart, such as 20 20 20 20 100 100: label y counts as y // (C / C_l). Empty: all."""
    readout: bool = False
    """Also train a linear softmax readout of the last layer."""


class Training(NamedTuple):
    """What a training has beside the rule's options."""

    prediction: Prediction = "goodness"
    """What is validated, kept and tested; with a readout the other one is reported beside it."""
    readout_learning_rate: float = 0.01
    """Learning rate of the readout, by plain gradient descent."""
    NEEDS = needs("readout_learning_rate", readout=(True,))


class Readout(NamedTuple):
    """The linear readout of the last layer, W (n_L, C) and b (C,)."""

    W: Float[Array, "n classes"]
    b: Float[Array, " classes"]


Params = tuple[Any, ...]
"""Per layer, 1..L, the block's parameters, and gamma and beta of batch normalisation (`fwdonly.nets.Normalised`); then
the `Readout`, where there is one."""


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
    **options: Any,
) -> State:
    """Start values: blocks as the network draws them, gamma 1 and beta 0, running mean 0 and variance 1.

    The readout starts uniform on +-1/sqrt(n_L).

    Raises:
        UsageError: fewer than two classes, channels that do not split into one group per class, or inputs that the
            network cannot take.
    """
    check_classes(num_classes)
    settings = chosen(Options, options, "CwC")
    block_key, readout_key = jax.random.split(key)  # as other rules do, so that one key gives equal blocks to all
    params, statistics, activations = nets.init(block_key, x, _normalised(net, settings.affine))
    for number, (a, classes) in enumerate(zip(activations, _classes(settings, net, num_classes), strict=True), start=1):
        if a.shape[-1] % classes:
            raise UsageError(
                f"the {a.shape[-1]} channels of block {number} do not split into {classes} equal groups, one per "
                f"class; use a multiple of {classes}"
            )
    if settings.readout:
        weight_key, bias_key = jax.random.split(readout_key)
        a = flat(activations[-1])
        draw = partial(jax.random.uniform, dtype=a.dtype, minval=-(a.shape[1] ** -0.5), maxval=a.shape[1] ** -0.5)
        params = (*params, Readout(draw(weight_key, (a.shape[1], num_classes)), draw(bias_key, (num_classes,))))
    return State(params, begin_layers(tx, params), statistics)


def _normalised(net: Net, affine: bool = True) -> Net:
    """The layers: every block with batch normalisation behind it."""
    return nets.normalised(net, eps=EPS, affine=affine)


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

    For i = 1..L, with y_0 = x (B samples, C classes; channels split into C groups of equal size, in order)::

        n_i = normalised(block_i(y_{i-1}))        (per channel, by mean and variance of the batch)
        y_i = gamma_i n_i + beta_i                (gamma = 1 and beta = 0 throughout without ``affine``)
        G_ij = mean of y_i^2 over the channels of group j and all positions                  (goodness, (B, C))
        loss_i = -(1/B) sum_b log softmax(G_i)[b, label_b]                                   (nats)

    "pvn": with g the goodness of the true group and g' the mean of the others, loss_i = mean of softplus(2 - g) and of
    softplus(g' - 2), over the 2B values. "cwg": 0.28 of the first loss and 0.72 of this one. Layer i may have fewer
    classes, C_i; then label // (C / C_i) stands for label. The readout, softmax(y_L W + b), learns from its
    cross-entropy.

    Held constant: y_{i-1} and all other layers. No gradient crosses a layer; within one, through batch normalisation,
    pooling, ReLU and convolution, it is taken by automatic differentiation.

    Args:
        params: from `init`.
        batch: inputs (B, *features) and labels (B,).
        key: of the noise of blocks that have some; CwC itself is deterministic.
        net: the layers; `fwdonly.nets.cwc` are the paper's.
        num_classes: C.
        statistics: ``state.statistics``; no gradient depends on those of batch normalisation.
        **options: see `Options`.

    Returns:
        Gradients shaped like ``params``, and ``layer_loss`` (layers,) and its sum ``loss``, before any update; with a
        readout its ``readout_loss``.

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
        * All layers train in all epochs. The public code trains layer i in an epoch window of its own, which is
          ``--layer-epochs`` of a command and `fwdonly.descent.windowed` of a call; statistics move in all epochs there,
          too.
        * The public code's loss "CwC" is "ce" with clamps at 50; its readout's cross-entropy is of probabilities, which
          it takes for scores, and here of scores. The readout learns in all epochs but for windows.
        * Groups of classes follow the numbers of the labels, as in the public code, whose CIFAR-100 numbers are in
          alphabetical order: its super-classes are not those of the data set.
    """
    settings = chosen(Options, options, "CwC")
    return _pass(params, statistics, batch, key, net, _classes(settings, net, num_classes), settings)[:2]


def _pass(
    params: Params,
    statistics: Statistics,
    batch: Batch,
    key: Array,
    net: Net,
    classes: tuple[int, ...],
    options: Options,
) -> tuple[Params, Metrics, Statistics]:
    """Gradients, metrics and every layer's statistics after this batch; ``classes`` of every layer."""
    doubt = check_labels(batch, classes[-1])
    y, gradients, losses, moved = batch.x, [], [], []
    layers = zip(_normalised(net), params[: len(net)], every(statistics, net), classes, strict=True)
    for i, (block, layer, known, count) in enumerate(layers, start=1):
        local = jax.value_and_grad(_local_loss, has_aux=True)
        run = partial(run_block, block, statistics=known, x=y, key=jax.random.fold_in(key, i))
        (loss, (y, known)), g = local(layer, run, batch.y // (classes[-1] // count), count, options.loss)
        y = after(y, g)
        gradients.append(g)
        losses.append(loss)
        moved.append(known)
    layer_loss = jnp.stack(losses)
    metrics = {"loss": layer_loss.sum() + doubt, "layer_loss": layer_loss}
    if options.readout:
        read = jax.value_and_grad(lambda readout: cross_entropy(nets.output.read(readout, y), batch.y))
        metrics["readout_loss"], g = read(params[-1])
        gradients.append(g)
    return tuple(gradients), metrics, tuple(moved)


def _local_loss(
    layer: Any, run: partial, labels: Array, num_classes: int, loss: Loss
) -> tuple[Array, tuple[Array, Any]]:
    """loss_i, then y_i and the layer's statistics; ``run(layer)`` is layer i on y_{i-1}."""
    y, known = run(layer)
    G = goodness(y, num_classes)
    if loss == "ce":
        return cross_entropy(G, labels), (y, known)
    true = jax.nn.one_hot(labels, num_classes, dtype=G.dtype)
    g_pos, g_neg = (true * G).sum(1), ((1 - true) * G).sum(1) / (num_classes - 1)
    pairs = (jax.nn.softplus(THRESHOLD - g_pos).mean() + jax.nn.softplus(g_neg - THRESHOLD).mean()) / 2
    return (pairs if loss == "pvn" else SHARE * cross_entropy(G, labels) + (1 - SHARE) * pairs), (y, known)


def _classes(options: Options, net: Net, num_classes: int) -> tuple[int, ...]:
    """The number of classes of every layer.

    Raises:
        UsageError: another number of layers, classes that do not divide those of the data, or a last layer of fewer.
    """
    classes = tuple(options.class_groups) or (num_classes,) * len(net)
    fits = len(classes) == len(net) and classes[-1] == num_classes
    if not fits or any(count < 2 or num_classes % count for count in classes):
        raise UsageError(
            f"class_groups are the classes of {len(net)} layers, divisors of {num_classes} from 2 on, and "
            f"{num_classes} for the last one; got {' '.join(map(str, classes))}"
        )
    return classes


def goodness(y: Float[Array, "batch *positions channels"], num_classes: int) -> Float[Array, "batch classes"]:
    """G: the mean of squares over the channels of each group and over all positions."""
    groups = y.reshape(y.shape[0], -1, num_classes, y.shape[-1] // num_classes)
    return (groups**2).mean((1, 3))


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
    """One step: `grads` at the old parameters, one optax step per layer, running statistics moved by a tenth."""
    settings = chosen(Options, options, "CwC")
    classes = _classes(settings, net, num_classes)
    gradients, metrics, moved = _pass(state.params, state.statistics, batch, key, net, classes, settings)
    losses = [*metrics["layer_loss"], *([metrics["readout_loss"]] if settings.readout else [])]
    params, opt_state = descend_layers(tx, gradients, state.opt_state, state.params, losses)
    return State(params, opt_state, moved), metrics


@predicting
def predict(
    state: State,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    num_classes: int,
    prediction: Prediction = "goodness",
) -> Float[Array, "batch classes"]:
    """Class scores with the running statistics: the goodness G_L of the last layer's groups, or the readout's."""
    return training_scores(state, x, None, net=net, num_classes=num_classes, prediction=prediction)


def training_scores(
    state: State,
    x: Float[Array, "batch *features"],
    key: Array | None,
    *,
    net: Net,
    num_classes: int,
    prediction: Prediction = "goodness",
) -> Float[Array, "batch classes"]:
    """The scores of `predict` as a step with ``key`` sees them: statistics of the batch, and noise."""
    check_word("prediction", prediction, get_args(Prediction))
    y = _outputs(state, x, net, key)[-1]
    return goodness(y, num_classes) if prediction == "goodness" else nets.output.read(state.params[-1], y)


@predicting
def layer_scores(
    state: State, x: Float[Array, "batch *features"], *, net: Net, num_classes: int, class_groups: tuple[int, ...] = ()
) -> Float[Array, "layers batch classes"]:
    """G_1..G_L, with the running statistics; the classes of a group share its goodness."""
    classes = class_groups or (num_classes,) * len(net)
    pairs = zip(activations(state, x, net=net), classes, strict=True)
    return jnp.stack([jnp.repeat(goodness(y, count), num_classes // count, axis=1) for y, count in pairs])


@predicting
def activations(state: State, x: Float[Array, "batch *features"], *, net: Net) -> tuple[Float[Array, "batch *_"], ...]:
    """y_1..y_L, with the running statistics."""
    return _outputs(state, x, net)


def _outputs(state: State, x: Array, net: Net, key: Array | None = None) -> tuple[Array, ...]:
    """y_1..y_L, with a key as in training."""
    return nets.outputs(_normalised(net), state.params[: len(net)], state.statistics, x, key)[0]


def rule(
    net: Net,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    prediction: Prediction = "goodness",
    **options: Any,
) -> LearningRule:
    """CwC with its options bound; all layers learn in every batch. With a readout both predictions are reported.

    Raises:
        UsageError: an option that does not exist or does not fit, or a prediction by a readout that is not there.
    """
    nets.check_net(net)
    settings = chosen(Options, options, "CwC")
    _classes(settings, net, num_classes)
    check_word("prediction", prediction, get_args(Prediction))
    if prediction == "softmax" and not settings.readout:
        raise UsageError('prediction="softmax" is the readout\'s; set readout=True, or leave prediction at "goodness"')
    common: dict[str, Any] = {"net": net, "num_classes": num_classes}
    others = [mode for mode in get_args(Prediction) if settings.readout and mode != prediction]
    return LearningRule(
        init=partial(init, **common, tx=tx, **options),
        update=partial(update, **common, tx=tx, **options),
        predict=partial(predict, **common, prediction=prediction),
        readouts=tuple((mode, partial(predict, **common, prediction=mode)) for mode in others),
        grads=at_state(grads, "statistics", **common, **options),
        training_scores=partial(training_scores, **common, prediction=prediction),
        layer_scores=partial(layer_scores, **common, class_groups=settings.class_groups),
        activations=partial(activations, net=net),
    )


def work(layers: tuple[nets.LayerSize, ...], num_classes: int, batch: int, *, readout: bool = False) -> Products:
    """Every layer has its product twice: forward, and for the weights. So has the readout."""
    products: Products = []
    for i, size in enumerate(layers, start=1):
        products += [(i, "forward", batch * size.macs), (i, "weight gradient", batch * size.macs)]
    return products + ([(len(layers), "readout", 2 * batch * num_classes * layers[-1].n)] if readout else [])


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage; the readout has an optimizer of its own."""
    prediction, rate = setting.of(Training).values()
    options, count = setting.of(Options), len(setting.net)
    tx = setting.tx
    if options["readout"]:
        plain: dict[str, Any] = {
            "optimizer": "sgd",
            "learning_rate": rate,
            "weight_decay": 0.0,
            "lr_schedule": "constant",
        }
        layers, above = (of_layers(one, count + 1) for one in (tx, setting.transformation(**plain)))
        tx = by_layer([*layers[:-1], above[-1]])
    return (Stage(rule(setting.net, tx, num_classes=setting.num_classes, prediction=prediction, **options)),)


CARD = Card(
    variants={"cwc": Variant("CwC")},
    options=(Options, Training),
    net="cwc:20,80,240,480",
    start={"start": "torch_uniform", "bias": "uniform"},
    recipe={"epochs": 20, "learning_rate": 0.01, "lr_schedule": "constant"},
    compared={"optimizer": "adamw"},
    twin={"learning_rate": 1e-3, "batch_norm": True},
    batch_norm=True,
)
