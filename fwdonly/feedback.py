r"""Feedback alignment and its relatives: backpropagation with other matrices on the error's way back, or with none.

Feedback alignment (FA: Lillicrap et al., Nat. Commun. 2016), direct feedback alignment (DFA: Nokland, NeurIPS 2016,
arXiv 1609.01596), sign symmetry (Liao et al., arXiv 1510.05067; Moskovitz et al., arXiv 1812.06488), weight mirror and
Kolen-Pollack (WM, KP: Akrout et al., arXiv 1904.05391), direct random target projection (DRTP: Frenkel et al., arXiv
1909.01311). All but DRTP have a backward phase; none needs the transposed weights there, sign symmetry their signs.
"""

from functools import partial
from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from . import _mirror, _way_back, base, nets
from .base import Batch, LearningRule, Metrics, Net, Products, Unless, descend, needs, updates
from .card import Card, Setting, Stage, Variant
from .errors import UsageError, check_word

Params = nets.output.Params
UnboundedWarning = _way_back.UnboundedWarning
Mode = Literal["fa", "dfa", "sdfa", "drtp", "usf", "brsf", "frsf", "wm", "kp", "shallow"]
Part = Literal["all", "mirror"]

LABELS = ("FA", "DFA", "sDFA", "DRTP", "uSF", "brSF", "frSF", "WM", "KP", "shallow")
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
    feedback_law: _way_back.Law = "uniform"
    """Bound of the uniform direct B_l of n_l units and C classes: 1/sqrt(n_l) ("uniform", Nokland), sqrt(6/n_l)
    ("kaiming", DRTP's code) or sqrt(6/(n_l + C)) ("xavier", BioTorch). Layered feedback has the law of the weights."""
    error_clip: float | Array | None = None
    """Bound of every element of what is sent to a layer, per sample; None: no bound. BioTorch has 1 for errors of the
    mean over N samples, which is N here."""
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
    NEEDS = (
        needs("feedback_law", mode=DIRECT)
        | needs("decay", mode=("kp",))
        | needs("feedback_scale", "error_clip", mode=Unless("shallow"))
        | needs("mirror_rate", "mirror_noise", "mirror_decay", "mirror_spread", mode=("wm",))
    )


class Training(NamedTuple):
    """What a training has beside the rule's options."""

    readout_bias: bool = True
    """Give the output layer a bias."""
    mirror_epochs: int = 1
    """Epochs of mirroring alone, before training (wm)."""
    NEEDS = needs("mirror_epochs", mode=("wm",))


class State(NamedTuple):
    """``params``, one optimizer state, and ``B``, the feedback, which no optimizer touches.

    B holds, for "fa", "wm", "kp" and "frsf", arrays shaped like ``params``; for "usf" one number per array of
    ``params``; for "brsf" and "shallow" nothing; for "dfa", "sdfa" and "drtp" one array (classes,
    *features of h_l) per hidden layer.
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

    Layered feedback has the law of the forward weights, direct feedback that of ``feedback_law``, both times
    ``feedback_scale``. Nokland starts DFA with tanh from zero weights: ``kernel_init=nets.zeros``.

    Warns:
        UnboundedWarning: "sdfa" or "drtp" with an activation that has no bounds, such as ReLU.

    Raises:
        UsageError: fewer than two classes, no hidden layer, or inputs or options that do not fit.
    """
    settings = _checked(options, net)
    if settings.mode in UNSHRINKING:
        _way_back.warn_of_growth(net, settings.mode)
    params = nets.output.draw(key, x, net, num_classes, readout_init, readout_bias)
    own_key = jax.random.fold_in(key, 1)
    if settings.mode in DIRECT:
        h = jax.eval_shape(partial(_way_back.forward, net=net), params, x)[2]
        keys = jax.random.split(own_key, len(h))
        B: Any = tuple(
            _way_back.direct(k, num_classes, h_l, settings.feedback_law) for k, h_l in zip(keys, h, strict=True)
        )
    elif settings.mode in ("brsf", "shallow"):
        B = ()
    elif settings.mode == "usf":
        B = jax.tree.map(jnp.std, params)
    else:
        B = nets.output.draw(own_key, x, net, num_classes, readout_init, readout_bias)
    return State(
        params, base.begin(tx, _trained(params, settings)), jax.tree.map(lambda b: settings.feedback_scale * b, B)
    )


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
        DRTP    t B_l                                     shallow hidden layers keep their start values

    Layered feedback has the forward weights' shapes; DFA, sDFA and DRTP have B_l (C, n_l). A convolution sends back
    through the transposed convolution with its B_l; DFA, sDFA and DRTP go straight to the map before pooling.

    With ``error_clip`` every element of what is sent is bounded, before the slope.

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
        Pseudo-gradients shaped like ``params`` ("shallow": None for every block), to be subtracted, and the metric
        ``loss`` in nats, before any update.

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
        * Start values of B: see `init`; sources differ, and ``feedback_law`` has the three laws of direct B. Layered B
          has the law of W, as in Akrout's code and BioTorch; ``feedback_scale`` reaches the others of that family.
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
    doubt, count = base.check_labels(batch, params.W.shape[1]), len(batch.y)
    tapes = _way_back.forward(params, batch.x, net)
    below, (s, t, e) = tapes[0], _output(params, tapes, batch, settings)
    metrics = {"loss": _loss(s, t, batch.y, settings) + doubt}
    output = (below[-1].reshape(count, -1).T @ e, None if params.b is None else e.sum(0))
    if settings.mode == "shallow":
        total = Params((None,) * len(net), *output)
        return jax.tree.map(lambda g: (g / count).astype(params.W.dtype), total), metrics
    B = _matrices(params, B, key, batch.x, net, readout_init, settings)
    layers = zip(net, params.blocks, below, _deltas(B, e, t, tapes, net, settings), strict=False)
    total = Params(tuple(nets.weight_gradient(*layer) for layer in layers), *output)
    return base.as_params(jax.tree.map(lambda g: g / count, total), params), metrics


def _output(params: Params, tapes: _way_back.Tapes, batch: Batch, options: Options) -> tuple[Array, Array, Array]:
    """s, t and e = y - t."""
    s, t = nets.output.read(params, tapes[0][-1]), jax.nn.one_hot(batch.y, params.W.shape[1], dtype=batch.x.dtype)
    return s, t, _answer(s, options) - t


def _answer(s: Array, options: Options) -> Array:
    return jax.nn.softmax(s) if options.output == "softmax" else jax.nn.sigmoid(s)


def _deltas(B: Any, e: Array, t: Array, tapes: _way_back.Tapes, net: Net, options: Options) -> list[Array]:
    """delta_l of every hidden layer; ``B`` holds what stands in the place of the weights on the way back."""

    def seen(sent: Array) -> Array:
        return sent if options.error_clip is None else jnp.clip(sent, -options.error_clip, options.error_clip)

    if options.mode not in DIRECT:
        return _way_back.layered(net, B, e, tapes, seen)
    signal = {"dfa": e, "sdfa": jnp.sign(e), "drtp": t}[options.mode]
    layers = zip(net, B, tapes[1], strict=True)
    return [_way_back.times_slope(block, seen(jnp.tensordot(signal, B_l, 1)), a_l) for block, B_l, a_l in layers]


@base.stepping(State)
def errors(
    state: State,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    readout_init: nets.Initializer = nets.he_uniform,
    **options: Any,
) -> base.Errors:
    """What reaches every hidden layer, and what backpropagation would send, for the angles of `fwdonly.alignment`.

    Layered modes have B_{l+1} beside W_{l+1}. Direct ones have B_l beside the product W_L^T ... W_{l+1}^T, which is
    backpropagation's way where all units are on; through maximum pooling there is no such product, and its transpose
    is taken at equal activities. delta_l of both are at the same parameters, with the same output error.

    Args as for `grads`; ``state`` is from `init` or `update`, ``key`` that of `update`.

    Returns:
        A tuple per field. ``errors`` and ``exact``: delta_l (N, *features of a_l) of the L - 1 hidden layers, not
        divided by N. ``feedback`` and ``weights``: of layered modes trees shaped like W_2..W_L with their biases, of
        direct ones arrays (C, *features of a_l).

    Raises:
        UsageError: as of `grads`, and mode "shallow", which sends no error.
    """
    settings = _checked(options, net)
    if settings.mode == "shallow":
        raise UsageError('mode="shallow" sends no error to hidden layers; choose another mode for these angles')
    base.check_labels(batch, state.params.W.shape[1])
    params, tapes = state.params, _way_back.forward(state.params, batch.x, net)
    _, t, e = _output(params, tapes, batch, settings)
    B = _matrices(params, state.B, key, batch.x, net, readout_init, settings)
    exact = _deltas(params, e, t, tapes, net, Options(output=settings.output))
    if settings.mode in DIRECT:
        feedback, weights = B, _way_back.products(net, params, tapes[0])
    else:
        feedback, weights = ((*tree.blocks[1:], tree.W) for tree in (B, params))
    return base.Errors(feedback, weights, tuple(_deltas(B, e, t, tapes, net, settings)), tuple(exact))


def _trained(params: Params, options: Options) -> Params:
    """What the optimizer sees."""
    return params if options.mode != "shallow" else params._replace(blocks=())


def _matrices(
    params: Params, B: Any, key: Array, x: Array, net: Net, readout_init: nets.Initializer, options: Options
) -> Any:
    """What a mode has in the place of the weights on the way back, shaped like ``params`` where it is layered."""
    if options.mode in ("fa", "wm", "kp", *DIRECT):
        return B
    if options.mode == "brsf":
        B = nets.output.draw(jax.random.fold_in(key, 1), x, net, params.W.shape[1], readout_init, params.b is not None)
        B = jax.tree.map(lambda m: options.feedback_scale * m, B)
    return jax.tree.map(lambda size, W: jnp.abs(size) * jnp.sign(W), B, params)


def _loss(s: Array, t: Array, y: Array, options: Options) -> Array:
    if options.output == "softmax":
        return base.cross_entropy(s, y)
    return optax.sigmoid_binary_cross_entropy(s, t).sum(1).mean()


@base.stepping(State)
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
    noise: dict[str, Any] = {"net": net, "shape": batch.x.shape[1:], **options}
    if part == "mirror":
        return state._replace(B=mirrored(state, key, len(batch.y), **noise)), metrics
    if settings.mode == "kp":

        def shrunk(w: Array) -> Array:
            return (1 - settings.decay) * w if w.ndim > 1 else w  # the theory is about weights; biases send nothing

        u, opt_state = updates(tx, gradients, state.opt_state, state.params, metrics["loss"])
        params, B = (cast(Any, optax.apply_updates(jax.tree.map(shrunk, tree), u)) for tree in (state.params, state.B))
        return State(params, opt_state, B), metrics
    old, gradients = (_trained(tree, settings) for tree in (state.params, gradients))
    params, opt_state = descend(tx, gradients, state.opt_state, old, metrics["loss"])
    state = State(params._replace(blocks=params.blocks or state.params.blocks), opt_state, state.B)
    if settings.mode == "wm":
        state = state._replace(B=mirrored(state, key, len(batch.y), **noise))
    return state, metrics


def mirrored(
    state: State, key: Array, count: int, *, net: Net, shape: tuple[int, ...] | None = None, **options: Any
) -> Params:
    """The weight mirror: every layer is shown ``count`` samples of noise xi by itself, and B_l learns what it does.

    ``B_l <- B_l + rate * (xi^T layer_l(xi) - decay * count * A^2 / 12 * B_l)``, xi uniform in [-A/2, A/2] of shape
    (count, n_{l-1}); held constant: W_l. A convolution's products run over its windows, before pooling, and count times
    positions stands for count. The output layer answers with its softmax or sigmoid. With ``mirror_spread`` B_l is then
    scaled so that it sends errors uniform in [0, 1) with that standard deviation over its units.

    `fwdonly._mirror` says how fast B_l turns, where it ends and when it swings ever wider.

    ``shape`` is that of a sample of the network's inputs, for networks that begin with a convolution.

    Raises:
        UsageError: r, the share of B_l that a step takes, is 2 or more (seen where the numbers are not traced).

    Deviations:
        * The public code mirrors through sigmoid layers, takes the sum over the batch and has no decay. After mirroring
          it means to give B_l the spread 0.5; the line rebinds a local name and changes nothing.
        * The public code has no convolutions. BioTorch's correlate maps over the batch's channels alone and stretch the
          outcome to the kernel's size; here a kernel's step is that of a dense layer on its windows.
    """
    settings = _checked({"mode": "wm"} | options, net)
    noise = _mirror.Noise(*(getattr(settings, f"mirror_{name}") for name in _mirror.Noise._fields))

    def output(xi: Array) -> Array:
        return _answer(nets.output.read(state.params, xi), settings)

    return _mirror.mirrored(state.params, state.B, key, (count, shape), net, output, noise)


@base.predicting
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
    settings = _checked(options, net)
    _check_part(part, settings)
    start = {"num_classes": num_classes, "readout_init": readout_init, "readout_bias": readout_bias}
    return LearningRule(
        init=partial(init, net=net, tx=tx, **start, **options),
        update=partial(update, net=net, tx=tx, part=part, readout_init=readout_init, **options),
        predict=partial(predict, net=net),
        activations=partial(nets.output.outputs, net=net),
        grads=base.at_state(grads, "B", net=net, readout_init=readout_init, **options),
        errors=None if settings.mode == "shallow" else partial(errors, net=net, readout_init=readout_init, **options),
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
    """As backpropagation's, or C n_l in the place of a layer's product on the way back (dfa, sdfa, drtp), or none.

    "wm" shows every layer a batch of noise besides: F_l forward and F_l for B_l, and F_l more with ``mirror_spread``.
    ``part="mirror"`` has these and the forward pass, for the loss.
    """
    direct, mirrors = mode in DIRECT, (2 if mirror_spread is None else 3) if mode == "wm" else 0
    learns, layered = part == "all" and mode != "shallow", mode not in (*DIRECT, "shallow")
    products: Products = []
    for i, size in enumerate(layers, start=1):
        products += [(i, "forward", batch * size.macs)]
        products += [(i, "weight gradient", batch * size.macs)] if learns else []
        products += [(i, "direct feedback", batch * num_classes * size.h)] if direct else []
        products += [(i, "input gradient", batch * size.macs)] if i > 1 and learns and layered else []
        products += [(i, "mirror", mirrors * batch * size.macs)] if mirrors else []
    out, last = batch * num_classes * layers[-1].n, len(layers)
    products += [(last, "output layer", (1 if part == "mirror" else 3 if layered else 2) * out)]
    return products + ([(last, "mirror", mirrors * out)] if mirrors else [])


def _check_part(part: Part, options: Options) -> None:
    check_word("part", part, get_args(Part))
    if part == "mirror" and options.mode != "wm":
        raise UsageError('part="mirror" learns the feedback of mode="wm" alone')


def _checked(options: dict[str, Any], net: Net) -> Options:
    settings = base.chosen(Options, options, "feedback alignment")
    nets.check_parts(net)
    if isinstance(settings.decay, float | int) and not 0 <= settings.decay < 1:
        raise UsageError(f"decay is 1 - lambda, at least 0 and below 1; got {settings.decay}")
    if isinstance(settings.mirror_decay, float | int) and not settings.mirror_decay >= 0:
        raise UsageError(f"mirror_decay must be 0 or more, or B grows by itself; got {settings.mirror_decay}")
    if isinstance(settings.mirror_spread, float | int) and not settings.mirror_spread > 0:
        raise UsageError(f"mirror_spread is a standard deviation, above 0; got {settings.mirror_spread}")
    if settings.mode == "wm" and not all(isinstance(block, nets.Dense | nets.Conv) for block in net):
        raise UsageError('mode="wm" mirrors dense layers and convolutions; choose another mode for other blocks')
    if isinstance(settings.error_clip, float | int) and not settings.error_clip > 0:
        raise UsageError(f"error_clip is a bound, above 0; got {settings.error_clip}")
    return settings


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage; before it one that learns the feedback alone, for "wm".

    Raises:
        UsageError: start weights of zero, whose law layered feedback has, too.
    """
    choices, options = setting.of(Training), setting.of(Options)
    if setting.start is nets.zeros and options["mode"] not in (*DIRECT, "shallow"):
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
