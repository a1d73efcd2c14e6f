"""How near a rule's update direction is to the gradient, and what it sends back to what backpropagation would."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..base import Batch, Errors, LearningRule, Metrics, State, cross_entropy, for_prediction
from ..errors import UsageError

READOUTS = ("M", "U")
"""Fields of a layer beside its ``block`` that read classes off it; no layer below learns through them."""


class Alignment(NamedTuple):
    """Per layer that learns, the output layer last where the rule has one of its own.

    A cosine of 1 with a ratio far from 1 is a layer that learns in the right direction at another rate: read both.
    """

    cosine: Float[Array, " layers"]
    norm_ratio: Float[Array, " layers"]


class FeedbackAngles(NamedTuple):
    """The two angles of papers on feedback alignment, as cosines, per hidden layer that is sent errors."""

    feedback_cosine: Float[Array, " layers"]
    error_cosine: Float[Array, " layers"]


def feedback_angles(errors: Errors) -> FeedbackAngles:
    """Compare what a rule sends back with what backpropagation would, layer by layer.

    ``feedback_cosine`` is that between B_l and the weights in whose place it stands; for direct feedback these are the
    product W_L^T ... W_{l+1}^T. ``error_cosine`` is that between the layer's error delta_l and backpropagation's, over
    all units and samples of the batch as one vector, so that samples with large errors count more. Biases are left out.
    The angles of the papers are the arc cosines: 90 degrees is no relation, below it a step goes downhill.

    Args:
        errors: from ``rule.errors(state, batch, key)``, of a rule that has them (`LearningRule`).

    Returns:
        Cosines in [-1, 1], nan where a direction is 0.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> rule = fwdonly.feedback.rule(net, optax.sgd(0.1), num_classes=3)
        >>> state = rule.init(jax.random.key(0), batch.x)
        >>> errors = rule.errors(state, batch, jax.random.key(1))
        >>> fwdonly.measure.feedback_angles(errors).error_cosine.shape
        (2,)
    """
    pairs = (errors.feedback, errors.weights), (errors.errors, errors.exact)
    return FeedbackAngles(*(jnp.stack([_cosine(*two) for two in zip(*pair, strict=True)]) for pair in pairs))


def _cosine(one: Any, other: Any) -> Array:
    """That of two trees as vectors, without what has one dimension."""
    a, b = (jnp.concatenate([w.ravel() for w in jax.tree.leaves(tree) if w.ndim > 1]) for tree in (one, other))
    return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


def alignment(
    predict: Callable[[State, Array], Array],
    state: State,
    gradients: Any,
    batch: Batch,
    *,
    loss: Callable[[Array, Array], Array] = cross_entropy,
) -> Alignment:
    """Compare a rule's ``grads`` with backpropagation through the same network, at the same parameters.

    Backpropagation's side is the gradient of ``loss(predict(state, x), y)`` with respect to ``state.params``: for
    BP, PEPITA, FOTON and the feedback-alignment family that of the network's output, for Mono-Forward that of the
    goodness it predicts from, with all layers differentiated through. All that a layer trains is one vector (weights,
    biases, scale and shift), less its readout, M_i of Mono-Forward and U_l of Forward-Forward: backpropagation knows no
    readout of a hidden layer, so that M_i is in neither vector.

    Pure, to be called within a compiled step.

    Args:
        predict: of the rule, ``(state, x) -> scores``, without random parts and without stopped gradients. Where blocks
            behave otherwise in training, scores as the step sees them (`LearningRule.training_scores`).
        state: the state at which ``gradients`` were taken.
        gradients: of the rule, shaped like ``state.params``; what is None there is not compared.
        batch: the same batch.
        loss: ``(scores, y) -> scalar``; of FOTON with a temperature T, the cross-entropy of T times the scores, and
            with label smoothing that of smoothed labels.

    Returns:
        Cosines in [-1, 1], nan where a direction is 0, and norms of the rule's direction over those of backpropagation.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> rule = fwdonly.pepita.rule(net, optax.sgd(0.1), num_classes=3)
        >>> state = rule.init(jax.random.key(0), batch.x)
        >>> grads, _ = fwdonly.pepita.grads(state.params, batch, jax.random.key(1), net=net, F=state.F)
        >>> fwdonly.alignment(rule.predict, state, grads, batch).cosine.shape
        (3,)
    """
    at = state if for_prediction(state) is state else state._replace(opt_state=None)  # gradients are of no averages
    exact = jax.grad(lambda params: loss(predict(at._replace(params=params), batch.x), batch.y))(state.params)
    exact = jax.tree.map(lambda g, e: None if g is None else e, gradients, exact, is_leaf=lambda g: g is None)
    pairs = [(a, b) for a, b in zip(_layers(gradients), _layers(exact), strict=True) if a.size]
    norms = [(jnp.linalg.norm(one), jnp.linalg.norm(other)) for one, other in pairs]
    cosine = [one @ other / (n * m) for (one, other), (n, m) in zip(pairs, norms, strict=True)]
    return Alignment(jnp.stack(cosine), jnp.stack([n / m for n, m in norms]))


def with_alignment(rule: LearningRule, **options: Any) -> LearningRule:
    """The rule with the metrics ``cosine`` and ``norm_ratio`` (layers,) of every step, before it is taken.

    Where the rule says its ``errors``, also the ``feedback_cosine`` and ``error_cosine`` of `feedback_angles`.

    What is compared is ``rule.grads``, with backpropagation through ``rule.training_scores`` where the rule has them:
    statistics of the same batch, noise of the same key. ``options`` are those of `alignment`. Features of frozen layers
    are not kept: backpropagation's side needs the inputs.

    The compiler computes once what it sees to be the same in ``update``, ``grads`` and backpropagation. In a scan, by
    XLA's count of operations on CPU (784-256-256-10, batch 256), a step then costs 0.56 of one of backpropagation more
    for FOTON, PEPITA without dropout, FA, DFA, KP and WM; where it sees less, 1.1 for BP and brSF, 1.2 for Mono-Forward
    and 1.4 for PEPITA with dropout. "time_local", whose step is not by ``grads``, costs 1.9 more.

    Raises:
        UsageError: a rule that does not say its ``grads``.
    """
    grads = rule.grads
    if grads is None:
        raise UsageError("this rule has no grads to compare; give them to its LearningRule")

    def update_and_measure(state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        gradients, _ = grads(state, batch, key)
        scores = rule.training_scores
        read = rule.predict if scores is None else lambda state, x: scores(state, x, key)
        angles = alignment(read, state, gradients, batch, **options)
        sent = {} if rule.errors is None else feedback_angles(rule.errors(state, batch, key))._asdict()
        state, metrics = rule.update(state, batch, key)
        return state, metrics | angles._asdict() | sent

    return rule._replace(update=update_and_measure, frozen=None)


def _layers(params: Any) -> list[Array]:
    """One vector per layer; `LearningRule.grads` says which forms parameters have."""
    if hasattr(params, "W") and hasattr(params, "blocks"):  # of an output layer
        parts = [*params.blocks, (params.W, params.b)]
    elif hasattr(params, "W"):
        parts = [params]
    elif hasattr(params, "_fields"):  # several kinds of layers, such as heads and blocks
        parts = [part for field in params for part in (field if type(field) is tuple else (field,))]
    elif isinstance(params, tuple | list):
        parts = [_without_readout(layer) for layer in params]
    else:
        parts = [params]
    return [jnp.concatenate([jnp.zeros(0), *(leaf.ravel() for leaf in jax.tree.leaves(part))]) for part in parts]


def _without_readout(layer: Any) -> Any:
    """A layer of a rule with a block per layer, less what reads the classes off the block."""
    readouts = [name for name in READOUTS if hasattr(layer, "block") and name in getattr(layer, "_fields", ())]
    return layer._replace(**dict.fromkeys(readouts)) if readouts else layer
