"""What a layer knows of the classes: linear probes on the outputs of trained layers."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ..base import Batch, LearningRule, State, cross_entropy, flat
from ..errors import UsageError

ROWS = 500
"""Samples that pass through the network together."""


class Probes(NamedTuple):
    """What `probe` gives, one entry per hidden layer."""

    accuracy: Float[Array, " layers"]
    """On the second batch, 0..1."""
    train_accuracy: Float[Array, " layers"]
    """On the batch that the probes were fitted to."""
    gradient: Float[Array, " layers"]
    """Norm of the objective's gradient where the fit ended, relative to that at the start; 0 at the optimum."""


def probe(
    rule: LearningRule, state: State, train: Batch, test: Batch, *, ridge: float = 1e-3, steps: int = 200
) -> Probes:
    r"""Fit a softmax regression to the outputs of every hidden layer, and say how well each predicts.

    With outputs A of a layer, standardised over ``train`` (rows are samples, N of them), the probe minimises::

        -(1/N) sum_n log softmax(a_n V + b)[y_n] + (ridge / 2) ||V||^2

    which is convex, by L-BFGS from V = 0, b = 0. Held constant: the trained state, which is not touched.

    Args:
        rule: has `LearningRule.activations`.
        state: trained, such as ``fit(...).state``.
        train: inputs as the network takes them (`fwdonly.data.normalise`, `standardise`), and labels 0..C-1: of the
            images that the rule was trained on.
        test: others, such as the validation images.
        ridge: weight of the penalty, above 0.
        steps: of L-BFGS.

    Raises:
        UsageError: a rule that does not tell its layers' outputs, or a ridge that is not above 0.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.eye(4, 6), jax.numpy.array([0, 1, 2, 0]))
        >>> rule = fwdonly.bp.rule(net, optax.adam(1e-3), num_classes=3)
        >>> fwdonly.measure.probe(rule, rule.init(jax.random.key(0), batch.x), batch, batch, steps=20).accuracy.shape
        (2,)

    Reference: Alain, Bengio, *Understanding intermediate layers using linear classifier probes*, arXiv 1610.01644.

    Deviations:
        * Probes are fitted to trained layers, not while these train; the outputs are standardised; there is a ridge.
    """
    if rule.activations is None:
        raise UsageError("this rule does not tell its layers' outputs; give its LearningRule activations")
    if not ridge > 0:
        raise UsageError(f"ridge must be above 0, or the probe may have no optimum; got {ridge}")
    layers = [_outputs(rule, state, batch.x) for batch in (train, test)]
    classes = 1 + int(jnp.maximum(train.y.max(), test.y.max()))
    fitted = [_fit(*of_layer, train.y, test.y, classes, ridge, steps) for of_layer in zip(*layers, strict=True)]
    return Probes(*(jnp.stack(values) for values in zip(*fitted, strict=True)))


def _outputs(rule: LearningRule, state: State, x: Array) -> list[Array]:
    """The outputs of every layer, each sample as a vector."""
    outputs: Any = rule.activations
    read = jax.jit(lambda state, x: tuple(map(flat, outputs(state, x))))
    parts = [read(state, x[at : at + ROWS]) for at in range(0, len(x), ROWS)]
    return [jnp.concatenate(of_layer) for of_layer in zip(*parts, strict=True)]


@partial(jax.jit, static_argnums=(4, 6))
def _fit(
    A: Float[Array, "batch n"],
    B: Float[Array, "other n"],
    y: Int[Array, " batch"],
    y_test: Int[Array, " other"],
    classes: int,
    ridge: float | Array,
    steps: int,
) -> tuple[Array, Array, Array]:
    mean, sd = A.mean(0)[None, :], A.std(0)[None, :]
    sd = jnp.where(sd > 0, sd, 1.0)  # an output that never changes says nothing
    A, B = (A - mean) / sd, (B - mean) / sd
    start = jnp.zeros((A.shape[1], classes), A.dtype), jnp.zeros((1, classes), A.dtype)
    tx = optax.lbfgs()

    def objective(weights: tuple[Array, Array]) -> Array:
        V, b = weights
        return cross_entropy(A @ V + b, y) + 0.5 * ridge * jnp.sum(V**2)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        weights, opt_state = carry
        value, gradient = optax.value_and_grad_from_state(objective)(weights, state=opt_state)
        updates, opt_state = tx.update(gradient, opt_state, weights, value=value, grad=gradient, value_fn=objective)
        return (optax.apply_updates(weights, updates), opt_state), None

    ((V, b), _), _ = jax.lax.scan(step, (start, tx.init(start)), None, length=steps)
    left, right = (optax.tree.norm(jax.grad(objective)(weights)) for weights in ((V, b), start))
    accuracy, train_accuracy = (((X @ V + b).argmax(1) == labels).mean() for X, labels in ((B, y_test), (A, y)))
    return accuracy, train_accuracy, left / right
