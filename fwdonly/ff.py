r"""Forward-Forward (FF): every layer learns to be active on images with their true label and quiet on false labels.

Hinton, *The Forward-Forward Algorithm*, arXiv 2212.13345, with the equations of his released Matlab ("ffcode").
Options: SymBa's pair loss (Lee, Song, arXiv 2303.08418), uniform negatives, labels as further inputs. Layers one after
another, as in many third-party codes, are ``--layer-epochs`` that do not overlap, or `fwdonly.by_layer`.
"""

from functools import partial
from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from . import _labels, base, nets
from .base import Batch, LearningRule, Metrics, Net, Products, after, check_labels, flat
from .card import Card, Setting, Stage, Variant
from .descent import half_then_linear, lifted, smoothed, windowed
from .errors import UsageError, check_word
from .options import is_same, needs

LABELLED_ROWS = 8192
"""Rows (images times labels) that the goodness prediction puts through the network at a time; at least one label's."""

Loss = Literal["logistic", "symba", "swish"]
Goodness = Literal["sum", "mean"]
Negatives = Literal["hard", "uniform"]
Label = Literal["overlay", "append"]
Prediction = Literal["goodness", "softmax"]


rms = nets.rms


class Options(NamedTuple):
    """How layers learn; keywords of `init`, `grads`, `update`, `predict` and `rule`. Numbers may be traced."""

    loss: Loss = "symba"
    """"symba": the positive sample above the negative one; "swish": the same, with a loss that ends growing where pairs
    are hopeless. "logistic" (Hinton): above the threshold or below."""
    goodness: Goodness | None = None
    """Sum or mean of the squared activities; None: sum for "logistic", mean for the others."""
    positives: Literal["high", "low"] = "high"
    """"low": positive samples have low activity, and the label of least activity is the prediction."""
    threshold: float | Array | None = None
    """Threshold of the goodness, for "logistic"; None: N_l for the sum, 1 for the mean."""
    temperature: float | Array = 1.0
    """T of "logistic": p_l = sigmoid((g_l - threshold) / T)."""
    alpha: float | Array | None = None
    """Sharpness of a pair's loss; None: 4 for "symba", 6 for "swish"."""
    relu_gradient: Literal["gated", "identity"] = "gated"
    """"identity": the activation's slope counts as 1 also where a unit is off, in blocks `Dense` and `Conv`. A square's
    slope is 0 there all the same, so that only units that are pooled before it notice."""
    negatives: Negatives = "hard"
    """Wrong labels drawn by the head's probabilities ("hard"), or all alike ("uniform")."""
    peer: float | Array | None = None
    """Strength of peer normalisation; 0 is off. None: 0.03 for the sum of blocks that allow it, otherwise 0."""
    peer_momentum: float | Array = 0.9
    """Momentum of the running mean activity m."""
    label: Label = "overlay"
    """"overlay": in place of the first C input values. "append": after the last one, for dense blocks."""
    label_strength: float | Array | None = None
    """Value of the true label's input; 1 in the reference. None: its square is a tenth of the image's energy."""
    first: int = 2
    """Lowest layer, from 1, of the head and of the goodness prediction; a network of fewer layers uses its last."""
    NEEDS = needs("threshold", "temperature", loss=("logistic",)) | needs("alpha", loss=("symba", "swish"))


class Training(NamedTuple):
    """What a training with FF has beside the rule's options."""

    prediction: Prediction = "goodness"
    """What is validated, kept and tested; the other one is reported beside it."""
    head_learning_rate: float = 0.1
    """Learning rate of the softmax head at its peak."""
    head_weight_decay: float = 0.003
    """Weight decay of the softmax head."""


class Layer(NamedTuple):
    """What layer l owns: ``block`` holds W_l and b_l, ``U`` (N_l, classes) its part of the softmax head, or None."""

    block: Any
    U: Float[Array, "n classes"] | None


Params = tuple[Layer, ...]


class State(NamedTuple):
    """``params``; per layer an optimizer state, ``m``, the running mean activity of units, and a block's statistics."""

    params: Params
    opt_state: tuple[Any, ...]
    m: tuple[Array, ...]
    statistics: base.Statistics = ()


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    **options: Any,
) -> State:
    """Start values: blocks as the network draws them, U = 0, m = 0.5.

    The Matlab draws W from N(0, 1/fan_in): ``nets.mlp(widths, kernel_init=nets.normal)``.
    ``x`` are example inputs, used for shapes. ``tx``, any optax transformation, is applied to each `Layer` by itself;
    see `reference` and `separate`. ``options`` as of `Options`.

    Raises:
        UsageError: fewer than two classes, more classes than input values to overlay, or inputs that do not fit.
    """
    settings = _checked(options, net)
    if num_classes < 2:
        raise UsageError(f"a wrong label needs at least 2 classes; got num_classes={num_classes}")
    block_key, _ = jax.random.split(key)  # as other rules do, so that one key gives equal blocks to all
    labelled = _labelled(x, jnp.zeros((len(x), num_classes), x.dtype), settings)
    blocks, statistics, activations = nets.init(block_key, labelled, net)
    params = [
        Layer(block, jnp.zeros((s[0].size, num_classes), s.dtype) if at + 1 >= min(settings.first, len(net)) else None)
        for at, (block, s) in enumerate(zip(blocks, activations, strict=True))
    ]
    m = tuple(jnp.full(s.shape[1:], 0.5, s.dtype) for s in activations)
    return State(tuple(params), base.begin_layers(tx, params), m, statistics)


def grads(
    params: Params, batch: Batch, key: Array, *, net: Net, m: Any = None, statistics: Any = (), **options: Any
) -> tuple[Params, Metrics]:
    r"""The gradient of every layer's own loss, and of the softmax head, all at the old parameters.

    Row vectors, B samples, C classes, layers l = 1..L of N_l units (the Matlab's equations; its constants in [])::

        n_0 = rms(x with a label)   s_l = max(0, n_{l-1} W_l + b_l)   n_l = rms(s_l)   rms(a) = a / sqrt(mean_j a_j^2)
        g_l = sum_j s_lj^2          p_l = sigmoid(g_l - N_l)

    Neutral pass (1/C in place of every label value): the head, of layers l >= 2, and the false labels::

        q = softmax(sum_l n_l U_l)     dU_l = n_l^T (q - T) / B     y_neg ~ q without the true label

    Positive pass (label T) and negative pass (label y_neg): one loss per layer::

        loss_l = -(1/2B) sum_b [ log p_l(pos) + log(1 - p_l(neg)) ]                                        (nats)
        dW_l = (1/B) ( n_neg^T [p_neg s_neg] - n_pos^T [(1 - p_pos) s_pos + peer_l] )     db_l: the same without n^T
        peer_l = peer [0.03] * (mean_j m_l - m_l)     m_l <- 0.9 m_l + 0.1 mean_b s_l(pos)

    The peer term is no part of loss_l: it is the same for all samples and passes the ReLU of units that are off,
    which revives dead ones. Pairs have G = g_l / N_l and z = -alpha (G_pos - G_neg): SymBa's loss_l is the mean of
    log(1 + exp(z)), swish's that of z sigmoid(z). ``positives="low"``: -g_l for g_l, and minus the threshold.

    Held constant for layer l: n_{l-1} and all other layers; no gradient crosses a layer. Of the others a layer learns
    only through the false labels, which the head draws, and the head's parts share their error q - T.

    Args:
        params: from `init`.
        batch: inputs (B, *features), in [0, 1] in the reference, and labels (B,).
        key: draws the false labels, and the noise of blocks that have some.
        net: the hidden layers.
        m: running mean activities (a tuple, one per layer) before this batch; None leaves the peer term out.
        statistics: of blocks that have some, ``state.statistics``.
        **options: see `Options`.

    Returns:
        Gradients shaped like ``params``, and metrics taken before any update: ``layer_loss`` (layers,) and its sum
        ``loss`` in nats, ``head_loss`` in nats, and ``pair_error`` (layers,), the share of samples whose negative has
        the higher goodness.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only), or
            an option that does not exist or does not fit.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.ff.init(jax.random.key(0), batch.x, net=net, tx=optax.adam(1e-3), num_classes=3)
        >>> grads, metrics = fwdonly.ff.grads(state.params, batch, jax.random.key(1), net=net, m=state.m)
        >>> metrics["layer_loss"].shape
        (2,)

    Deviations:
        * The full text of arXiv 2212.13345 was not available; equations and constants are those of the Matlab.
        * The Matlab drops the factor 2 of d(s^2)/ds and divides by B: the same number as the gradient of the mean over
          2B samples, which is taken here by automatic differentiation within the layer, so that a block may be any map.
        * The Matlab's label is 1: some 1 % of the energy of pixels in [0, 1], and .1 % of that of standardised ones,
          where layers hardly see it. By default it has a tenth of its image's; ``label_strength=1.0`` is the Matlab's.
        * SymBa's loss is the default: it learns more at one learning rate for all. ``loss="logistic"`` is the Matlab's.
        * Low positives are in Hinton's experiments on CIFAR-10, whose code is not public. The Matlab's gradient for a
          temperature other than 1 is not known; here it is that of loss_l, with its factor 1 / T.
        * 0.03 for the peer term is for the sum of squares; it drowns the gradient of a mean, where the default is 0.
        * Overlaid label values replace the first C inputs in memory order. On colour images these are the channels of
          the first pixels, which are lost; ``label="append"`` keeps the image whole.
        * The Matlab takes its batches in a fixed order; `fwdonly.fit` shuffles.
        * Blocks with statistics of the batch take those of positives and negatives together, and these move the running
          ones; the neutral pass, which draws the false labels and teaches the head, runs as in `predict`.
        * In a convolution, goodness, rms and m run over all positions and channels of the pooled map.
        * The unsupervised (hybrid images), locally connected and recurrent forms are not here.
    """
    return _passes(params, m, base.every(statistics, net), batch, key, net, _checked(options, net))[:2]


def _passes(
    params: Params, m: Any, statistics: base.Statistics, batch: Batch, key: Array, net: Net, options: Options
) -> tuple[Params, Metrics, tuple[Array, ...], base.Statistics]:
    """The neutral pass, then the other two side by side: gradients, metrics, and the new m and statistics."""
    num_classes = next(layer.U.shape[1] for layer in params if layer.U is not None)
    doubt, count = check_labels(batch, num_classes), len(batch.y)
    q_in, neutral = _head_scores(params, statistics, batch.x, net, options)
    error = (jax.nn.softmax(q_in) - jax.nn.one_hot(batch.y, num_classes, dtype=q_in.dtype)) / count
    y_neg = wrong_labels(key, q_in if options.negatives == "hard" else jnp.zeros_like(q_in), batch.y)
    both = jax.nn.one_hot(jnp.concatenate([batch.y, y_neg]), num_classes, dtype=batch.x.dtype)
    n = rms(_labelled(jnp.concatenate([batch.x, batch.x]), both, options))
    gradients, losses, wrong_pairs, new_m, moved = [], [], [], [], []
    layers = zip(net, params, [None] * len(net) if m is None else m, statistics, neutral, strict=True)
    for i, (block, layer, m_l, known, n_neutral) in enumerate(layers, start=1):
        block = nets.straight(block) if options.relu_gradient == "identity" else block
        run = partial(base.run_block, block, statistics=known, key=jax.random.fold_in(key, i))
        g, (loss, (s, known), wrong, m_l) = jax.grad(_objective, has_aux=True)(layer.block, run, n, m_l, options)
        new_m += [] if m_l is None else [m_l]
        moved.append(known)
        gradients.append(Layer(g, None if layer.U is None else flat(n_neutral).T @ error))
        losses.append(loss)
        wrong_pairs.append(wrong)
        n = after(rms(s), g)
    metrics = {"layer_loss": jnp.stack(losses), "pair_error": jnp.stack(wrong_pairs)}
    metrics |= {"loss": metrics["layer_loss"].sum() + doubt, "head_loss": base.cross_entropy(q_in, batch.y)}
    return tuple(gradients), metrics, tuple(new_m), base.kept(moved)


def _objective(
    weights: Any, run: partial, n: Array, m: Array | None, options: Options
) -> tuple[Array, tuple[Array, tuple[Array, Any], Array, Array | None]]:
    """The objective that layer l descends; then loss_l, s_l and statistics, the share of wrong pairs and the new m_l.

    The first half of ``n`` is positive, the second negative. The peer term of dW_l is the gradient of
    - sum_j peer_lj mean_b z_bj over the positives, where z_l = n_{l-1} W_l + b_l and peer_l is held constant: it passes
    the activation by.
    """
    count, has_peer = len(n) // 2, m is not None and _has_peer(options)
    if has_peer:  # one product of a plain block, read behind the activation and before it
        block, known = run.args[0], run.keywords["statistics"]
        both = lambda z: jnp.concatenate([block.activation(z), z], axis=-1)
        s, z = jnp.split(block.clone(activation=both).apply(weights, n), 2, axis=-1)
    else:
        s, known = z, _ = run(weights, x=n)
    g_pos, g_neg = jnp.split(_goodness(s, options), 2)
    if options.loss == "logistic":
        theta = options.threshold if options.threshold is not None else flat(s).shape[1] if _sums(options) else 1.0
        theta, T = theta if options.positives == "high" else -theta, options.temperature
        loss = (jax.nn.softplus((theta - g_pos) / T) + jax.nn.softplus((g_neg - theta) / T)).mean() / 2
    else:
        of_pair = {"symba": (jax.nn.softplus, 4.0), "swish": (jax.nn.silu, 6.0)}[options.loss]
        alpha = of_pair[1] if options.alpha is None else options.alpha
        loss = of_pair[0](-alpha * (g_pos - g_neg)).mean()
    objective = loss
    if m is not None:
        m = options.peer_momentum * m + (1 - options.peer_momentum) * jax.lax.stop_gradient(s[:count].mean(0))
        if has_peer:
            objective = loss - (cast(Any, options.peer) * (m.mean() - m) * z[:count].mean(0)).sum()
    return objective, (loss, (s, known), (g_neg > g_pos).mean(dtype=loss.dtype), m)


def _head_scores(params: Params, statistics: Any, x: Array, net: Net, options: Options) -> tuple[Array, list[Array]]:
    """sum_l n_l U_l of the neutral pass, and every n_l."""
    num_classes = next(layer.U.shape[1] for layer in params if layer.U is not None)
    n = rms(_labelled(x, jnp.full((len(x), num_classes), 1 / num_classes, x.dtype), options))
    q_in, activities = jnp.zeros((len(x), num_classes), x.dtype), []
    for block, layer, known in zip(net, params, base.every(statistics, net), strict=True):
        n = rms(base.run_block(block, layer.block, known, n)[0])
        activities.append(n)
        if layer.U is not None:
            q_in = q_in + flat(n) @ layer.U
    return q_in, activities


def wrong_labels(key: Array, scores: Float[Array, "batch classes"], y: Int[Array, " batch"]) -> Int[Array, " batch"]:
    """One wrong label per sample, drawn from softmax(scores) with the true label ``y`` excluded."""
    is_true = jax.nn.one_hot(y, scores.shape[1], dtype=bool)
    return jax.random.categorical(key, jnp.where(is_true, -jnp.inf, scores)).astype(
        jax.dtypes.canonicalize_dtype(y.dtype)
    )


@base.stepping(State)
def update(
    state: State, batch: Batch, key: Array, *, net: Net, tx: optax.GradientTransformation, **options: Any
) -> tuple[State, Metrics]:
    """One step: all passes at the old parameters, then one optax step per layer. Args and metrics as for `grads`."""
    before = state.params, state.m, base.every(state.statistics, net)
    gradients, metrics, m, moved = _passes(*before, batch, key, net, _checked(options, net))
    params, opt_state = base.descend_layers(tx, gradients, state.opt_state, state.params, metrics["layer_loss"])
    return State(params, opt_state, m, moved), metrics


@base.predicting
def predict(
    state: State,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    prediction: Prediction = "goodness",
    **options: Any,
) -> Float[Array, "batch classes"]:
    """Class scores: the goodness of every label, or the head's.

    "goodness": for each label y the network sees x with y; the score is the sum of g_l over l >= ``first``. C passes,
    as many labels at a time as make `LABELLED_ROWS` rows. "softmax": sum_l n_l U_l of one neutral pass.

    Raises:
        UsageError: an option that does not exist or does not fit.
    """
    settings = _checked(options, net)
    check_word("prediction", prediction, get_args(Prediction))
    if prediction == "softmax":
        return _head_scores(state.params, state.statistics, x, net, settings)[0]
    return layer_scores(state, x, net=net, **options)[min(settings.first, len(net)) - 1 :].sum(0)


@base.predicting
def layer_scores(
    state: State, x: Float[Array, "batch *features"], *, net: Net, **options: Any
) -> Float[Array, "layers batch classes"]:
    """g_l of every layer for every label, those before ``first`` among them. C passes, as in `predict`."""
    settings = _checked(options, net)
    num_classes = next(layer.U.shape[1] for layer in state.params if layer.U is not None)

    def goodness_of(label: Array) -> Array:
        value = jnp.broadcast_to(jax.nn.one_hot(label, num_classes, dtype=x.dtype), (len(x), num_classes))
        n, by_layer = rms(_labelled(x, value, settings)), []
        for block, layer, known in zip(net, state.params, base.every(state.statistics, net), strict=True):
            s, _ = base.run_block(block, layer.block, known, n)
            by_layer, n = [*by_layer, _goodness(s, settings)], rms(s)
        return jnp.stack(by_layer)

    at_once = max(1, min(num_classes, LABELLED_ROWS // max(1, len(x))))
    return jax.lax.map(goodness_of, jnp.arange(num_classes), batch_size=at_once).transpose(1, 2, 0)


def rule(
    net: Net,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    prediction: Prediction = "goodness",
    **options: Any,
) -> LearningRule:
    """FF with its options bound; all layers learn in every batch. The other prediction is reported beside this one.

    Raises:
        UsageError: an option that does not exist or does not fit.
    """
    check_word("prediction", prediction, get_args(Prediction))
    _checked(options, net)
    read = {mode: partial(predict, net=net, prediction=mode, **options) for mode in get_args(Prediction)}
    return LearningRule(
        init=partial(init, net=net, tx=tx, num_classes=num_classes, **options),
        update=partial(update, net=net, tx=tx, **options),
        predict=read[prediction],
        readouts=tuple((mode, read[mode]) for mode in read if mode != prediction),
        grads=base.at_state(grads, "m", "statistics", net=net, **options),
        layer_scores=partial(layer_scores, net=net, **options),
    )


def work(
    layers: tuple[nets.LayerSize, ...], num_classes: int, batch: int, *, first: int = 2, label: str = "overlay"
) -> Products:
    """Every layer has three passes forward, two for the weights; from layer ``first`` on two products with U_l.

    ``label="append"``: layer 1 has C more inputs.
    """
    products: Products = []
    for i, size in enumerate(layers, start=1):
        macs = size.macs + (num_classes * size.n if i == 1 and label == "append" else 0)
        products += [(i, "forward", 3 * batch * macs), (i, "weight gradient", 2 * batch * macs)]
        products += [(i, "readout", 2 * batch * num_classes * size.n)] if i >= min(first, len(layers)) else []
    return products


def separate(
    weights: optax.GradientTransformation, biases: optax.GradientTransformation, head: optax.GradientTransformation
) -> optax.GradientTransformation:
    """One optimizer each for the blocks' weights, the blocks' biases (arrays of one dimension) and the head U."""

    def names(layer: Layer) -> Layer:
        block = jax.tree.map(lambda leaf: "biases" if leaf.ndim == 1 else "weights", layer.block)
        return Layer(block, jax.tree.map(lambda _: "head", layer.U))

    return optax.multi_transform({"weights": weights, "biases": biases, "head": head}, names)


def reference(
    steps_per_epoch: int,
    epochs: int,
    *,
    learning_rate: float | Array = 0.01,
    head_learning_rate: float | Array = 0.1,
    weight_decay: float = 0.001,
    head_weight_decay: float = 0.003,
    smoothing: float = 0.9,
) -> optax.GradientTransformation:
    """The Matlab's optimizer: v <- 0.9 v + 0.1 dW, then W <- W - gain * rate * (v + decay * W); biases do not decay.

    The gain is 1 in epochs e <= E/2 and (1 + 2 (E - e)) / E afterwards, which ends at 1/E.
    """

    rates, decays = (learning_rate, learning_rate, head_learning_rate), (weight_decay, 0.0, head_weight_decay)
    schedules = [half_then_linear(rate, steps_per_epoch, epochs) for rate in rates]
    return separate(*(smoothed(rate, decay, smoothing) for rate, decay in zip(schedules, decays, strict=True)))


def _checked(options: dict[str, Any], net: Net) -> Options:
    """The options, with the strength of peer normalisation that suits the goodness and the blocks."""
    nets.check_net(net)
    settings = base.chosen(Options, options, "Forward-Forward")
    if isinstance(settings.temperature, float | int) and not settings.temperature > 0:
        raise UsageError(f"temperature must be above 0; got {settings.temperature}: try 1.0")
    if settings.relu_gradient != "gated" and not all(isinstance(block, nets.Dense | nets.Conv) for block in net):
        raise UsageError('relu_gradient="identity" needs blocks Dense or Conv; leave it out')
    if settings.first < 1:
        raise UsageError(f"first is the number of a layer, from 1; got {settings.first}")
    if settings.label == "append" and isinstance(net[0], nets.Conv):
        raise UsageError('label="append" makes vectors of images, and block 1 is a convolution; use label="overlay"')
    fits = [nets.is_plain(block) and nets.POOLINGS[getattr(block, "pool", "none")].is_linear for block in net]
    if settings.peer is None:
        settings = settings._replace(peer=0.03 if _sums(settings) and all(fits) else 0.0)
    if not _has_peer(settings) and not is_same(settings.peer_momentum, Options().peer_momentum):
        raise UsageError("peer_momentum does nothing with peer=0, as here; leave it out, or set peer above 0")
    if _has_peer(settings) and not all(fits):
        at = fits.index(False) + 1
        raise UsageError(f"peer needs plain dense or average-pooled blocks, unlike block {at}; leave peer out")
    return settings


def _has_peer(options: Options) -> bool:
    """False only where the strength is known to be 0."""
    return not (isinstance(options.peer, float | int) and options.peer == 0)


def _sums(options: Options) -> bool:
    return options.goodness == "sum" or (options.goodness is None and options.loss == "logistic")


def _goodness(s: Array, options: Options) -> Array:
    """g_l, or its mean form; its negative for low positives."""
    squares = flat(s) ** 2
    g = squares.sum(1) if _sums(options) else squares.mean(1)
    return g if options.positives == "high" else -g


def _labelled(x: Array, label: Array, options: Options) -> Array:
    """``x`` with label values (B, C), made as strong as asked, in place of its first C values or after its last one."""
    label = _labels.scaled(x, label, options.label_strength, 0.1)
    if options.label == "append":
        return jnp.concatenate([flat(x), label], axis=1)
    return _labels.overlaid(x, label, 'use label="append"')


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage; layers, biases and head have optimizers of their own, and biases do not decay."""
    prediction, rate, decay = setting.of(Training).values()
    if setting.optimizer.optimizer == "reference":
        if setting.optimizer.layer_rates:
            raise UsageError("the optimizer reference has one rate; leave layer_rates out, or use adamw")
        layers = {name: getattr(setting.optimizer, name) for name in ("learning_rate", "weight_decay")}
        head = {"head_learning_rate": rate, "head_weight_decay": decay}
        tx = windowed(
            reference(setting.steps, setting.epochs, **layers, **head), setting.optimizer.layer_epochs, setting.steps
        )
    else:
        head = setting.transformation(learning_rate=rate, weight_decay=decay, layer_rates=())
        tx = lifted(separate, setting.tx, setting.transformation(weight_decay=0.0), head)
    options: dict[str, Any] = setting.of(Options) | {"prediction": prediction}
    return (Stage(rule(setting.net, tx, num_classes=setting.num_classes, **options)),)


CARD = Card(
    variants={"ff": Variant("FF")},
    options=(Options, Training),
    net="mlp:1000,1000,1000",
    start={"start": "normal"},
    recipe={
        **{"learning_rate": 0.01, "lr_schedule": "half_linear", "optimizer": "reference", "weight_decay": 0.001},
        **{"batch_size": 100, "epochs": 60, "keep": "last", "monitor": "accuracy", "normalise": "none"},
        **{"loss": "logistic", "label_strength": 1.0},
    },
    compared={"optimizer": "adamw", "learning_rate": 1e-3, "head_learning_rate": 0.01}
    | {"negatives": "uniform", "peer": 0.0, "label_strength": None},
    optimizers=("reference",),
    twin={
        **{"learning_rate": 1.2e-3, "lr_schedule": "cosine", "optimizer": "adam", "weight_decay": 0.0},
        **{"epochs": 16, "keep": "best_accuracy", "monitor": "loss"},
    },
    monitor="accuracy",
)
