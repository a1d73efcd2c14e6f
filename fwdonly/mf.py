r"""Mono-Forward (MF): every layer has its own bias-free class readout and learns from that readout's loss alone.

Gong, Li, Abdulla, *Mono-Forward*, arXiv 2501.09238 (per-batch simultaneous schedule); Spyra, arXiv 2509.19063,
equations 2.7-2.11, and arXiv 2511.01061 (greedy layer-by-layer schedule). `rule` is the simultaneous schedule,
`stages` the greedy one. ``gradient="joint"`` is the control MF-Joint, which detaches nothing and is not local;
``losses="last"`` leaves the last layer's loss alone: both make the 2 x 2 of objective and locality. What readouts read,
and whether they learn, are options: fixed ones on pooled squares are the rule of ASGE (arXiv 2509.12394).
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import cycle
from typing import Any, Literal, NamedTuple, cast

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
    kept,
    needs,
    predicting,
    run_block,
    stepping,
)
from .card import Card, Setting, Stage, Variant
from .descent import OTHER_LAYERS
from .errors import UsageError


class Schedule(NamedTuple):
    """When layers learn."""

    schedule: Literal["simultaneous", "greedy"] = "simultaneous"
    """simultaneous: every batch updates all layers. greedy: layers one after another, --epochs for each."""


class Options(NamedTuple):
    """How one step and prediction go: of a training, and keywords of all functions here, as ``form``."""

    input_readout: bool = False
    """Also train M_0, a readout of the raw input."""
    prediction: Literal["last", "sum"] = "last"
    """Predict from the last layer's goodness, or from the sum of all layers'; the other one is reported beside it."""
    sum_includes_input: bool = False
    """Let M_0's scores enter the sum."""
    gradient: Literal["local", "joint"] = "local"
    """local: no gradient crosses a layer. joint: MF-Joint, the control that back-propagates the sum of all losses
    through everything; simultaneous schedule only."""
    auxiliary_weight: float = 1.0
    """With --gradient joint: factor on the losses of all layers but the last one."""
    losses: Literal["every", "last"] = "every"
    """Layers that have a loss. last: layer L alone; with --gradient joint that is BP with MF's readout, else the layers
    below keep their start values."""
    readout: Literal["trained", "fixed"] = "trained"
    """fixed: readouts keep their start values, and blocks alone learn, as in ASGE."""
    readout_input: Literal["activations", "squares"] = "activations"
    """What readouts read: activations, or their squares."""
    readout_pool: int = 0
    """Rows and columns to which a feature map is pooled for its readout, by means, or sums of squares. 0: flattened."""
    NEEDS = needs("auxiliary_weight", gradient=("joint",), losses=("every",))

    def readable(self, i: int, a: Array) -> Float[Array, "batch n"]:
        """What M_i reads of a_i; M_0 reads the input as it is."""
        squares = self.readout_input == "squares"
        return nets.output.readable(a, squares=squares, pool=self.readout_pool) if i > 0 else flat(a)

    def scores(self, i: int, a: Array, weights: "Layer") -> Float[Array, "batch classes"]:
        """G_i."""
        return self.readable(i, a) @ cast(Array, weights.M).T

    def trained(self, weights: "Layer", is_last: bool) -> "Layer":
        """What an optimizer sees of a layer: M_i is None where it is fixed, or read by no loss."""
        unread = self.losses == "last" and self.gradient == "joint" and not is_last
        return weights._replace(M=None) if unread or self.readout == "fixed" else weights


class Layer(NamedTuple):
    """What layer i owns: ``block`` holds W_i and b_i, ``M`` the readout M_i of shape (classes, n_i)."""

    block: Any
    M: Float[Array, "classes n"] | None


Params = tuple[Layer | None, ...]
"""Layers 1..L; with the input readout one more in front, M_0, whose block is empty."""


class State(NamedTuple):
    """``params``, one optimizer state per layer, so that no optimizer can couple layers, and per layer the
    ``statistics`` of its block (`fwdonly.base.Block`).
    """

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
    **form: Any,
) -> State:
    """Start values: blocks as the network draws them (`fwdonly.nets.he_uniform`), every M_i uniform on +-1/sqrt(n_i).

    n_i is the length of what M_i reads. Blocks and readouts have separate streams of ``key``, so M_0 changes no other
    start value. Each layer gets a state of ``tx`` of its own. ``form``: see `Options`.

    Raises:
        UsageError: fewer than two classes, inputs the network cannot take, or a form that does not fit.
    """
    how, _ = _formed(form, net)
    check_classes(num_classes)
    block_key, readout_key = jax.random.split(key)
    blocks, statistics, activations = nets.init(block_key, x, net)
    read = tuple(how.readable(1, a) for a in activations)
    if how.input_readout:
        blocks, read = (nets.Identity().init(block_key, x), *blocks), (x, *read)
        statistics = ({}, *statistics) if statistics else ()
    readouts = nets.output.class_readouts(readout_key, read, num_classes, first=1 - how.input_readout)
    params = tuple(Layer(*pair) for pair in zip(blocks, readouts, strict=True))
    learning = tuple(how.trained(layer, layer is params[-1]) for layer in params)
    return State(params, begin_layers(tx, learning), statistics)


def grads(
    params: Params, batch: Batch, key: Array, *, net: Net, statistics: Statistics = (), layer: Any = None, **form: Any
) -> tuple[Params, Metrics]:
    r"""The gradient of each layer's own loss with respect to that layer's own parameters.

    For i = 1..L, with a_0 = x (arXiv 2509.19063, eqs 2.7-2.11; row vectors, B samples, C classes)::

        z_i = a_{i-1} W_i + b_i     a_i = max(0, z_i)     G_i = a_i M_i^T                  (goodness, (B, C))
        loss_i = -(1/B) sum_b log softmax(G_i)[b, y_b]                                     (nats)

    which differentiates to, with E = (softmax(G_i) - onehot(y)) / B::

        dM_i = E^T a_i     dZ = (E M_i) * [z_i > 0]     dW_i = a_{i-1}^T dZ     db_i = sum_b dZ

    Held constant while loss_i is differentiated: a_{i-1} and all parameters of all other layers. No gradient crosses
    a layer; within one, the two products above are taken by automatic differentiation, so that a block may be any
    differentiable map (a convolution's readout M_i reads the flattened pooled map).

    MF-Joint (``gradient="joint"``), the control with MF's losses and prediction that back-propagates, is the gradient
    of ``loss_L + auxiliary_weight * (loss_1 + ... + loss_{L-1})`` with respect to all parameters at once, nothing held
    constant but the data. With lambda for the weight, c_L = 1, c_i = lambda below, and E_i as E above::

        dM_i = c_i E_i^T a_i     dZ_L = (E_L M_L) * [z_L > 0]
                                 dZ_i = (c_i E_i M_i + dZ_{i+1} W_{i+1}^T) * [z_i > 0]     dW_i, db_i from dZ_i as above

    M_0, where it is trained, enters with lambda; no layer lies below it. With lambda = 1 the sum is MF's, and the
    gradients differ by the detached hand-overs alone: those of layer L and of every M_i are MF's own.

    ``losses="last"`` keeps loss_L alone. Local, only layer L learns, on the start values below; joint, it is BP whose
    output layer is M_L. In the 2 x 2 of (last, every) x (joint, local) neighbours differ by one thing.

    M_i reads r(a_i): a_i or its squares, pooled to p x p windows where ``readout_pool`` = p (means of activations, sums
    of squares: ASGE's goodness). Then r(a_i) stands for a_i in G_i and dM_i, and dZ gains the derivative of r. With
    ``readout="fixed"`` there is no dM_i.

    Args:
        params: from `init`; one entry more than ``net`` means that M_0 is trained too.
        batch: inputs (B, *features) and labels (B,).
        key: of the noise of blocks that have some; MF itself is deterministic.
        net: the hidden layers. statistics: of blocks that have some, ``state.statistics``.
        layer: train this layer alone (1..L, or 0 for M_0); None trains all. Entries of the others are None.
        **form: see `Options`. auxiliary_weight may be traced.

    Returns:
        Gradients shaped like ``params`` (None: not trained) and the metrics ``loss`` (the sum; "joint": weighted) and
        ``layer_loss`` (layers with a loss,), never weighted, both in nats and taken before any update.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only), an
            unknown word, a single layer for "joint", a weight for "local", or any other form that does not fit.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.mf.init(jax.random.key(0), batch.x, net=net, tx=optax.adam(1e-3), num_classes=3)
        >>> grads, metrics = fwdonly.mf.grads(state.params, batch, jax.random.key(1), net=net)
        >>> metrics["layer_loss"].shape
        (2,)

    Deviations:
        * The full text of arXiv 2501.09238 was not available; the simultaneous schedule follows public restatements.
          All layers see activations computed with the weights before the update, as the order of statements there
          implies, and M_i in dW_i is the value before its update (Jacobi, not Gauss-Seidel).
        * arXiv 2509.19063 describes the greedy schedule as *the* algorithm and says "best validation checkpoint"; its
          code keeps the last epoch of each stage. Which state is kept is an option of the training loop here.
        * Whether the published convolutional nets flatten before or after pooling is not known; here after.
        * Start values: the public code's ``kaiming_uniform_(W, a=sqrt(5), nonlinearity="relu")`` is uniform on
          +-sqrt(6/n_{i-1}) (PyTorch ignores ``a`` for "relu"), not on +-1/sqrt(n_{i-1}) as restatements have it. The
          published training curves of Fashion-MNIST are met with the former and missed by 2-4 % with the latter.
        * Published runs train no M_0, the public code does; here an option, off by default.
        * MF-Joint follows the re-measurement of 2026 (GitHub Przemyslaw11/BeyondBackpropagation, ``bp_ds.py``), whose
          lambda is 1 unless tuned (between 0.01 and 10). It trains M_0 and has one Adam over everything; here there is
          a state per layer as in MF, which is the same for element-wise optimizers and not for clipping by global norm.
        * lambda scales the step of M_i (i < L), too, which Adam undoes.
        * A second-hand account of the 2 x 2 has (last, local) train the readout alone, as ``bp-frozen`` does. Here the
          last block learns, too: a layer of MF is a block with its readout.
        * ASGE, known by its abstract and second hand, has fixed random biases, too, and reads maps before pooling.
    """
    return _pass(params, every(statistics, params), batch, key, net, *_formed(form, net, layer))[:2]


def _pass(
    params: Params, statistics: Statistics, batch: Batch, key: Array, net: Net, how: Options, layer: int | None
) -> tuple[Params, Metrics, Statistics]:
    """Gradients, metrics and the statistics after this batch."""
    doubt = check_labels(batch, cast(Any, params[-1]).M.shape[0])
    if how.gradient == "joint":
        joint = jax.value_and_grad(_joint_loss, has_aux=True)
        (total, (layer_loss, moved)), everything = joint(params, statistics, batch, key, net, how)
        everything = tuple(how.trained(g, g is everything[-1]) for g in everything)
        return everything, {"loss": total + doubt, "layer_loss": layer_loss}, moved
    a, gradients, losses, moved = batch.x, [], [], []
    for (i, block, weights), known in zip(_layers(net, params), statistics, strict=True):
        g = None
        if layer is None or i == layer:
            layer_key = jax.random.fold_in(key, i)
            (loss, (a, known)), g = jax.value_and_grad(_local_loss, has_aux=True)(
                weights, known, block, a, batch.y, (i, layer_key, how)
            )
            losses.append(loss)
            g = how.trained(g, i == len(net))
            a = after(a, g)
        elif i < layer:  # as it is: layers below do not learn any more
            a = run_block(block, weights.block, known, a)[0]
        gradients.append(g)
        moved.append(known)
    layer_loss = jnp.stack(losses)
    return tuple(gradients), {"loss": layer_loss.sum() + doubt, "layer_loss": layer_loss}, kept(moved)


def _local_loss(
    weights: Layer, known: Any, block: Any, a: Array, y: Array, at: tuple[int, Array, Options]
) -> tuple[Array, tuple[Array, Any]]:
    """loss_i, then a_i and the block's statistics, given a_{i-1}; ``at``: i, the key of its noise, and the form."""
    i, key, how = at
    a, known = run_block(block, weights.block, known, a, key)
    G = how.scores(i, a, weights)
    return cross_entropy(G, y), (a, known)


def _joint_loss(
    params: Params, statistics: Statistics, batch: Batch, key: Array, net: Net, how: Options
) -> tuple[Array, tuple[Array, Statistics]]:
    """loss_L and the weighted others, with nothing detached; then every loss_i that counts and the statistics."""
    a, losses, moved = batch.x, [], []
    for (i, block, weights), known in zip(_layers(net, params), statistics, strict=True):
        loss, (a, known) = _local_loss(weights, known, block, a, batch.y, (i, jax.random.fold_in(key, i), how))
        losses.append(loss)
        moved.append(known)
    losses = losses[-1:] if how.losses == "last" else losses
    return losses[-1] + how.auxiliary_weight * sum(losses[:-1]), (jnp.stack(losses), kept(moved))


@stepping(State)
def update(
    state: State,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    tx: optax.GradientTransformation,
    layer: int | None = None,
    **form: Any,
) -> tuple[State, Metrics]:
    """One step: `grads` at the old parameters, then one optax step in every trained layer.

    Args and metrics as for `grads`. With ``layer`` given, every other layer keeps its parameters, optimizer state and
    statistics, and runs as in `predict`; an optimizer that searches along a line (`optax.lbfgs`) is given this layer's
    loss as a function.
    """
    known = every(state.statistics, state.params)
    how = _formed(form, net, layer)
    gradients, metrics, moved = _pass(state.params, known, batch, key, net, *how)
    learning = [how[0].trained(cast(Layer, weights), weights is state.params[-1]) for weights in state.params]

    def loss_of(at: int, weights: Layer) -> Array:
        there = (*state.params[:at], _whole(weights, state.params[at]), *state.params[at + 1 :])
        return _pass(there, known, batch, key, net, *how)[1]["loss"]

    # Only a layer that trains alone has one loss from step to step: below the others, inputs move.
    objective = None if layer is None else loss_of
    losses = cycle([metrics["loss"]] if how[0].gradient == "joint" else metrics["layer_loss"])  # whose gradient it is
    params, opt_state = descend_layers(tx, gradients, state.opt_state, learning, losses, objective)
    return State(tuple(map(_whole, params, state.params)), opt_state, moved), metrics


@predicting
def predict(
    state: State, x: Float[Array, "batch *features"], *, net: Net, layer: int | None = None, **form: Any
) -> Float[Array, "batch classes"]:
    """Class scores: G_L ("last"), or the sum of G_1..G_L ("sum"; scores are summed, not probabilities).

    With ``layer`` the network is cut off after this layer, as in greedy stages. ``form``: see `Options`; whether
    G_0 = x M_0^T enters the sum, the literature does not say.

    Raises:
        UsageError: an unknown prediction mode, or a sum over an input readout that is not there.
    """
    return training_scores(state, x, None, net=net, layer=layer, **form)


def training_scores(
    state: State, x: Float[Array, "batch *features"], key: Array | None, *, net: Net, layer: Any = None, **form: Any
) -> Float[Array, "batch classes"]:
    """The scores of `predict` as a step with ``key`` sees them: statistics of the batch and noise in trained layers."""
    how, layer = _formed(form, net, layer)
    _check(how, len(state.params) > len(net))
    last, total = len(net) if layer is None else layer, jnp.zeros(())
    for i, a, weights in _outputs(state, x, net, layer, key):
        if i == last or (how.prediction == "sum" and (i > 0 or how.sum_includes_input)):
            total = total + how.scores(i, a, weights)
    return total


@predicting
def layer_scores(
    state: State, x: Float[Array, "batch *features"], *, net: Net, layer: int | None = None, **form: Any
) -> Float[Array, "layers batch classes"]:
    """G_1..G_L, with G_0 in front where M_0 is trained; no layer after ``layer``, where one is given."""
    how, _ = _formed(form, net, layer)
    return jnp.stack([how.scores(i, a, weights) for i, a, weights in _outputs(state, x, net, layer)])


@predicting
def activations(
    state: State, x: Float[Array, "batch *features"], *, net: Net, layer: int | None = None, **form: Any
) -> tuple[Float[Array, "batch *_"], ...]:
    """a_1..a_L; no layer after ``layer``, where one is given."""
    return tuple(a for i, a, _ in _outputs(state, x, net, layer) if i > 0)


def rule(
    net: Net, tx: optax.GradientTransformation, *, num_classes: int, layer: int | None = None, **form: Any
) -> LearningRule:
    """MF with the simultaneous schedule: every batch updates all layers (or ``layer`` alone, one greedy stage).

    ``form`` as of `Options`. The other prediction, without M_0, is reported beside this one, but where one
    readout alone is trained.

    Raises:
        UsageError: an unknown word, a sum over an input readout that is not there, or a form that does not fit.
    """
    nets.check_net(net)
    how, _ = _formed(form, net, layer)
    _check(how, how.input_readout)
    first = 1 - how.input_readout
    if layer is not None and not first <= layer <= len(net):
        raise UsageError(f"layer is one of {first}..{len(net)} for this network; got {layer}")
    common: dict[str, Any] = {"net": net, "layer": layer, **form}
    other = "sum" if how.prediction == "last" else "last"
    others = {**common, "prediction": other, "sum_includes_input": False}
    return LearningRule(
        init=partial(init, net=net, tx=tx, num_classes=num_classes, **form),
        update=partial(update, tx=tx, **common),
        predict=partial(predict, **common),
        readouts=() if how.losses == "last" else ((other, partial(predict, **others)),),
        grads=at_state(grads, "statistics", **common),
        training_scores=partial(training_scores, **common),
        layer_scores=partial(layer_scores, **common),
        activations=partial(activations, **common),
    )


def stages(net: Net, tx: optax.GradientTransformation, *, input_readout: Any = False, **options: Any) -> tuple:
    """MF with the greedy schedule: one `LearningRule` per layer over one state, to be trained one after another.

    Stage i trains layer i alone on a_{i-1}, which is recomputed with the layers below as they are, and predicts with
    the network cut off after layer i. Options as for `rule`; with ``input_readout`` stage 0 trains M_0.
    """
    nets.check_net(net)
    numbers = range(1 - input_readout, len(net) + 1)
    return tuple(rule(net, tx, input_readout=input_readout, layer=i, **options) for i in numbers)


def work(
    layers: tuple[nets.LayerSize, ...], num_classes: int, batch: int, *, layer: int | None = None, **form: Any
) -> Products:
    """Multiply-accumulates of layer i, per sample: F_i forward, F_i for the weights, three products with M_i.

    ``layer=i`` (the last one where it alone has a loss): layers below i forward only. "joint": F_i for the input but in
    layer 1 besides. ``input_readout``: two products with M_0, of the first layer's inputs. Fixed: two with M_i.
    """
    how, layer = _formed(form, layers, layer)
    products: Products = []
    if how.input_readout and layer in (None, 0):
        products += [(1, "input readout", 2 * batch * num_classes * layers[0].inputs)]
    for i, size in enumerate(layers[:layer], start=1):
        products.append((i, "forward", batch * size.macs))
        if layer in (None, i):
            products.append((i, "weight gradient", batch * size.macs))
            with_M = batch * num_classes * nets.output.length_read(size.out, how.readout_pool)
            if how.losses == "every" or i == len(layers):
                products.append((i, "readout", (2 + (how.readout == "trained")) * with_M))
        products += [(i, "input gradient", batch * size.macs)] if how.gradient == "joint" and i > 1 else []
    return products


def factors(options: Mapping[str, Any]) -> dict[str, str]:
    """Where a training with these options stands in the 2 x 2 of objective and locality; {} of greedy ones."""
    locality = "local" if options["gradient"] == "local" else "back-propagated"
    simultaneous = options["schedule"] == "simultaneous"
    return {"objective": options["losses"], "locality": locality} if simultaneous else {}


def _check(how: Options, input_readout: bool) -> None:
    if how.sum_includes_input and not (input_readout and how.prediction == "sum"):
        raise UsageError("sum_includes_input needs input_readout=True and prediction='sum'")


def _formed(form: dict[str, Any], net: Any, layer: int | None = None) -> tuple[Options, int | None]:
    """The options, and the layer that learns alone: the last one, too, where its loss is the only one and local."""
    how = chosen(Options, form, "MF")
    only_last = how.losses == "last"
    if how.gradient == "joint" and layer is not None:
        raise UsageError(f"gradient='joint' trains all layers at once; leave layer={layer} and greedy stages out")
    if only_last and (layer is not None or how.input_readout):
        raise UsageError("losses='last' trains no M_0 and is no greedy stage; leave one of them out")
    if only_last and how.prediction == "sum":
        raise UsageError("losses='last' trains one readout, and prediction='sum' reads all; leave one of them out")
    if how.readout == "fixed" and how.input_readout:
        raise UsageError("readout='fixed' leaves nothing of M_0 to learn; leave input_readout out")
    if how.readout_pool < 0:
        raise UsageError(f"readout_pool is a number of rows and columns, or 0 for no pooling; got {how.readout_pool}")
    return how, len(net) if only_last and how.gradient == "local" else layer


def _whole(stepped: Any, before: Any) -> Any:
    """A layer after its step, with the readout that no optimizer sees."""
    return stepped if stepped.M is not None else stepped._replace(M=before.M)


def _layers(net: Net, params: Params) -> list[tuple[int, Any, Any]]:
    """(i, block, parameters) for i = 1..L, with i = 0 in front where M_0 is trained."""
    more = len(params) - len(net)
    if more not in (0, 1) or (more and jax.tree.leaves(cast(Any, params[0]).block)):
        raise UsageError(OTHER_LAYERS)
    return list(zip(range(1 - more, len(net) + 1), (nets.Identity(),) * more + net, params, strict=True))


def _outputs(state: State, x: Array, net: Net, layer: Any, key: Any = None) -> Iterator[tuple[int, Array, Layer]]:
    """(i, a_i, parameters) up to ``layer``, with i = 0 in front where M_0 is trained; with a key as in training."""
    a = x
    statistics = every(state.statistics, state.params)
    for (i, block, weights), known in zip(_layers(net, state.params), statistics, strict=True):
        if i <= (len(net) if layer is None else layer):
            is_trained = key is not None and layer in (None, i)
            a, _ = run_block(block, weights.block, known, a, jax.random.fold_in(key, i) if is_trained else None)
            yield i, a, weights


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage, or one per layer with the greedy schedule."""
    form = {"num_classes": setting.num_classes, **setting.of(Options)}
    greedy = setting.options["schedule"] == "greedy"
    rules = stages(setting.net, setting.tx, **form) if greedy else (rule(setting.net, setting.tx, **form),)
    return tuple(Stage(stage_rule) for stage_rule in rules)


ASGE = {"readout": "fixed", "readout_input": "squares", "readout_pool": 4, "prediction": "sum"}
CARD = Card(
    variants={
        "mf": Variant("MF", tuned={"learning_rate": 0.0021762316, "weight_decay": 1.208e-6}),
        "mf-joint": Variant("MF, joint gradient", {"gradient": "joint"}),
        "mf-last": Variant("MF, last loss alone", {"losses": "last"}),
        "mf-joint-last": Variant("MF, joint gradient, last loss alone", {"losses": "last", "gradient": "joint"}),
        "mf-asge": Variant("MF, ASGE's readouts", ASGE),
        "mf-greedy": Variant("MF, greedy", {"schedule": "greedy"}),
        "mf-greedy-m0": Variant("MF, greedy, with M_0", {"schedule": "greedy", "input_readout": True}),
    },
    options=(Options, Schedule),
    recipe={"epochs": 16},
    compared={"optimizer": "adamw"},
)
