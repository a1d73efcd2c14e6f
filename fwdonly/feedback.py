r"""Feedback alignment and its relatives: backpropagation with other matrices on the error's way back, or with none.

Feedback alignment (FA: Lillicrap et al., Nat. Commun. 2016), direct feedback alignment (DFA: Nokland, NeurIPS 2016,
arXiv 1609.01596), sign symmetry (Liao et al., arXiv 1510.05067; Moskovitz et al., arXiv 1812.06488), weight mirror and
Kolen-Pollack (WM, KP: Akrout et al., arXiv 1904.05391), direct random target projection (DRTP: Frenkel et al., arXiv
1909.01311). All but DRTP have a backward phase; none needs the transposed weights there, sign symmetry their signs.
"""

import math
import warnings
from functools import partial
from typing import Any, Literal, NamedTuple, cast, get_args

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
    as_params,
    at_state,
    begin,
    check_labels,
    chosen,
    cross_entropy,
    descend,
    predicting,
    updates,
)
from .card import Card, Setting, Stage, Variant
from .errors import UsageError, check_word

Params = nets.output.Params
Mode = Literal["fa", "dfa", "sdfa", "drtp", "usf", "brsf", "frsf", "wm", "kp"]
Part = Literal["all", "mirror"]

LABELS = ("FA", "DFA", "sDFA", "DRTP", "uSF", "brSF", "frSF", "WM", "KP")
DIRECT = ("dfa", "sdfa", "drtp")
"""Modes that send one signal to every layer; the others go from layer to layer."""

UNSHRINKING = ("sdfa", "drtp")
"""Modes whose signal stays as large however small the error is."""


class Options(NamedTuple):
    """How errors travel; keywords of `init`, `grads`, `update` and `rule`."""

    mode: Mode = "fa"
    """See `grads`."""
    output: Literal["softmax", "sigmoid"] = "softmax"
    """Output of the last layer, with its cross-entropy; "sigmoid": one binary cross-entropy per class, summed."""
    feedback_scale: float | Array = 1.0
    """Factor on the feedback's start values."""
    decay: float | Array = 1e-4
    """1 - lambda of Kolen-Pollack, of W and B alike; per step, whatever the learning rate. Biases do not decay."""
    mirror_rate: float | Array = 0.01
    """Learning rate of the weight mirror; its products are summed over the batch."""
    mirror_noise: float | Array = 0.1
    """A: the mirror's noise is uniform in [-A/2, A/2]."""
    mirror_decay: float | Array = 0.5
    """Decay of the mirrored B, in units of what a linear layer's mirror adds: B tends to W times the activation's mean
    slope over this. 0, as the public code has it: B grows without bound. It is refused where a step takes twice of B
    or more, mirror_rate * batch * mirror_noise^2 / 12 * mirror_decay >= 2: B would swing ever wider."""
    mirror_spread: float | None = None
    """Scale each mirrored B so that it sends errors in U[0, 1) with this SD. None, as the public code: do not."""


class Training(NamedTuple):
    """What a training has beside the rule's options."""

    readout_bias: bool = True
    """Give the output layer a bias."""
    mirror_epochs: int = 1
    """Epochs of mirroring alone, before training (wm)."""


class UnboundedWarning(UserWarning):
    """A signal that never becomes 0 meets an activation without bounds: weights and activities grow with every step."""


class State(NamedTuple):
    """``params``, one optimizer state, and ``B``, the feedback, which no optimizer touches.

    B holds, for "fa", "wm", "kp" and "frsf", arrays shaped like ``params``; for "usf" one number per array of
    ``params``; for "brsf" nothing; for "dfa", "sdfa" and "drtp" one array (classes, *features of h_l) per hidden layer.
    """

    params: Params
    opt_state: Any
    B: Any


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    readout_init: nets.Initializer = nets.he_uniform,
    readout_bias: bool = True,
    **options: Any,
) -> State:
    """Start values: weights as the network and ``readout_init`` draw them, feedback from a random stream of its own.

    Layered feedback has the law of the forward weights, direct feedback is uniform on +-1/sqrt(n_l), both times
    ``feedback_scale``. Nokland starts DFA with tanh from zero weights: ``kernel_init=nets.zeros``.

    Warns:
        UnboundedWarning: "sdfa" or "drtp" with an activation that has no bounds, such as ReLU.

    Raises:
        UsageError: fewer than two classes, no hidden layer, or inputs or options that do not fit.
    """
    settings = _checked(options, net)
    _warn(net, settings)
    params = nets.output.draw(key, x, net, num_classes, readout_init, readout_bias)
    own_key = jax.random.fold_in(key, 1)
    if settings.mode in DIRECT:
        h = jax.eval_shape(partial(_forward, net=net), params, x)[2]
        keys = jax.random.split(own_key, len(h))
        B: Any = tuple(_uniform(k, (num_classes, *h_l.shape[1:]), h_l) for k, h_l in zip(keys, h, strict=True))
    elif settings.mode == "brsf":
        B = ()
    elif settings.mode == "usf":
        B = jax.tree.map(jnp.std, params)
    else:
        B = nets.output.draw(own_key, x, net, num_classes, readout_init, readout_bias)
    return State(params, begin(tx, params), jax.tree.map(lambda b: settings.feedback_scale * b, B))


def grads(
    params: Params,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    B: Any,
    readout_init: nets.Initializer = nets.he_uniform,
    **options: Any,
) -> tuple[Params, Metrics]:
    r"""The pseudo-gradient of every layer: error times slope times input, the error sent as the mode says.

    Row vectors, N samples, one-hot targets t, L weight matrices W_l (n_{l-1}, n_l)::

        h_0 = x     a_l = h_{l-1} W_l + b_l     h_l = phi(a_l)     s = a_L     e = softmax(s) - t
        delta_L = e     delta_l = send_l * phi'(a_l)          dW_l = h_{l-1}^T delta_l / N     db_l = mean of delta_l

        BP      delta_{l+1} W_{l+1}^T                     WM, KP  delta_{l+1} B_{l+1}^T, with B_l that learn
        FA      delta_{l+1} B_{l+1}^T                     uSF     delta_{l+1} [ std_{l+1} sign(W_{l+1})^T ]
        DFA     e B_l                                     frSF    delta_{l+1} [ abs(M_{l+1}) sign(W_{l+1})^T ]
        sDFA    sign(e) B_l                               brSF    the same, M drawn anew in every step
        DRTP    t B_l

    Layered feedback has the forward weights' shapes; DFA, sDFA and DRTP have B_l (C, n_l). A convolution sends back
    through the transposed convolution with its B_l; DFA, sDFA and DRTP go straight to the map before pooling.

    Held constant: the feedback (fixed in FA, DFA, sDFA, DRTP; std and M from the start in uSF and frSF).

    Args:
        params: from `init`.
        batch: inputs (N, *features) and labels (N,).
        key: draws M of "brsf".
        net: the hidden layers, of `fwdonly.nets.Dense` or `Conv`.
        B: the feedback, ``state.B``; for "fa", ``B=params`` is backpropagation.
        readout_init: the law of M of the output layer, for "brsf".
        **options: see `Options`.

    Returns:
        Pseudo-gradients shaped like ``params``, to be subtracted, and the metric ``loss`` in nats, before any update.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only), or
            an option that does not exist or does not fit.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.feedback.init(jax.random.key(0), batch.x, net=net, tx=optax.sgd(0.1), num_classes=3)
        >>> grads, metrics = fwdonly.feedback.grads(state.params, batch, jax.random.key(1), net=net, B=state.B)
        >>> grads.W.shape
        (8, 3)

    Deviations:
        * All products are means over the batch. DRTP's code sums hidden products and averages the output's over batch
          and classes, so that its hidden layers learn N C times faster.
        * Start values of B: see `init`; sources differ (uniform +-1/sqrt(n_l), Kaiming, Xavier). Layered B has the law
          of W, as in Akrout's code and BioTorch; ``feedback_scale`` reaches the others of that family.
        * DFA in convolutions follows the code of DRTP; BioTorch broadcasts e over positions, which is another rule.
        * "Sign symmetry" names three rules: uSF, brSF, frSF.
        * uSF sends exactly 0 to a unit of the last hidden layer whose outgoing weights share one sign, for a softmax's
          errors add up to 0: to 2^(1-C) of the units, which is half of them with two classes.
        * The signals of sDFA and DRTP do not shrink with the error, and with ReLU activities grow with every step
          (`UnboundedWarning`). DRTP's code has tanh, which commands take by default for both.
        * KP's code has lambda = 1, with which W - B never shrinks; here 1 - lambda is 1e-4.
        * Akrout's code divides the bias' gradient by the batch size twice; here once.
    """
    settings = _checked(options, net)
    doubt = check_labels(batch, params.W.shape[1])
    count, t = len(batch.y), jax.nn.one_hot(batch.y, params.W.shape[1], dtype=batch.x.dtype)
    below, a, h = _forward(params, batch.x, net)
    s = nets.output.read(params, below[-1])
    e = (jax.nn.softmax(s) if settings.output == "softmax" else jax.nn.sigmoid(s)) - t
    gradients = []
    if settings.mode in DIRECT:
        signal = {"dfa": e, "sdfa": jnp.sign(e), "drtp": t}[settings.mode]
        sent = [jnp.tensordot(signal, B_l, 1) for B_l in B]
        deltas = [_times_slope(block, *pair) for block, *pair in zip(net, sent, a, strict=True)]
    else:
        B = _matrices(params, B, key, batch.x, net, readout_init, settings)
        deltas, sent = [], (e @ B.W.T).reshape(below[-1].shape)
        for block, B_l, below_l, a_l, h_l in list(zip(net, B.blocks, below, a, h, strict=False))[::-1]:
            delta = _times_slope(block, _through_pooling(block, h_l, sent), a_l)
            deltas.insert(0, delta)
            sent = nets.send_back(block, B_l, delta, below_l.shape[1:])  # the lowest one is not used
    for block, weights, below_l, delta in zip(net, params.blocks, below, deltas, strict=False):
        gradients.append(nets.weight_gradient(block, weights, below_l, delta))
    top = below[-1].reshape(count, -1)
    total = Params(tuple(gradients), top.T @ e, None if params.b is None else e.sum(0))
    return as_params(jax.tree.map(lambda g: g / count, total), params), {"loss": _loss(s, t, batch.y, settings) + doubt}


def _forward(params: Params, x: Array, net: Net) -> tuple[list[Array], list[Array], list[Array]]:
    """What every layer and the readout are given (h_0, h_1 pooled, ...), every a_l, and every h_l before pooling."""
    below, a, h = [x], [], []
    for block, weights in zip(net, params.blocks, strict=True):
        a.append(nets.linear(block).apply(weights, below[-1]))
        h.append(block.activation(a[-1]))
        below.append(nets.pooled(block, h[-1]))
    return below, a, h


def _times_slope(block: Any, sent: Array, a: Array) -> Array:
    """send_l * phi'(a_l)."""
    return jax.vjp(block.activation, a)[1](sent)[0]


def _through_pooling(block: Any, h: Array, sent: Array) -> Array:
    """An error of the pooled map, at the map."""
    return jax.vjp(partial(nets.pooled, block), h)[1](sent)[0]


def _matrices(
    params: Params, B: Any, key: Array, x: Array, net: Net, readout_init: nets.Initializer, options: Options
) -> Params:
    """What a layered mode has in the place of the weights on the way back, shaped like ``params``."""
    if options.mode in ("fa", "wm", "kp"):
        return B
    if options.mode == "brsf":
        B = nets.output.draw(jax.random.fold_in(key, 1), x, net, params.W.shape[1], readout_init, params.b is not None)
        B = jax.tree.map(lambda m: options.feedback_scale * m, B)
    return jax.tree.map(lambda size, W: jnp.abs(size) * jnp.sign(W), B, params)


def _loss(s: Array, t: Array, y: Array, options: Options) -> Array:
    if options.output == "softmax":
        return cross_entropy(s, y)
    return optax.sigmoid_binary_cross_entropy(s, t).sum(1).mean()


def update(
    state: State,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    tx: optax.GradientTransformation,
    part: Part = "all",
    readout_init: nets.Initializer = nets.he_uniform,
    **options: Any,
) -> tuple[State, Metrics]:
    """One step: `grads`, one optax step, and for "wm" and "kp" the feedback's own.

    KP: W <- lambda W + u and B <- lambda B + u, with the optimizer's update u for both, so that W - B after k steps is
    lambda^k times what it was, whatever the learning rate; biases take u alone. WM: one batch of noise per layer, with
    the new weights (`mirrored`); ``part="mirror"`` does only this, as the stage before training.
    """
    settings = _checked(options, net)
    _check_part(part, settings)
    gradients, metrics = grads(state.params, batch, key, net=net, B=state.B, readout_init=readout_init, **options)
    if part == "mirror":
        return state._replace(B=mirrored(state, key, len(batch.y), net=net, **options)), metrics
    if settings.mode == "kp":

        def shrunk(w: Array) -> Array:
            return (1 - settings.decay) * w if w.ndim > 1 else w  # the theory is about weights; biases send nothing

        u, opt_state = updates(tx, gradients, state.opt_state, state.params, metrics["loss"])
        params, B = (cast(Any, optax.apply_updates(jax.tree.map(shrunk, tree), u)) for tree in (state.params, state.B))
        return State(params, opt_state, B), metrics
    state = State(*descend(tx, gradients, state.opt_state, state.params, metrics["loss"]), state.B)
    if settings.mode == "wm":
        state = state._replace(B=mirrored(state, key, len(batch.y), net=net, **options))
    return state, metrics


def mirrored(state: State, key: Array, count: int, *, net: Net, **options: Any) -> Params:
    """The weight mirror: every layer is shown ``count`` samples of noise xi by itself, and B_l learns what it does.

    ``B_l <- B_l + rate * (xi^T layer_l(xi) - decay * count * A^2 / 12 * B_l)``, xi uniform in [-A/2, A/2] of shape
    (count, n_{l-1}); held constant: W_l. The output layer answers with its softmax or sigmoid. With ``mirror_spread``
    B_l is then scaled so that it sends errors uniform in [0, 1) with that standard deviation over its units.

    The expected step without decay is ``g W_l``, g = rate count A^2 / 12 times the mean slope (1/2 for ReLU): 5.3e-4 at
    the defaults and 128 samples. After 1 / g = 1,900 steps B_l has as much of W_l as of its start, and without decay it
    never stops growing; with it, it tends to W_l times slope / decay. A = 1 turns B_l a hundred times faster.

    A step leaves 1 - r of B_l, r = rate count A^2 / 12 times decay: from r = 2 on B_l swings ever wider. Noise of
    sampling leaves ReLU after k steps a cosine of 1 / sqrt(1 + 2 n_{l-1} / (count K)), where K = k without decay and
    K = (2 - r) / r * (1 - (1 - r)^k) / (1 + (1 - r)^k) with it. So at A = 1, 128 samples and 784 inputs it stays below
    .865, for K below 37; a smaller rate has a higher bound, later.

    Raises:
        UsageError: r is 2 or more (seen where the numbers are not traced).

    Deviations:
        * The public code mirrors through sigmoid layers, takes the sum over the batch and has no decay. After mirroring
          it means to give B_l the spread 0.5; the line rebinds a local name and changes nothing.
    """
    settings = _checked(options, net)
    _check_bounded(settings, count)

    def turned(at: int, W_l: Array, B_l: Array, layer: Any) -> Array:
        noise_key, size = jax.random.fold_in(key, at), settings.mirror_noise
        xi = jax.random.uniform(noise_key, (count, W_l.shape[0]), W_l.dtype, -size / 2, size / 2)
        B_l = B_l + settings.mirror_rate * (xi.T @ layer(xi) - settings.mirror_decay * count * size**2 / 12 * B_l)
        if settings.mirror_spread is None:
            return B_l
        errors = jax.random.uniform(jax.random.fold_in(noise_key, 0), (count, B_l.shape[1]), B_l.dtype)
        return settings.mirror_spread / (errors @ B_l.T).std(1).mean() * B_l

    blocks = []
    for at, (block, weights, B_l) in enumerate(zip(net, state.params.blocks, state.B.blocks, strict=True)):
        W_l, layer = weights["params"]["Dense_0"]["kernel"], B_l["params"]["Dense_0"]
        kernel = turned(at, W_l, layer["kernel"], partial(block.apply, weights))
        blocks.append({"params": {"Dense_0": {**layer, "kernel": kernel}}})

    def output(xi: Array) -> Array:
        s = nets.output.read(state.params, xi)
        return jax.nn.softmax(s) if settings.output == "softmax" else jax.nn.sigmoid(s)

    return state.B._replace(blocks=tuple(blocks), W=turned(len(net), state.params.W, state.B.W, output))


@predicting
def predict(state: State, x: Float[Array, "batch *features"], *, net: Net) -> Float[Array, "batch classes"]:
    """Class scores s of shape (batch, classes)."""
    return nets.output.scores(state.params, x, net)


def rule(
    net: Net,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    part: Part = "all",
    readout_init: nets.Initializer = nets.he_uniform,
    readout_bias: bool = True,
    **options: Any,
) -> LearningRule:
    """One rule of the family with its options bound. ``part="mirror"`` is the weight mirror's stage before training.

    Raises:
        UsageError: an option that does not exist or does not fit.
    """
    _check_part(part, _checked(options, net))
    start = {"num_classes": num_classes, "readout_init": readout_init, "readout_bias": readout_bias}
    return LearningRule(
        init=partial(init, net=net, tx=tx, **start, **options),
        update=partial(update, net=net, tx=tx, part=part, readout_init=readout_init, **options),
        predict=partial(predict, net=net),
        activations=partial(nets.output.outputs, net=net),
        grads=at_state(grads, "B", net=net, readout_init=readout_init, **options),
    )


def work(
    layers: tuple[nets.LayerSize, ...],
    num_classes: int,
    batch: int,
    *,
    mode: str = "fa",
    part: str = "all",
    mirror_spread: float | None = None,
) -> Products:
    """As backpropagation's, or C n_l in the place of a layer's product on the way back (dfa, sdfa, drtp).

    "wm" shows every layer a batch of noise besides: F_l forward and F_l for B_l, and F_l more with ``mirror_spread``.
    ``part="mirror"`` has these and the forward pass, for the loss.
    """
    direct, mirrors = mode in DIRECT, (2 if mirror_spread is None else 3) if mode == "wm" else 0
    products: Products = []
    for i, size in enumerate(layers, start=1):
        products += [(i, "forward", batch * size.macs)]
        products += [(i, "weight gradient", batch * size.macs)] if part == "all" else []
        products += [(i, "direct feedback", batch * num_classes * size.h)] if direct else []
        products += [(i, "input gradient", batch * size.macs)] if i > 1 and part == "all" and not direct else []
        products += [(i, "mirror", mirrors * batch * size.macs)] if mirrors else []
    out, last = batch * num_classes * layers[-1].n, len(layers)
    products += [(last, "output layer", (1 if part == "mirror" else 2 if direct else 3) * out)]
    return products + ([(last, "mirror", mirrors * out)] if mirrors else [])


def _check_part(part: Part, options: Options) -> None:
    check_word("part", part, get_args(Part))
    if part == "mirror" and options.mode != "wm":
        raise UsageError('part="mirror" learns the feedback of mode="wm" alone')


def _checked(options: dict[str, Any], net: Net) -> Options:
    settings = chosen(Options, options, "feedback alignment")
    nets.check_parts(net)
    if isinstance(settings.decay, float | int) and not 0 <= settings.decay < 1:
        raise UsageError(f"decay is 1 - lambda, at least 0 and below 1; got {settings.decay}")
    if isinstance(settings.mirror_decay, float | int) and not settings.mirror_decay >= 0:
        raise UsageError(f"mirror_decay must be 0 or more, or B grows by itself; got {settings.mirror_decay}")
    if isinstance(settings.mirror_spread, float | int) and not settings.mirror_spread > 0:
        raise UsageError(f"mirror_spread is a standard deviation, above 0; got {settings.mirror_spread}")
    if settings.mode == "wm" and not all(isinstance(block, nets.Dense) for block in net):
        raise UsageError('mode="wm" mirrors dense layers; choose another mode for convolutions')
    return settings


def _check_bounded(options: Options, count: int) -> None:
    """Refuse a mirror whose decay takes so much of B in a step that B swings ever wider.

    Raises:
        UsageError: it does.
    """
    rate, noise, decay = options.mirror_rate, options.mirror_noise, options.mirror_decay
    if not all(isinstance(number, float | int) for number in (rate, noise, decay)):
        return
    limit = 24 / (count * noise**2 * decay) if noise and decay else math.inf
    if rate >= limit:
        raise UsageError(
            f"mirror_rate {rate:g} lets the mirrored feedback swing ever wider with batches of {count}, "
            f"mirror_noise {noise:g} and mirror_decay {decay:g}; set mirror_rate below {limit:.3g}, or lower the others"
        )


def _warn(net: Net, options: Options) -> None:
    if options.mode not in UNSHRINKING:
        return
    for number, block in enumerate(net, start=1):
        with jax.ensure_compile_time_eval():
            reach = max(abs(float(block.activation(jnp.float32(a)))) for a in (-1e4, 1e4))
        if reach > 100:
            warnings.warn(
                f"mode={options.mode!r} sends layer {number} a signal that never becomes 0, and the layer's activation "
                "has no bound: activities grow with every step; use activation=tanh",
                UnboundedWarning,
                stacklevel=3,
            )
            return


def _uniform(key: Array, shape: tuple[int, ...], like: Any) -> Array:
    bound = (like.size // like.shape[0]) ** -0.5
    return jax.random.uniform(key, shape, like.dtype, -bound, bound)


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage; before it one that learns the feedback alone, for "wm".

    Raises:
        UsageError: start weights of zero, whose law layered feedback has, too.
    """
    choices, options = setting.of(Training), setting.of(Options)
    if setting.start is nets.zeros and options["mode"] not in DIRECT:
        raise UsageError(
            f"start=zeros leaves no feedback for {options['mode']}, whose law it also is; use another start"
        )
    common: dict[str, Any] = {"net": setting.net, "tx": setting.tx, "num_classes": setting.num_classes}
    common |= {"readout_init": setting.start, "readout_bias": choices["readout_bias"]}
    learn, epochs = Stage(rule(**common, **options)), choices["mirror_epochs"]
    if options["mode"] != "wm" or not epochs:
        return (learn,)
    return (
        Stage(rule(part="mirror", **common, **options), {"epochs": epochs, "patience": None, "keep": "last"}),
        learn,
    )


CARD = Card(
    variants={
        mode: Variant(label, {"mode": mode}, start={"activation": "tanh"} if mode in UNSHRINKING else {})
        for mode, label in zip(get_args(Mode), LABELS, strict=True)
    },
    options=(Options, Training),
    net="mlp:500",
    recipe={"epochs": 30, "learning_rate": 0.05, "optimizer": "momentum"},
    compared={"optimizer": "adamw", "learning_rate": 1e-3},
    twin={"readout_start": "network"},
)
