"""The contract every learning rule keeps: a batch, a record of three pure functions, and one optimizer step."""

import functools
import inspect
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from .descent import TRACED as TRACED
from .descent import averaged as averaged
from .descent import begin as begin
from .descent import begin_layers as begin_layers
from .descent import descend as descend
from .descent import descend_layers as descend_layers
from .descent import for_prediction as for_prediction
from .descent import predicting as predicting
from .descent import stepping as stepping
from .descent import updates as updates
from .errors import UsageError, check_whole, fitting
from .options import Unless as Unless
from .options import chosen as chosen
from .options import needs as needs
from .options import read_options as read_options

State = Any
"""A NamedTuple of arrays whose first two fields are ``params`` and ``opt_state``; each rule module defines its own."""

Metrics = dict[str, Array]
"""At least the scalar ``loss``; for rules with local losses also ``layer_loss`` of shape (layers,).

The loss is NaN where compiled code is given a label that is no class (see `check_labels`).
"""


Precision = Literal["float32", "tf32", "bfloat16"]
"""Precision of the factors in matrix products and convolutions."""

DOT = {"float32": "highest", "tf32": "TF32_TF32_F32", "bfloat16": "BF16_BF16_F32"}
"""JAX's names for these precisions. Sums are float32; a convolution of bfloat16 factors rounds them in the end."""


def setting(name: str) -> Any:
    """The value of one of JAX's settings here and now."""
    return getattr(jax.config, f"jax_{name}")


class Batch(NamedTuple):
    """Inputs ``x`` of shape (batch, *features) and integer labels ``y`` of shape (batch,)."""

    x: Float[Array, "batch *features"]
    y: Int[Array, " batch"]


class Frozen(NamedTuple):
    """The work that no update of a rule changes, split off so that a loop may do it once and keep the outcome.

    For every state and batch, ``rule.update(state, Batch(x, y), key)`` equals
    ``frozen.update(state, Batch(frozen.features(state, x), y), key)``, and likewise ``validate``.

    Attributes:
        features: ``(state, x) -> features``, arrays (or a tree of them) of leading dimension batch.
        update: as `LearningRule.update`, with features in the place of ``batch.x``.
        validate: as `LearningRule.validate`, with features in the place of ``x``.
    """

    features: Callable[[State, Array], Any]
    update: Callable[[State, Batch, Array], tuple[State, Metrics]]
    validate: Callable[[State, Any], Array]


class Errors(NamedTuple):
    """What a rule that sends errors back gives to its hidden layers, beside backpropagation's, for the angles between.

    Arrays, or trees of which those of one dimension (biases) are left out; those of a pair have one shape.

    Attributes:
        feedback: B_l, what stands in the place of the weights on the way to hidden layer l.
        weights: the weights in whose place it stands.
        errors: delta_l of every hidden layer, for every sample.
        exact: backpropagation's delta_l, at the same parameters.
    """

    feedback: tuple[PyTree, ...]
    weights: tuple[PyTree, ...]
    errors: tuple[Array, ...]
    exact: tuple[Array, ...]


class LearningRule(NamedTuple):
    """What loops, sweeps, tuners and meters see of a rule: pure functions with every option already bound.

    Attributes:
        init: ``(key, x) -> state``; ``x`` are example inputs (batch, *features), used for shapes and, by rules that
            say so, for statistics of the data.
        update: ``(state, batch, key) -> (state, metrics)``; one training step on one batch.
        predict: ``(state, x) -> scores`` of shape (batch, classes); the argmax is the label.
        validate: the scores that steer the training, where they are not the prediction (a stage that trains one of
            several readouts looks at its own); None means ``predict``.
        readouts: further ways to read classes off the same state, ``(name, predict)``, evaluated once
            on the state that is kept, and reported beside the prediction.
        frozen: the same rule in two halves, where a part of its work does not depend on what it trains.
        grads: ``(state, batch, key) -> (gradients, metrics)``, the direction that ``update`` descends at this state,
            shaped like ``state.params``, with None for what is not trained. Forms that step otherwise (a closed form,
            two half-steps, a stage that learns feedback alone) say there what their direction would be. `alignment`
            takes the entries of a tuple or list for layers, and so the fields of a NamedTuple (a field that is a tuple
            has a layer per entry); an array, a dict, or a NamedTuple with a field W and no blocks is one layer.
        training_scores: ``(state, x, key) -> scores`` as ``update`` sees them, where blocks behave otherwise in
            training than in ``predict`` (`run_block`): with statistics of the batch, and with the noise of ``key``.
            `alignment` differentiates these. None means ``predict``.
        layer_scores: ``(state, x) -> scores`` (layers, batch, classes), of every layer that reads classes by itself,
            from the first one on, in one pass through the network. None: layers have no scores of their own.
        activations: ``(state, x) -> outputs`` of every hidden layer, (batch, *features) each, for probes
            (`fwdonly.measure.probe`). None: not told, as by FF, whose layers see another input for every label.
        errors: ``(state, batch, key) -> Errors``, of a rule that sends errors back by other matrices than the weights;
            ``key`` is that of ``update``. None: the rule sends none.
    """

    init: Callable[[Array, Array], State]
    update: Callable[[State, Batch, Array], tuple[State, Metrics]]
    predict: Callable[[State, Array], Array]
    validate: Callable[[State, Array], Array] | None = None
    readouts: tuple[tuple[str, Callable[[State, Array], Array]], ...] = ()
    frozen: Frozen | None = None
    grads: Callable[[State, Batch, Array], tuple[PyTree, Metrics]] | None = None
    training_scores: Callable[[State, Array, Array], Array] | None = None
    layer_scores: Callable[[State, Array], Array] | None = None
    activations: Callable[[State, Array], tuple[Array, ...]] | None = None
    errors: Callable[[State, Batch, Array], Errors] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by cloudpickle: optimizers and activations are functions within functions, which pickle refuses."""
        try:
            import cloudpickle
        except ImportError as error:
            raise UsageError("a rule is pickled by cloudpickle; pip install cloudpickle") from error
        return _unpickled, (cloudpickle.dumps(tuple(self)),)


def _unpickled(content: bytes) -> LearningRule:
    return LearningRule(*pickle.loads(content))


Products = list[tuple[int, str, float | int]]
"""What a rule's ``work`` counts: (layer from 1, what for, multiply-accumulates of one step); a readout: its inputs'."""


Net = tuple[Any, ...]
"""A tuple of `Block`, one per hidden layer, hashable by value."""


class Block(Protocol):
    """One hidden layer, as rules see it: any object with ``init`` and ``apply`` (a Flax Linen module is one).

    Variables are any tree of arrays, all of them parameters. Where they are a mapping with "params" (as a Linen
    module's are), this entry alone holds parameters, which gradients and optimizers see. The other entries are
    *statistics*: a rule keeps them in ``state.statistics``, takes their new values from every training step and
    predicts with them.

    A block that behaves otherwise in training, by statistics or by noise, says so in one of two ways:

    * a Linen module by an argument of its ``__call__``, one of `SWITCHES`; noise comes from ``make_rng``;
    * any other object by a third method, ``apply_in_training(variables, x, key) -> (output, variables)``, which
      returns the variables with the new statistics.

    A block for rules that treat the linear part and the activation apart has two methods more: see
    `fwdonly.nets.check_parts`.
    """

    def init(self, rngs: Any, *args: Any) -> Any:
        """Draw the block's parameters, and start its statistics, for example inputs."""
        ...

    def apply(self, variables: Any, *args: Any) -> Any:
        """The block's output for inputs (batch, *features), in prediction."""
        ...


SWITCHES = {"train": True, "training": True, "deterministic": False, "use_running_average": False}
"""Arguments by which Linen modules are told that they train, with what they are told then; in prediction the other."""

Statistics = tuple[Any, ...]
"""The statistics of every block: a dict of collections, empty for a block that has none; () where no block has any."""


def draw_block(block: Any, key: Array, x: Float[Array, "batch *features"]) -> tuple[Any, dict[str, Any]]:
    """Start values of a block for example inputs: its parameters and its statistics (see `Block`)."""
    return _divided(block, block.init(key, x, **_switched(block, training=False)))


def run_block(
    block: Any, params: Any, statistics: Any, x: Float[Array, "batch *features"], key: Array | None = None
) -> tuple[Float[Array, "batch *out"], Any]:
    """The block's output and its statistics afterwards.

    Args:
        block: a `Block`.
        params: its parameters, from `draw_block`.
        statistics: its statistics, which change in training alone.
        x: inputs.
        key: of the noise, in training; None is prediction, with the statistics as they are and without noise.

    Raises:
        UsageError: a Linen module that lacks its statistics, or cannot take inputs of this shape.
    """
    variables = {**params, **statistics} if statistics else params
    if key is not None and hasattr(block, "apply_in_training"):
        out, variables = block.apply_in_training(variables, x, key)
        return out, _divided(block, variables)[1]
    mend = "" if statistics else "; if it has running statistics, pass statistics=state.statistics"
    with fitting(f"a {type(block).__name__}", x.shape, mend):
        if key is None or not _is_linen(type(block)):
            return block.apply(variables, x, **_switched(block, training=False)), statistics
        how: dict[str, Any] = {"rngs": {"params": key, "dropout": key}, **_switched(block, training=True)}
        if not statistics:
            return block.apply(variables, x, **how), statistics
        return block.apply(variables, x, mutable=list(statistics), **how)


def kept(statistics: Sequence[Any]) -> Statistics:
    """The statistics of all layers as a state holds them: none at all where no layer has any."""
    return tuple(statistics) if any(statistics) else ()


def every(statistics: Statistics, layers: tuple[Any, ...]) -> Statistics:
    """The statistics, or those of layers without any where none are given."""
    return statistics or ({},) * len(layers)


def _divided(block: Any, variables: Any) -> tuple[Any, dict[str, Any]]:
    """Parameters, in the form in which ``apply`` takes them, and all else."""
    if not isinstance(variables, Mapping) or not ("params" in variables or _is_linen(type(block))):
        return variables, {}
    return (
        {name: value for name, value in variables.items() if name == "params"},
        {name: value for name, value in variables.items() if name != "params"},
    )


def _is_linen(kind: type) -> bool:
    return hasattr(kind, "init_with_output")


def _switched(block: Any, *, training: bool) -> dict[str, bool]:
    """What a Linen module is told of training or prediction; a switch that its own field sets is left alone."""
    names = (name for name in _switches(type(block)) if getattr(block, name, None) is None)
    return {name: SWITCHES[name] == training for name in names}


@functools.cache
def _switches(kind: type) -> tuple[str, ...]:
    if not _is_linen(kind):
        return ()
    names = inspect.signature(kind.__call__).parameters
    return tuple(name for name in SWITCHES if name in names)


@runtime_checkable
class RuleModule(Protocol):
    """What the file of a rule offers; `fwdonly.RULES` lists the modules by name. Options follow as keywords.

    Three functions more are optional: ``stages(net, tx, *, num_classes)``, several `LearningRule` over one state, to be
    trained one after another; ``work(layers, num_classes, batch)``, the `Products` of a step; ``factors(options)``, the
    cell of the 2 x 2 of objective ("last", "every") and locality ("back-propagated", "local"). Loops and meters see the
    `LearningRule` alone, so that a file outside this package needs no more than ``rule``.
    """

    init: Callable[..., State]
    """``(key, x, *, net, tx, num_classes)``"""
    grads: Callable[..., tuple[PyTree, Metrics]]
    """``(params, batch, key, *, net)``, and of the state what else it needs"""
    update: Callable[..., tuple[State, Metrics]]
    """``(state, batch, key, *, net, tx)``"""
    predict: Callable[..., Array]
    """``(state, x, *, net)``"""
    rule: Callable[..., LearningRule]
    """``(net, tx, *, num_classes)``"""


def check_classes(num_classes: int) -> None:
    """Refuse to tell fewer than two classes apart.

    Raises:
        UsageError: fewer than two classes, or no whole number of them.
    """
    if check_whole(num_classes, "num_classes") < 2:
        raise UsageError(f"classification needs at least 2 classes; got num_classes={num_classes}")


def check_labels(batch: Batch, num_classes: int) -> Float[Array, ""] | float:
    """Refuse labels a supervised rule cannot use; every rule asks this first and adds the answer to its ``loss``.

    JAX takes a label of -1 for the last class, and one that is too high for none. Values are seen outside compiled code
    only; within it the answer makes the loss NaN. A step whose loss is NaN is to be thrown away: its parameters may be
    finite all the same. `fwdonly.fit` ends such a run as diverged.

    Returns:
        0; within compiled code NaN where a label is no class.

    Raises:
        UsageError: labels that are missing, not one integer per sample, or outside 0..num_classes-1; a batch without
            samples, a sample without its batch axis, or a batch split by ``jax.shard_map`` (docs/several-devices.md).
    """
    if not hasattr(batch, "y"):
        raise UsageError(f"a batch is fwdonly.Batch(x, y), of arrays; got a {type(batch).__name__}")
    if isinstance(batch.x, list):
        raise UsageError("the batch's x is a list; pass jnp.asarray(x)")
    y, x = batch.y, jax.tree.leaves(batch.x)[0]
    if getattr(y, "shape", None) == ():
        raise UsageError("a batch has samples along its first axis; give a single sample as x[None], y[None]")
    if not len(x):
        raise UsageError("the batch is empty; give it at least one sample")
    if y is None or not hasattr(y, "dtype") or not jnp.issubdtype(y.dtype, jnp.integer) or y.shape != x.shape[:1]:
        labels = "none" if y is None else f"{getattr(y, 'dtype', type(y).__name__)}{list(getattr(y, 'shape', ()))}"
        mend = _mend_of_labels(y)
        raise UsageError(f"a batch needs integer labels of shape ({len(x)},), one per sample; got {labels}{mend}")
    if axes := _split_over(y):  # JAX sums gradients of replicated parameters over them
        raise UsageError(
            f"within jax.shard_map over {', '.join(sorted(axes))} a step may be as many times too long as there are "
            "shards; use jax.jit on a batch sharded over its first axis, or check_vma=False and average the gradients"
        )
    if isinstance(y, Tracer):
        highest = min(num_classes - 1, jnp.iinfo(y.dtype).max)  # uint8 holds no 256
        return jnp.where(((y >= 0) & (y <= highest)).all(), 0.0, jnp.nan)  # a weak type: the loss keeps its own
    values = np.asarray(y)  # not jnp: labels that a compiled function closes over are known, results on them are not
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high >= num_classes:
        raise UsageError(f"labels must lie in 0..{num_classes - 1}; found {low}..{high}; correct them or num_classes")
    return 0.0


def _split_over(a: Any) -> frozenset[str]:
    """The axes of ``jax.shard_map`` over which an array differs, where it keeps account of them (``check_vma``)."""
    kind = getattr(jax.typeof(a), "manual_axis_type", None) if isinstance(a, Tracer) else None
    return frozenset() if kind is None else kind.varying


def _mend_of_labels(y: Any) -> str:
    """How labels of a common wrong form become right ones; empty for others."""
    if isinstance(y, list | tuple):
        return ": pass jnp.asarray(y)"
    kind, shape = getattr(getattr(y, "dtype", None), "kind", ""), getattr(y, "shape", ())
    if len(shape) == 2:
        return ": pass y[:, 0]" if shape[1] == 1 else ": pass y.argmax(1), if they are one-hot"
    if kind in ("U", "S"):
        return ": number the classes, as data.from_arrays does"
    return ": pass y.astype(int)" if kind in ("f", "b") else ""


def at_state(grads: Callable[..., tuple[PyTree, Metrics]], *fields: str, **options: Any) -> Any:
    """A rule's ``grads`` as `LearningRule` has it; ``fields`` of the state are keywords of it, as ``options`` are."""

    def of_state(state: State, batch: Batch, key: Array) -> tuple[PyTree, Metrics]:
        if lacking := [name for name in ("params", *fields) if not hasattr(state, name)]:
            kind = type(state).__name__
            raise UsageError(f"state is what the rule's init or update returned; a {kind} has no {lacking[0]}")
        held = {name: getattr(state, name) for name in fields}
        return grads(state.params, batch, key, **held, **options)

    return of_state


def flat(a: Float[Array, "batch *features"]) -> Float[Array, "batch n"]:
    """Every sample as one vector."""
    return a.reshape(a.shape[0], -1)


def as_params(gradients: PyTree, params: PyTree) -> PyTree:
    """Gradients in the parameters' own precision, which may differ from layer to layer and from the inputs'."""
    return jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, params)


def after(a: Array, done: PyTree) -> Array:
    """``a``, unchanged, but not available to the compiled program before every array in ``done`` has been computed.

    Training layer by layer needs the memory of one layer only if the compiler finishes a layer before it starts the
    next. XLA is free to run all forward passes first and keep every activation, and on CPU (jaxlib 0.10.2) it drops
    ``lax.optimization_barrier`` before it orders the program. A selection whose condition always holds, which the
    compiler cannot know, is a dependence it must respect; it is fused into the operations around it.
    """
    witness = sum(leaf.ravel()[0] for leaf in jax.tree.leaves(done))
    always = (witness <= jnp.inf) | (witness != witness)
    return jnp.where(always, a, jnp.zeros_like(a))


def cross_entropy(
    scores: Float[Array, "batch classes"], y: Int[Array, " batch"], smoothing: float | Array = 0.0
) -> Float[Array, ""]:
    """Mean over the batch of ``-log softmax(scores)[y]``, in nats.

    With label ``smoothing`` eps the target of class c is ``(1 - eps) [c = y] + eps / C`` (Szegedy et al., CVPR 2016).
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()
    if isinstance(smoothing, float | int) and smoothing == 0:
        return loss
    return (1 - smoothing) * loss - smoothing * jax.nn.log_softmax(scores).mean()
