r"""Self-Contrastive Forward-Forward (SCFF): every layer learns without labels to tell an image twice from two images.

Chen, Liu, Laydevant, Grollier, *Self-Contrastive Forward-Forward algorithm*, Nature Communications 2025,
arXiv 2409.11593, with the equations of its public code. Labels reach a linear softmax readout of the layers alone.
`rule` trains all layers and the readout in every batch, `stages` one layer after another and then the readout.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from . import nets
from .base import (
    Batch,
    Frozen,
    LearningRule,
    Metrics,
    Net,
    Products,
    after,
    at_state,
    begin_layers,
    check_classes,
    check_labels,
    chosen,
    cross_entropy,
    descend_layers,
    flat,
    for_prediction,
    needs,
    predicting,
    stepping,
)
from .card import Card, Setting, Stage, Variant
from .descent import by_layer, of_layers
from .errors import UsageError, check_word

EPS = 1e-10
"""Added to the standard deviation, as by the public code."""

WORDS = {"pairs": ("anew", "carried"), "handed_on": ("triangle", "activation")}


class Options(NamedTuple):
    """Options of the rule; keywords of `init`, `grads`, `update`, `predict`, `rule` and `stages`.

    Of options with a value per layer the last one stands for all layers that follow. Numbers may be traced.
    """

    pairs: tuple[str, ...] = ("anew",)
    """Where the negatives of every layer come from. anew: two images' outputs of the layer below; carried: what the
    layer below made of its negatives. The first layer pairs anew."""
    threshold_pos: tuple[float, ...] = (4.0,)
    """Thresholds of every layer that the goodness of positives is to exceed."""
    threshold_neg: tuple[float, ...] = (6.0,)
    """Thresholds of every layer that the goodness of negatives is to stay below."""
    penalty: tuple[float, ...] = (1e-4,)
    """lambda of every layer: the weight of the length of the goodness map of positives."""
    handed_on: tuple[str, ...] = ("triangle",)
    """What every layer hands on. triangle: the activation of its linear part less the mean over channels; activation:
    that of the linear part itself."""
    readout_layers: tuple[int, ...] = ()
    """Layers that the readout reads, from 1. Empty: all."""
    readout_pool: tuple[int, ...] = (4,)
    """Rows and columns to which the map of every layer is pooled for the readout, by means. 0: not pooled."""
    readout_dropout: float = 0.1
    """Share of the readout's inputs that are dropped in training."""


class Training(NamedTuple):
    """What a training with SCFF has beside the rule's options."""

    schedule: Literal["simultaneous", "greedy"] = "simultaneous"
    """simultaneous: every batch trains all layers and the readout. greedy: layers one after another, then the
    readout."""
    stage_epochs: tuple[int, ...] = ()
    """Epochs of every layer and then of the readout, such as 6 4 21 50. Empty: --epochs for all of them."""
    readout_learning_rate: float = 3e-3
    """Learning rate of the readout (Adam) at first, unless --layer-rates ends with it; with the schedule halvings."""
    NEEDS = needs("stage_epochs", schedule=("greedy",))


class Readout(NamedTuple):
    """The linear readout, W (n, C) and b (C,)."""

    W: Float[Array, "n classes"]
    b: Float[Array, " classes"]


Params = tuple[Any, ...]
"""Per layer, 1..L, the block's parameters; then the `Readout`, which counts as layer L + 1."""


class State(NamedTuple):
    """``params``, and one optimizer state per layer and for the readout."""

    params: Params
    opt_state: tuple[Any, ...]


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    **options: Any,
) -> State:
    """Start values: blocks as the network draws them, the readout uniform on +-1/sqrt(n) of its n inputs.

    Raises:
        UsageError: fewer than two classes, inputs that the network cannot take, blocks that have statistics, or a
            layer of one input.
    """
    check_classes(num_classes)
    settings = _checked(options, net)
    block_key, readout_key = jax.random.split(key)  # as other rules do, so that one key gives equal blocks to all
    blocks, outputs = nets.output.hidden(block_key, x, net)
    read = _read(outputs, settings)
    if min(a[0].size for a in (x, *outputs[:-1], read)) < 2:
        raise UsageError("a layer has one input, of which standardisation leaves nothing; use wider layers")
    weight_key, bias_key = jax.random.split(readout_key)
    draw = partial(jax.random.uniform, dtype=read.dtype, minval=-(read.shape[1] ** -0.5), maxval=read.shape[1] ** -0.5)
    readout = Readout(draw(weight_key, (read.shape[1], num_classes)), draw(bias_key, (num_classes,)))
    return State((*blocks, readout), begin_layers(tx, (*blocks, readout)))


def grads(
    params: Params, batch: Batch, key: Array, *, net: Net, layer: int | None = None, **options: Any
) -> tuple[Params, Metrics]:
    r"""The gradient of each layer's own loss with respect to that layer's own parameters.

    For i = 1..L, with y_0 = x (B samples; std(.) has mean 0 and standard deviation 1 over all values of a sample, or of
    both samples of a pair together; pad(.) is the block's padding; one shift r_i of 1..B-1, drawn anew for every
    batch)::

        z_b = pad(std(y_{i-1,b}))
        h_b+ = W_i u + W_i u + 2 b_i,   (u, u) = std((z_b, z_b))                              (the image twice)
        h_b- = W_i u + W_i v + 2 b_i,   (u, v) = std((z_b, z_{(b + r_i) mod B}))              (two images)
        G(h) = mean over the channels of relu(h)^2                                            (at every position)
        loss_i = mean softplus(theta+_i - G(h+)) + mean softplus(G(h-) - theta-_i)            (over B and positions)
                 + lambda_i mean_b |G(h_b+)|                                                  (Euclidean length)
        y_i = pooling(relu(h+ - mean over the channels of h+)), or pooling(relu(h+))          ("triangle", "activation")

    Here relu stands for the block's activation and W_i for its linear map, such as a convolution. Of "carried" pairs
    h+ = W_i std(z) + b_i, and h- is the same of what the layer below makes of its h- in place of y_{i-1}.

    The readout is softmax(F W + b), with F the outputs y_i of ``readout_layers``, each pooled to p x p means and then
    standardised per sample, side by side; it learns from its cross-entropy, with dropout of F.

    Held constant: y_{i-1} and all other layers. No gradient crosses a layer, and none a standardisation or pooling:
    within a layer it is taken by automatic differentiation, through the linear map and the activation. Labels reach the
    readout alone. A batch of one sample has no second image; its losses have no term of negatives.

    Args:
        params: from `init`.
        batch: inputs (B, *features) and labels (B,).
        key: of the shifts, and of the readout's dropout.
        net: the layers; see `fwdonly.nets.check_parts`.
        layer: from 1, the layer that learns alone, on what the layers below make as they are; L + 1 is the readout.
        **options: see `Options`.

    Returns:
        Gradients shaped like ``params``, None where nothing learns. ``layer_loss``: the losses of all layers that
        learn, in nats but for lambda's term; the readout's cross-entropy is the last one. ``loss``: their sum.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only), or an option
            that does not exist or does not fit.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([6, 9]), fwdonly.Batch(jax.numpy.eye(4, 6), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.scff.init(jax.random.key(0), batch.x, net=net, tx=optax.adam(1e-3), num_classes=3)
        >>> grads, metrics = fwdonly.scff.grads(state.params, batch, jax.random.key(1), net=net)
        >>> metrics["layer_loss"].shape
        (3,)

    Deviations:
        * The text of the paper was not available; equations are those of its code (GitHub
          neurophysics-cnrsthales/contrastive-forward-forward, ContrastFF_CIFAR.py and ContrastFF_MNIST.py).
        * That code pads by reflection before it standardises a second time, which is no change unless edges of zeros
          are padded (``padding="same"``), whose zeros are the mean here.
        * Its layers learn one after another: `stages`, and ``schedule="greedy"``. Which layers pair anew depends there
          on the layer that learns; here it does not. What ReLU layers hand on differs by a factor alone, and std
          follows.
        * Its code for MNIST pairs two random translations of an image; here it is the image twice.
        * A batch has one shift (p = 1 there). Maps of odd height are halved and rounded down, there up, and the
          readout's means are over p x p windows (`fwdonly.nets.output.readable`), there over windows of 2x2.
    """
    return _pass(params, batch, key, net, _checked(options, net, layer), layer)


def _pass(
    params: Params, batch: Batch, key: Array, net: Net, options: Options, layer: int | None
) -> tuple[Params, Metrics]:
    """Gradients and metrics."""
    doubt = check_labels(batch, params[-1].b.shape[0])
    y, negative, outputs, losses = batch.x, batch.x, [], []
    gradients: list[Any] = [None] * len(params)
    for i, (block, weights) in enumerate(zip(net, params[:-1], strict=True), start=1):
        if layer is not None and i > layer:
            break
        inner, u, v = _inputs(i, block, y, negative, jax.random.fold_in(key, i), options)
        run = partial(_linear, i, inner, options)
        if layer in (None, i):
            local = jax.value_and_grad(_local_loss, has_aux=True)
            (loss, (h, h_neg)), gradients[i - 1] = local(weights, run, u, v, block.activation, i, options)
            losses.append(loss)
            h = after(h, gradients[i - 1])
        else:  # as it is: layers below do not learn any more
            h, h_neg = run(weights, u), None if v is None else run(weights, v)
        y = _handed_on(i, block, h, options)
        negative = None if h_neg is None else _handed_on(i, block, h_neg, options)
        outputs.append(y)
    if layer in (None, len(params)):
        loss, gradients[-1] = _readout_grads(params[-1], _read(outputs, options), batch.y, key, options)
        losses.append(loss)
    layer_loss = jnp.stack(losses)
    return tuple(gradients), {"loss": layer_loss.sum() + doubt, "layer_loss": layer_loss}


def _inputs(
    i: int, block: Any, y: Array, negative: Array | None, key: Array | None, options: Options
) -> tuple[Any, Array, Array | None]:
    """Block i without its padding, and what its linear part sees of positives and of negatives, if there are any.

    Of a pair this is the mean of both parts, since h = 2 (W_i (u + v) / 2 + b_i): one product in the place of two.
    """
    inner, z = nets.padded(block, standardised(y)[0])
    if _word("pairs", i, options) == "carried":
        below = None if negative is None else nets.padded(block, standardised(negative)[0])[1]
        return inner, standardised(z)[0], None if below is None else standardised(below)[0]
    u, samples = standardised(z, z)[0], len(z)
    if key is None or samples == 1:
        return inner, u, None
    partner = (jnp.arange(samples) + jax.random.randint(key, (), 1, samples)) % samples
    left, right = standardised(z, z[partner])
    return inner, u, (left + right) / 2


def standardised(*parts: Float[Array, "batch *features"]) -> tuple[Float[Array, "batch *features"], ...]:
    """Samples with mean 0 and standard deviation 1 over all values of all their parts, which are of one shape."""
    axes, size = tuple(range(1, parts[0].ndim)), len(parts) * parts[0][0].size
    mean = sum(a.sum(axes, keepdims=True) for a in parts) / size
    centred = [a - mean for a in parts]
    sd = jnp.sqrt(sum((a**2).sum(axes, keepdims=True) for a in centred) / (size - 1))
    return tuple(a / (EPS + sd) for a in centred)


def _linear(i: int, inner: Any, options: Options, weights: Any, u: Array) -> Array:
    """h_i, of a pair from the mean of its parts: with two parts the bias counts twice."""
    return (2 if _word("pairs", i, options) == "anew" else 1) * nets.linear(inner).apply(weights, u)


def _local_loss(
    weights: Any, run: partial, u: Array, v: Array | None, activation: Any, i: int, options: Options
) -> tuple[Array, tuple[Array, Array | None]]:
    """loss_i, then h+ and h-; ``run(weights, u)`` is h."""
    above, below, penalty = (_word(name, i, options) for name in ("threshold_pos", "threshold_neg", "penalty"))
    h = run(weights, u)
    G = goodness(activation(h))
    length = optax.safe_norm(G, 0.0, axis=1)  # its slope is 0 where all units are off
    loss = jax.nn.softplus(above - G).mean() + penalty * length.mean()
    if v is None:
        return loss, (h, None)
    h_neg = run(weights, v)
    return loss + jax.nn.softplus(goodness(activation(h_neg)) - below).mean(), (h, h_neg)


def goodness(a: Float[Array, "batch *positions channels"]) -> Float[Array, "batch n"]:
    """G: the mean over channels of squared activities, at every position; a dense layer has one."""
    return flat((a**2).mean(-1, keepdims=True))


def _handed_on(i: int, block: Any, h: Array, options: Options) -> Array:
    """y_i of h."""
    triangle = _word("handed_on", i, options) == "triangle"
    return nets.pooled(block, block.activation(h - h.mean(-1, keepdims=True) if triangle else h))


def _read(outputs: Sequence[Array], options: Options) -> Float[Array, "batch n"]:
    """F, what the readout reads of y_1..y_L."""
    layers = options.readout_layers or range(1, len(outputs) + 1)
    pooled = [nets.output.readable(outputs[i - 1], pool=_word("readout_pool", i, options)) for i in layers]
    return jnp.concatenate([standardised(a)[0] for a in pooled], axis=1)


def _readout_grads(readout: Readout, F: Array, labels: Array, key: Array, options: Options) -> tuple[Array, Readout]:
    """The readout's cross-entropy and its gradient."""
    F = _dropped(F, key, options)
    return jax.value_and_grad(lambda readout: cross_entropy(nets.output.read(readout, F), labels))(readout)


def _dropped(F: Array, key: Array, options: Options) -> Array:
    """F with dropout; the key of a step is split by layers, and 0 is none of them."""
    share = 1 - options.readout_dropout
    return jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 0), share, F.shape), F / share, 0)


@stepping(State)
def update(
    state: State,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    tx: optax.GradientTransformation,
    layer: int | None = None,
    **options: Any,
) -> tuple[State, Metrics]:
    """One step: `grads` at the old parameters, then one optax step in every layer that learns, and in the readout."""
    gradients, metrics = grads(state.params, batch, key, net=net, layer=layer, **options)
    params, opt_state = descend_layers(tx, gradients, state.opt_state, state.params, metrics["layer_loss"])
    return State(params, opt_state), metrics


@predicting
def predict(
    state: State, x: Float[Array, "batch *features"], *, net: Net, **options: Any
) -> Float[Array, "batch classes"]:
    """Class scores: the readout's."""
    return training_scores(state, x, None, net=net, **options)


def training_scores(
    state: State, x: Float[Array, "batch *features"], key: Array | None, *, net: Net, **options: Any
) -> Float[Array, "batch classes"]:
    """The scores of `predict` as a step with ``key`` sees them: with dropout of the readout's inputs."""
    F = features(state, x, net=net, **options)
    return nets.output.read(state.params[-1], F if key is None else _dropped(F, key, _checked(options, net)))


def features(state: State, x: Float[Array, "batch *features"], *, net: Net, **options: Any) -> Float[Array, "batch n"]:
    """F, what the readout reads of the layers as they are."""
    settings = _checked(options, net)
    return _read(tuple(_outputs(state.params, x, net, settings)), settings)


@predicting
def activations(
    state: State, x: Float[Array, "batch *features"], *, net: Net, **options: Any
) -> tuple[Float[Array, "batch *_"], ...]:
    """y_1..y_L, what layers hand on."""
    return tuple(_outputs(state.params, x, net, _checked(options, net)))


def _outputs(params: Params, x: Array, net: Net, options: Options) -> Iterator[Array]:
    """y_1..y_L, of positives."""
    y = x
    for i, (block, weights) in enumerate(zip(net, params[:-1], strict=True), start=1):
        inner, u, _ = _inputs(i, block, y, None, None, options)
        y = _handed_on(i, block, _linear(i, inner, options, weights, u), options)
        yield y


def rule(
    net: Net, tx: optax.GradientTransformation, *, num_classes: int, layer: int | None = None, **options: Any
) -> LearningRule:
    """SCFF with its options bound: every batch trains all layers and the readout, or ``layer`` alone (`stages`).

    Raises:
        UsageError: an option that does not exist or does not fit, or a network whose linear parts are not known.
    """
    settings = _checked(options, net, layer)
    common: dict[str, Any] = {"net": net, **options}

    def frozen_update(state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        doubt = check_labels(batch, num_classes)
        loss, gradient = _readout_grads(state.params[-1], batch.x, batch.y, key, settings)
        gradients = (*[None] * len(net), gradient)
        params, opt_state = descend_layers(tx, gradients, state.opt_state, state.params, (loss,))
        return State(params, opt_state), {"loss": loss + doubt, "layer_loss": loss[None]}

    def frozen_validate(state: State, F: Array) -> Array:
        return nets.output.read(for_prediction(state).params[-1], F)

    halves = Frozen(partial(features, **common), frozen_update, frozen_validate)
    return LearningRule(
        init=partial(init, **common, tx=tx, num_classes=num_classes),
        update=partial(update, **common, tx=tx, layer=layer),
        predict=partial(predict, **common),
        frozen=halves if layer == len(net) + 1 else None,
        grads=at_state(grads, **common, layer=layer),
        training_scores=partial(training_scores, **common),
        activations=partial(activations, **common),
    )


def stages(net: Net, tx: optax.GradientTransformation, **options: Any) -> tuple[LearningRule, ...]:
    """One `LearningRule` per layer over one state, and one for the readout, to be trained one after another.

    Stage i trains layer i alone; all of them predict with the readout, which the last stage trains.
    """
    nets.check_net(net)
    return tuple(rule(net, tx, layer=i, **options) for i in range(1, len(net) + 2))


def work(
    layers: tuple[nets.LayerSize, ...],
    num_classes: int,
    batch: int,
    *,
    layer: Any = None,
    kept: bool = False,
    **form: Any,
) -> Products:
    """Every layer has four products: forward and for the weights, of positives and of negatives. The readout has two.

    Layers below ``layer=i`` have one, or two where their negatives are carried to it. ``kept``: features of the readout
    are computed once for all steps.
    """
    settings, count = chosen(Options, form, "SCFF"), len(layers)
    products: Products = []
    for i, size in enumerate(layers, start=1):
        if kept or (layer is not None and i > layer):
            continue
        macs = batch * size.macs
        above, learns = range(i + 1, (layer or i) + 1), layer in (None, i)
        carried = layer != count + 1 and all(_word("pairs", j, settings) == "carried" for j in above)
        products.append((i, "forward", (2 if learns or carried else 1) * macs))
        products += [(i, "weight gradient", 2 * macs)] if learns else []
    if layer in (None, count + 1):
        read = settings.readout_layers or range(1, count + 1)
        lengths = [nets.output.length_read(layers[i - 1].out, _word("readout_pool", i, settings)) for i in read]
        products.append((count, "readout", 2 * batch * num_classes * sum(lengths)))
    return products


def _word(name: str, i: int, options: Options) -> Any:
    """An option's value for layer i, from 1."""
    values = getattr(options, name)
    return values[min(i, len(values)) - 1]


def _checked(options: dict[str, Any], net: Net, layer: int | None = None) -> Options:
    """The options.

    Raises:
        UsageError: one that does not exist or has no value or too many, a word that is none of its own, a layer that
            the network does not have, or blocks whose linear part is not known.
    """
    nets.check_parts(net)
    settings = chosen(Options, options, "SCFF")
    for name in (*WORDS, "threshold_pos", "threshold_neg", "penalty", "readout_pool"):
        if not 1 <= len(getattr(settings, name)) <= len(net):
            count = len(getattr(settings, name))
            raise UsageError(f"{name} has one value, or more up to that of the last layer, {len(net)}; got {count}")
    for name, words in WORDS.items():
        for word in getattr(settings, name):
            check_word(name, word, words)
    if settings.pairs[0] == "carried":
        raise UsageError("layer 1 has no negatives to carry on; begin pairs with anew, such as anew carried")
    if wrong := set(settings.readout_layers) - set(range(1, len(net) + 1)):
        raise UsageError(f"readout_layers are numbers of layers from 1 to {len(net)}; got {min(wrong)}")
    if min(settings.readout_pool) < 0:
        raise UsageError(f"readout_pool is a number of rows and columns, or 0; got {min(settings.readout_pool)}")
    share = settings.readout_dropout
    if isinstance(share, float | int) and not 0 <= share < 1:
        raise UsageError(f"readout_dropout is a share, at least 0 and below 1; got {share}")
    if layer is not None and not 1 <= layer <= len(net) + 1:
        raise UsageError(f"layer is one from 1 to {len(net)}, or {len(net) + 1}, the readout; got {layer}")
    return settings


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage; or with the greedy schedule one per layer, kept from its last epoch, and one for the readout.

    Raises:
        UsageError: another number of stages' lengths than of stages.
    """
    count = len(setting.net) + 1
    schedule, lengths, rate = setting.of(Training).values()
    options = setting.of(Options) | {"num_classes": setting.num_classes}
    if lengths and len(lengths) != count:
        raise UsageError(f"stage_epochs are those of {count - 1} layers and of the readout; got {len(lengths)}")
    lengths = lengths or (setting.epochs,) * count
    plain: dict[str, Any] = {"optimizer": "adam", "learning_rate": rate, "weight_decay": 0.0, "lr_schedule": "halvings"}
    layers = [of_layers(setting.transformation(epochs=epochs), count)[at] for at, epochs in enumerate(lengths[:-1])]
    tx = by_layer([*layers, of_layers(setting.transformation(epochs=lengths[-1], **plain), count)[-1]])
    if schedule == "simultaneous":
        return (Stage(rule(setting.net, tx, **options)),)
    plans = [{"epochs": epochs, "patience": None, "keep": "last"} for epochs in lengths[:-1]]
    plans.append({"epochs": lengths[-1]})
    return tuple(map(Stage, stages(setting.net, tx, **options), plans))


CARD = Card(
    variants={"scff": Variant("SCFF"), "scff-greedy": Variant("SCFF, greedy", {"schedule": "greedy"})},
    options=(Options, Training),
    recipe={"epochs": 20, "learning_rate": 3e-3, "optimizer": "adamw", "weight_decay": 1e-4},
    compared={"optimizer": "adamw"},
    twin={"learning_rate": 1e-3},
)
