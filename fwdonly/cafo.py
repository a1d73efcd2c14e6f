r"""Cascaded-Forward (CaFo): one linear predictor per block, fitted to its features by itself; the outputs are summed.

Zhao, Wang, Li, Jin, Lang, Ling, *The Cascaded Forward Algorithm*, arXiv 2303.09728, with the equations of its public
code (blocks random and frozen). Blocks trained by direct feedback alignment (DFA) follow Spyra, arXiv 2509.19063.
"""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from . import nets
from .base import (
    Batch,
    Frozen,
    LearningRule,
    Metrics,
    Net,
    Products,
    Statistics,
    at_state,
    averaged,
    begin,
    begin_layers,
    check_classes,
    check_labels,
    chosen,
    cross_entropy,
    descend,
    every,
    flat,
    for_prediction,
    needs,
    predicting,
    run_block,
    stepping,
)
from .card import Card, Range, Setting, Stage, Variant
from .descent import of_layers
from .errors import UsageError, check_word

ROWS = 500
"""Samples whose features are looked at together; sums over larger batches are streamed."""

Loss = Literal["ce", "sl", "mse"]
Aggregation = Literal["probabilities", "logits"]
Part = int | Literal["heads", "blocks"]


class Options(NamedTuple):
    """How heads learn and predict; keywords of `init`, `grads`, `update`, `predict`, `rule` and `stages`."""

    loss: Loss = "ce"
    """Cross-entropy ("ce") or sparsemax loss ("sl"), both by descent, or squared error ("mse") in closed form."""
    ridge: float | Array = 1e-4
    """Ridge of the closed form, in units of the mean squared length of a feature (mean of the diagonal of F^T F)."""
    aggregation: Aggregation = "probabilities"
    """What the prediction sums over the heads."""
    head_bias: bool = False
    """Heads with a bias b_i."""
    head_start: Literal["ones", "zeros", "uniform"] = "ones"
    """Start of V_i; "uniform" is PyTorch's, on +-1/sqrt(D_i), of b_i too. b_i starts at 0 otherwise."""
    statistics: Literal["examples", "identity"] = "examples"
    """What batch normalisation subtracts and divides by: of the example inputs given to `init`, or 0 and 1. Training
    the blocks moves them from there."""
    eps: float = 1e-4
    """Added to the variance in batch normalisation."""
    NEEDS = needs("ridge", loss=("mse",))


class Training(NamedTuple):
    """What a training with CaFo has beside the rule's options."""

    blocks: Literal["random", "dfa"] = "random"
    """Leave the blocks random, or train them first by direct feedback alignment."""
    block_epochs: int = 5
    """Epochs of the blocks' training (dfa)."""
    block_learning_rate: float = 5e-4
    """Learning rate of the blocks (dfa; Adam)."""
    block_weight_decay: float = 0.0
    """Weight decay of the blocks (dfa)."""
    NEEDS = needs("block_epochs", "block_learning_rate", "block_weight_decay", blocks=("dfa",))


class Head(NamedTuple):
    """A linear map from D features: ``V`` (D, classes) and ``b`` (classes,) or None."""

    V: Float[Array, "features classes"]
    b: Float[Array, " classes"] | None


class Params(NamedTuple):
    """``heads`` (`Head`) and ``blocks`` 1..L, with gamma and beta of batch normalisation (`fwdonly.nets.Normalised`);
    ``A`` (`Head`), the auxiliary head of DFA, or None.

    In gradients, None in the place of all that is not trained.
    """

    heads: tuple[Any, ...]
    blocks: Any
    A: Any


class State(NamedTuple):
    """Parameters, optimizer states (one per head; one of blocks and A), and what no optimizer touches.

    ``statistics`` holds mean and variance per channel of every block (and those of blocks that have some of their own,
    which stay at their start unless blocks are trained), ``R`` the feedback matrices R_i (classes, D_i) of
    the blocks below the last one.
    """

    params: Params
    opt_state: tuple[tuple[Any, ...], Any]
    statistics: Statistics
    R: tuple[Array, ...]

    def averaged(self) -> Params:
        """The parameters that predict (see `fwdonly.base.for_prediction`)."""
        heads, trunk = self.opt_state
        blocks, A = averaged(trunk, (self.params.blocks, self.params.A))
        return Params(tuple(map(averaged, heads, self.params.heads)), blocks, A)


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    block_tx: optax.GradientTransformation | None = None,
    **options: Any,
) -> State:
    """Random blocks, heads as ``head_start`` says, and batch-norm statistics of ``x``, block after block.

    Args:
        key: random key; blocks, heads and feedback have separate streams.
        x: example inputs. **Their features' mean and variance are used for all images from then on**: give some
            hundred of the training set, as `fwdonly.fit` does.
        net: the blocks, before normalisation: ``nets.cnn((32, 128, 512), pool="max", kernel_init=nets.torch_uniform,
            bias="uniform")`` are the paper's.
        tx: optax transformation of the heads; each has a state of its own.
        num_classes: C.
        block_tx: optax transformation of the blocks and A, for DFA; without it there is no A and no feedback.
        **options: see `Options`.

    Raises:
        UsageError: fewer than two classes, inputs the network cannot take, or an option that does not fit.
    """
    settings = _checked(options)
    check_classes(num_classes)
    block_key, head_key = jax.random.split(key)
    feedback_key = jax.random.fold_in(head_key, 0)
    net = _normalised(net, settings.eps)
    blocks, statistics, _ = nets.init(block_key, x, net)
    if settings.statistics == "examples":
        statistics = _observed(blocks, statistics, x, net)
    heads, R, h = [], [], x
    for i, (block, weights, known) in enumerate(zip(net, blocks, statistics, strict=True), start=1):
        h, _ = run_block(block, weights, known, h)
        heads.append(_new_head(jax.random.fold_in(head_key, i), h[0].size, num_classes, settings, x.dtype))
        if block_tx is not None and i < len(net):
            rows = jax.random.normal(jax.random.fold_in(feedback_key, i), (num_classes, h[0].size), x.dtype)
            R.append(rows / (jnp.linalg.norm(rows, axis=1, keepdims=True) + 1e-8))
    A = None
    if block_tx is not None:
        start = settings._replace(head_bias=True, head_start="uniform")
        A = _new_head(feedback_key, h[0].size, num_classes, start, x.dtype)
        A = A._replace(b=jnp.zeros(num_classes, x.dtype))
    params = Params(tuple(heads), blocks, A)
    trained: Any = params.blocks, A
    block_state = None if block_tx is None else begin(block_tx, trained)
    return State(params, (begin_layers(tx, heads), block_state), statistics, tuple(R))


def _normalised(net: Net, eps: float) -> Net:
    """The blocks, each with batch normalisation behind it."""
    return nets.normalised(net, eps=eps)


def _observed(blocks: tuple[Any, ...], statistics: Statistics, x: Array, net: Net) -> Statistics:
    """Statistics of normalised blocks by these inputs, block after block."""
    h, observed = x, []
    for block, weights, known in zip(net, blocks, statistics, strict=True):
        observed.append(block.observed(weights, known, h))
        h, _ = run_block(block, weights, observed[-1], h)
    return tuple(observed)


@predicting
def features(
    state: State, x: Float[Array, "batch *features"], *, net: Net, heads: tuple[int, ...], eps: float = 1e-4
) -> tuple[Float[Array, "batch d"], ...]:
    """F_i = flatten(h_i) of the numbered blocks (from 1), h_i = batchnorm(block_i(h_{i-1})) with fixed statistics."""
    out, h = [], x
    layers = list(zip(_normalised(net, eps), state.params.blocks, state.statistics, strict=True))
    for i, (block, weights, known) in enumerate(layers[: max(heads)], start=1):
        h, _ = run_block(block, weights, known, h)
        if i in heads:
            out.append(flat(h))
    return tuple(out)


def grads(
    params: Params, batch: Batch, key: Array, *, net: Net, statistics: Any = None, part: Part = "heads", **options: Any
) -> tuple[Params, Metrics]:
    r"""The gradient of each head's own loss with respect to that head alone.

    Block i gives features F_i = flatten(h_i), with h_0 = x (rows are samples, B of them; C classes)::

        h_i = batchnorm(maxpool(max(0, conv_i(h_{i-1}))))     Z_i = F_i V_i (+ b_i)     E_i = (link(Z_i) - Y) / B
        dV_i = F_i^T E_i                                      db_i = sum_b E_i

    where the link is softmax for cross-entropy, sparsemax for the sparsemax loss (Martins, Astudillo, arXiv 1602.02068)
    and the identity for half the squared error, whose minimum `closed_form` gives at once.

    Held constant: the blocks and their statistics, and all other heads. No gradient crosses a head, none is taken
    through a block: every head is a convex problem of its own. `dfa` trains blocks.

    Args:
        params: from `init`.
        batch: inputs (B, *features) and labels (B,).
        key: unused, heads are deterministic.
        net: the blocks.
        statistics: of batch normalisation, as in the state; None: of this batch.
        part: "heads" for all of them or the number of one, from 1.
        **options: see `Options`.

    Returns:
        Gradients shaped like ``params`` with None for all that is not trained, and the metrics ``layer_loss`` (trained
        heads,) and its sum ``loss``, before any update.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only).

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.cafo.init(jax.random.key(0), batch.x, net=net, tx=optax.adam(1e-3), num_classes=3)
        >>> grads, metrics = fwdonly.cafo.grads(state.params, batch, jax.random.key(1), net=net)
        >>> metrics["layer_loss"].round(4)
        Array([1.0986, 1.0986], dtype=float32)

    Deviations:
        * The full text of arXiv 2303.09728 was not available; equations and constants are those of its public code.
        * Batch-norm statistics: the public code normalises training images by the statistics of the training set and
          test images by those of the *test set*. Here both take those of the example inputs (of the training set).
        * Squared error: the public code solves F^T F V = F^T Y, or takes a pseudo-inverse where that fails, which
          depends on rounding. Here a ridge decides (`Options.ridge`).
        * The public code's cross-entropy forms an N x D x C array; F^T E is the same number.
        * Predictions sum probabilities as the public code does, for "mse" too, and return the logarithm of their mean.
          Spyra sums the outputs Z_i: ``aggregation="logits"``.
    """
    del key
    settings = _checked(options)
    if statistics is None:
        statistics = _observed(params.blocks, ({},) * len(net), batch.x, _normalised(net, settings.eps))
    state = State(params, ((), None), statistics, ())
    numbers = _numbers(part, net)
    extract = partial(features, state, net=net, heads=numbers, eps=settings.eps)
    return _head_grads(params, batch, numbers, extract, settings)


def _head_grads(
    params: Params, batch: Batch, numbers: tuple[int, ...], extract: Any, options: Options
) -> tuple[Params, Metrics]:
    """As `grads`; ``extract`` makes the features of the numbered heads from a part of ``batch.x``."""
    heads, doubt = [params.heads[i - 1] for i in numbers], check_labels(batch, _classes(params))

    def sums(x: Any, y: Array) -> list[tuple[Array, Array, Array]]:
        out = []
        for F, head in zip(extract(x), heads, strict=True):
            Z = _scores(F, head)
            E = _link(Z, options.loss) - jax.nn.one_hot(y, Z.shape[1], dtype=Z.dtype)
            out.append((E.T @ F, E.sum(0), _losses(Z, y, options.loss).sum()))
        return out

    means = [tuple(a / len(batch.y) for a in of_head) for of_head in _streamed(sums, *batch)]
    gradients = dict(zip(numbers, means, strict=True))
    layer_loss = jnp.stack([loss for _, _, loss in means])
    trained = tuple(
        Head(gradients[i][0].T, None if head.b is None else gradients[i][1]) if i in gradients else None
        for i, head in enumerate(params.heads, start=1)
    )
    return Params(trained, None, None), {"loss": layer_loss.sum() + doubt, "layer_loss": layer_loss}


def closed_form(
    F: Float[Array, "batch d"], y: Int[Array, " batch"], num_classes: int, *, ridge: float | Array = 1e-4
) -> Float[Array, "d classes"]:
    """V at the minimum of ||F V - Y||^2 + r ||V||^2: (F^T F + r I) V = F^T Y, by Cholesky factorisation.

    The sums F^T F and F^T Y run over at most `ROWS` samples at a time. r is ``ridge`` times the mean diagonal element
    of F^T F, so that features scaled by c give V / c. With ``ridge=0`` the features need full rank, or V is not finite.
    """
    return _closed_forms(F, y, num_classes, lambda F: (F,), ridge)[0][0]


def _closed_forms(x: Any, y: Array, num_classes: int, extract: Any, ridge: float | Array) -> list[tuple[Array, Array]]:
    """V and half the mean squared error at V, for every member of the tuple of features that ``extract`` makes of x."""
    exact = partial(jnp.matmul, precision="highest")  # accelerators round the factors of float32 products otherwise

    def sums(x: Any, y: Array) -> list[tuple[Array, Array]]:
        Y = jax.nn.one_hot(y, num_classes)
        return [(exact(F.T, F), exact(F.T, Y.astype(F.dtype))) for F in extract(x)]

    out = []
    for gram, target in _streamed(sums, x, y):
        r = ridge * jnp.trace(gram) / len(gram)
        factor = jax.scipy.linalg.cho_factor(gram + r * jnp.eye(len(gram), dtype=gram.dtype))
        V = jax.scipy.linalg.cho_solve(factor, target)
        squares = len(y) - 2 * jnp.sum(V * target) + jnp.sum(V * exact(gram, V))
        out.append((V, squares / (2 * len(y))))
    return out


def dfa(
    params: Params,
    R: tuple[Array, ...],
    batch: Batch,
    key: Array,
    *,
    net: Net,
    statistics: Statistics = (),
    eps: float = 1e-4,
) -> tuple[tuple[tuple[Any, ...], Head], Metrics, Statistics]:
    r"""The update direction of blocks and auxiliary head A by direct feedback alignment.

    Blocks in training mode (statistics of this batch), e = softmax(h_L A) - Y of shape (B, C)::

        block L and A:   the gradient of the mean cross-entropy of h_L A
        block i < L:     the gradient of sum(u_i * h_i) with u_i = reshape(e R_i)      (e is not divided by B)

    Held constant in block i: h_{i-1} and u_i. Inside a block, through batch normalisation, pooling and ReLU, gradients
    are taken by automatic differentiation. R_i is random and fixed: no weights are transported.

    Returns:
        (gradients of (blocks, A), metrics ``loss``, ``statistics`` after this batch).

    Deviations:
        * As arXiv 2509.19063's public code, read from restatements, but its blocks 1 and 2 run twice per batch in
          training mode, which moves their running statistics twice; here once.
        * Running statistics start from the example inputs of `init`, not from 0 and 1, and average the biased variance.
        * Whether arXiv 2303.09728's own DFA uses this auxiliary head and this error is not known.
    """
    doubt = check_labels(batch, _classes(params))
    h, pulls, moved = batch.x, [], []
    layers = zip(_normalised(net, eps), params.blocks, every(statistics, net), strict=True)
    for i, (block, weights, known) in enumerate(layers, start=1):
        trained = partial(run_block, block, statistics=known, x=h, key=jax.random.fold_in(key, i))
        h, pull, known = jax.vjp(trained, weights, has_aux=True)
        pulls.append((pull, h.shape))
        moved.append(known)
    scores = _scores(flat(h), params.A)
    e = jax.nn.softmax(scores) - jax.nn.one_hot(batch.y, scores.shape[1], dtype=scores.dtype)
    E = e / len(batch.y)
    errors = [*(e @ R_i for R_i in R), E @ params.A.V.T]
    blocks = tuple(pull(u.reshape(shape))[0] for (pull, shape), u in zip(pulls, errors, strict=True))
    A = Head(flat(h).T @ E, E.sum(0))
    return (blocks, A), {"loss": cross_entropy(scores, batch.y) + doubt}, tuple(moved)


@stepping(State)
def update(
    state: State,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    tx: optax.GradientTransformation,
    part: Part = "heads",
    block_tx: optax.GradientTransformation | None = None,
    **options: Any,
) -> tuple[State, Metrics]:
    """One step of all heads, of one, or of the blocks.

    Heads: `grads`, then an optax step each; for "mse" `closed_form` of this batch, which should be the whole training
    set (``Plan(batch_size=None)``), and ``tx`` is not used. "blocks": `dfa`, one step of ``block_tx`` over blocks and
    A, and running statistics moved by a tenth. Args as for `init` and `grads`.
    """
    settings = _checked(options)
    if part == "blocks":
        if block_tx is None or state.params.A is None:
            raise UsageError("training the blocks needs block_tx, their optimizer, here and in init")
        known = {"net": net, "statistics": state.statistics, "eps": settings.eps}
        gradients, metrics, moved = dfa(state.params, state.R, batch, key, **known)
        old = state.params.blocks, state.params.A
        (blocks, A), opt_state = descend(block_tx, gradients, state.opt_state[1], old, metrics["loss"])
        return State(Params(state.params.heads, blocks, A), (state.opt_state[0], opt_state), moved, state.R), metrics
    extract = partial(features, state, net=net, heads=_numbers(part, net), eps=settings.eps)
    return _update_heads(state, batch, key, net=net, tx=tx, part=part, extract=extract, options=settings)


def _update_heads(
    state: State, batch: Batch, key: Array, *, net: Net, tx: Any, part: Part, extract: Any, options: Options
) -> tuple[State, Metrics]:
    """As `update` of heads; ``extract`` makes the features of the trained heads from a part of ``batch.x``."""
    del key
    numbers, num_classes = _numbers(part, net), _classes(state.params)
    heads, opt_states = list(state.params.heads), list(state.opt_state[0])
    optimizers = of_layers(tx, len(heads))
    if options.loss == "mse":
        doubt = check_labels(batch, num_classes)
        solved = _closed_forms(batch.x, batch.y, num_classes, extract, options.ridge)
        layer_loss = jnp.stack([loss for _, loss in solved])
        metrics = {"loss": layer_loss.sum() + doubt, "layer_loss": layer_loss}
        for i, (V, _) in zip(numbers, solved, strict=True):
            heads[i - 1] = Head(V, None)
            opt_states[i - 1] = begin(optimizers[i - 1], heads[i - 1])  # nothing to average with
    else:
        gradients, metrics = _head_grads(state.params, batch, numbers, extract, options)
        for i, loss in zip(numbers, metrics["layer_loss"], strict=True):
            inputs = gradients.heads[i - 1], opt_states[i - 1], heads[i - 1]
            heads[i - 1], opt_states[i - 1] = descend(optimizers[i - 1], *inputs, loss)
    params = state.params._replace(heads=tuple(heads))
    return state._replace(params=params, opt_state=(tuple(opt_states), state.opt_state[1])), metrics


@predicting
def predict(
    state: State, x: Float[Array, "batch *features"], *, net: Net, part: Part = "heads", **options: Any
) -> Float[Array, "batch classes"]:
    """Class scores of all heads together.

    "probabilities": log of the mean over the heads of softmax(Z_i), or of sparsemax(Z_i) for heads of the sparsemax
    loss (the argmax is that of their sum). "logits": the sum of Z_i.

    Args:
        state: from `init` or `update`.
        x: inputs (batch, *features).
        net: the blocks.
        part: "heads" for all of them, the number of one for Z_i of that head, "blocks" for the auxiliary head's scores.
        **options: see `Options`.
    """
    settings = _checked(options)
    if part == "blocks":
        if state.params.A is None:
            raise UsageError("there is no auxiliary head to predict with; give init block_tx, the blocks' optimizer")
        (F,) = features(state, x, net=net, heads=(len(net),), eps=settings.eps)
        return _scores(F, state.params.A)
    numbers = _numbers(part, net)
    return _aggregate(state, features(state, x, net=net, heads=numbers, eps=settings.eps), part, settings)


@predicting
def layer_scores(
    state: State, x: Float[Array, "batch *features"], *, net: Net, **options: Any
) -> Float[Array, "layers batch classes"]:
    """Z_i of every head."""
    Fs = activations(state, x, net=net, **options)
    return jnp.stack([_scores(flat(F), head) for F, head in zip(Fs, state.params.heads, strict=True)])


@predicting
def activations(
    state: State, x: Float[Array, "batch *features"], *, net: Net, **options: Any
) -> tuple[Float[Array, "batch d"], ...]:
    """F_1..F_L."""
    numbers = _numbers("heads", net)
    return features(state, x, net=net, heads=numbers, eps=_checked(options).eps)


def _aggregate(state: State, Fs: tuple[Array, ...], part: Part, options: Options) -> Array:
    """The scores of one head, or of all of them together, given their features."""
    if part != "heads":
        return _scores(Fs[0], state.params.heads[int(part) - 1])
    Z = [_scores(F, head) for F, head in zip(Fs, state.params.heads, strict=True)]
    if options.aggregation == "logits":
        return jnp.stack(Z).sum(0)
    link = _link if options.loss == "sl" else lambda Z, _: jax.nn.softmax(Z)
    return jnp.log(jnp.stack([link(z, options.loss) for z in Z]).mean(0) + 1e-30)


def rule(
    net: Net,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    part: Part = "heads",
    block_tx: optax.GradientTransformation | None = None,
    **options: Any,
) -> LearningRule:
    """CaFo with its options bound: every batch updates all heads, or one ``part``, as one of the `stages`.

    A stage that trains one head is steered by that head's own scores and predicts with all heads.

    Raises:
        UsageError: an option that does not exist or does not fit.
    """
    nets.check_net(net)
    settings = _checked(options)
    if part == "blocks" and block_tx is None:
        raise UsageError("training the blocks needs block_tx, their optimizer")
    common = {"net": net, "part": part} | options
    start = partial(init, net=net, tx=tx, num_classes=num_classes, block_tx=block_tx, **options)
    step = partial(update, tx=tx, block_tx=block_tx, **common)
    outputs = partial(activations, net=net, **options)
    if part == "blocks":

        def block_grads(state: State, batch: Batch, key: Array) -> tuple[Params, Metrics]:
            known = {"net": net, "statistics": state.statistics, "eps": settings.eps}
            (blocks, A), metrics, _ = dfa(state.params, state.R, batch, key, **known)
            return Params((None,) * len(net), blocks, A), metrics

        def block_scores(state: State, x: Array, key: Array) -> Array:
            h = x
            layers = zip(_normalised(net, settings.eps), state.params.blocks, state.statistics, strict=True)
            for i, (block, weights, known) in enumerate(layers, start=1):
                h, _ = run_block(block, weights, known, h, jax.random.fold_in(key, i))
            return _scores(flat(h), state.params.A)

        read = partial(predict, **common)
        return LearningRule(start, step, read, grads=block_grads, training_scores=block_scores, activations=outputs)
    numbers = _numbers(part, net)

    def frozen_update(state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        return _update_heads(state, batch, key, net=net, tx=tx, part=part, extract=lambda Fs: Fs, options=settings)

    def frozen_validate(state: State, Fs: tuple[Array, ...]) -> Array:
        return _aggregate(for_prediction(state), Fs, part, settings)

    return LearningRule(
        init=start,
        update=step,
        predict=partial(predict, net=net, **options),
        validate=partial(predict, **common),
        frozen=Frozen(partial(features, net=net, heads=numbers, eps=settings.eps), frozen_update, frozen_validate),
        grads=at_state(grads, "statistics", **{k: v for k, v in common.items() if k != "statistics"}),  # the state's
        layer_scores=partial(layer_scores, net=net, **options),
        activations=outputs,
    )


def stages(
    net: Net,
    tx: optax.GradientTransformation,
    *,
    block_tx: optax.GradientTransformation | None = None,
    **options: Any,
) -> tuple[LearningRule, ...]:
    """One `LearningRule` per head over one state; before them one for the blocks (DFA), where ``block_tx`` is given."""
    nets.check_net(net)
    parts: list[Part] = list(range(1, len(net) + 1))
    if block_tx is not None:
        parts.insert(0, "blocks")
    return tuple(rule(net, tx, part=part, block_tx=block_tx, **options) for part in parts)


def work(
    layers: tuple[nets.LayerSize, ...],
    num_classes: int,
    batch: int,
    *,
    part: Part = "heads",
    loss: str = "ce",
    kept: bool = False,
) -> Products:
    """The layers forward up to the last head that is trained, and two products with every V_l that is.

    "mse": n_l^2 + C n_l per sample for the normal equations, and per step n_l^3 / 6 to factorise them and 2 C n_l^2 for
    V_l and its loss. "blocks": forward, as much for the weights, C n_l on the way back to the blocks below the last
    one; three products of the auxiliary head. ``kept``: the heads' features were kept by the loop
    (`fwdonly.base.Frozen`), and no block runs.
    """
    check_word("loss", loss, get_args(Loss))
    products: Products = []
    if part == "blocks":
        for i, size in enumerate(layers, start=1):
            products += [(i, "forward", batch * size.macs), (i, "weight gradient", batch * size.macs)]
        products += [
            (i, "direct feedback", batch * num_classes * size.n) for i, size in enumerate(layers[:-1], start=1)
        ]
        return [*products, (len(layers), "output layer", 3 * batch * num_classes * layers[-1].n)]
    trained = _numbers(part, layers)
    products += [
        (i, "forward", batch * size.macs) for i, size in enumerate(layers[: max(trained)], start=1) if not kept
    ]
    for i in trained:
        n = layers[i - 1].n
        if loss == "mse":  # a triangular factor has n^2 / 2 elements, and two of them are solved for V
            products += [(i, "normal equations", batch * (n * n + num_classes * n)), (i, "factorisation", n**3 / 6)]
            products += [(i, "solution", num_classes * n * n), (i, "loss", num_classes * n * n)]
        else:
            products += [(i, "scores", batch * num_classes * n), (i, "head gradient", batch * num_classes * n)]
    return products


def _checked(options: dict[str, Any]) -> Options:
    settings = chosen(Options, options, "Cascaded-Forward")
    if settings.loss == "mse" and settings.head_bias:
        raise UsageError('the closed form of loss="mse" has no bias; leave head_bias out')
    return settings


def _numbers(part: Part, net: Net) -> tuple[int, ...]:
    if part == "heads":
        return tuple(range(1, len(net) + 1))
    if not isinstance(part, int) or not 1 <= part <= len(net):
        raise UsageError(f"part is 'heads' or the number of a head in 1..{len(net)} here; got {part!r}")
    return (part,)


def _classes(params: Params) -> int:
    return next(head.V.shape[1] for head in params.heads if head is not None)


def _new_head(key: Array, size: int, num_classes: int, options: Options, dtype: Any) -> Head:
    bound = size**-0.5 if options.head_start == "uniform" else 0.0
    V_key, b_key = jax.random.split(key)
    V = jax.random.uniform(V_key, (size, num_classes), dtype, -bound, bound)
    b = jax.random.uniform(b_key, (num_classes,), dtype, -bound, bound) if options.head_bias else None
    return Head(jnp.ones_like(V) if options.head_start == "ones" else V, b)


def _scores(F: Array, head: Head) -> Array:
    Z = F @ head.V
    return Z if head.b is None else Z + head.b[None, :]


def _link(Z: Array, loss: str) -> Array:
    """The prediction whose difference from Y is the gradient of the loss with respect to Z."""
    if loss == "sl":  # sparsemax is the projection onto the probability simplex
        return jax.vmap(optax.projections.projection_simplex)(Z)
    return jax.nn.softmax(Z) if loss == "ce" else Z


def _losses(Z: Array, y: Array, loss: str) -> Array:
    """The loss of every sample."""
    if loss == "sl":
        return optax.losses.multiclass_sparsemax_loss(Z, y)
    if loss == "ce":
        return optax.softmax_cross_entropy_with_integer_labels(Z, y)
    return 0.5 * jnp.sum((Z - jax.nn.one_hot(y, Z.shape[1], dtype=Z.dtype)) ** 2, axis=1)


def _streamed(f: Any, x: Any, y: Array) -> Any:
    """``f(x, y)``, a tree of sums over samples, computed over at most `ROWS` samples at a time and added up."""
    whole = len(y) // ROWS * ROWS
    if len(y) <= ROWS:
        return f(x, y)
    parts = jax.tree.map(lambda a: a[:whole].reshape(-1, ROWS, *a.shape[1:]), (x, y))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(f, *jax.tree.map(lambda a: a[0], parts)))
    total, _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, f(*part)), None), zeros, parts)
    if whole < len(y):
        total = jax.tree.map(jnp.add, total, f(*jax.tree.map(lambda a: a[whole:], (x, y))))
    return total


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage per head; with "dfa" a stage for the blocks before them. The closed form takes all images in one step.

    Raises:
        UsageError: the closed form on blocks that are trained.
    """
    choices, options = setting.of(Training), setting.of(Options)
    blocks, heads, block_tx = (), {}, None
    if choices["blocks"] == "dfa":
        block_tx = setting.transformation(
            optimizer="adam",
            lr_schedule="constant",
            learning_rate=choices["block_learning_rate"],
            weight_decay=choices["block_weight_decay"],
            layer_epochs=(),
            layer_rates=(),
            epochs=choices["block_epochs"],
        )
        blocks = ({"epochs": choices["block_epochs"], "patience": None, "keep": "last"},)
    if options["loss"] == "mse":
        if block_tx is not None:
            raise UsageError("loss mse is solved over all images at once, DFA trains in batches; use loss ce")
        heads = {"batch_size": None, "epochs": 1, "validate_every": 1, "patience": None}
    rules = stages(setting.net, setting.tx, num_classes=setting.num_classes, block_tx=block_tx, **options)
    plans = (*blocks, *[heads] * len(setting.net))
    return tuple(Stage(stage_rule, plan) for stage_rule, plan in zip(rules, plans, strict=True))


CARD = Card(
    variants={
        "cafo": Variant("CaFo, random blocks"),
        "cafo-dfa": Variant(
            "CaFo, DFA blocks",
            {"blocks": "dfa"},
            space={"learning_rate": Range(1e-5, 1e-2), "block_learning_rate": Range(1e-5, 1e-2)},
        ),
    },
    options=(Options, Training),
    net="cnn:32,128,512;pool=max",
    start={"start": "torch_uniform", "bias": "uniform"},
    recipe={"epochs": 10, "learning_rate": 1e-3, "lr_schedule": "constant", "keep": "last"},
    twin={
        "learning_rate": 1e-3,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "batch_size": 128,
        "validate_every": 1,
        "keep": "best_accuracy",
        "batch_norm": True,
    },
    batch_norm=True,
    compared={"optimizer": "adamw"},
)
