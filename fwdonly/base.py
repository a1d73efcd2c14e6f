"""The contract every learning rule keeps: a batch, a record of three pure functions, and one optimizer step."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

State = Any
"""A NamedTuple of arrays whose first two fields are ``params`` and ``opt_state``; each rule module defines its own."""

Metrics = dict[str, Array]
"""At least the scalar ``loss``; for rules with local losses also ``layer_loss`` of shape (layers,)."""


class UsageError(ValueError):
    """Bad input that the user can mend; the message is one line that names the fault and the mend."""


@contextlib.contextmanager
def one_line() -> Generator[None, None, None]:
    """Keeps a `UsageError` raised while JAX traces to its own line; JAX appends advice on tracebacks to it."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).splitlines()[0]) from None


class Batch(NamedTuple):
    """Inputs ``x`` of shape (batch, *features) and integer labels ``y`` of shape (batch,)."""

    x: Float[Array, "batch *features"]
    y: Int[Array, " batch"]


class LearningRule(NamedTuple):
    """What loops, sweeps, tuners and meters see of a rule: three pure functions with every option already bound.

    Attributes:
        init: ``(key, x) -> state``; ``x`` are example inputs (batch, *features), used for shapes.
        update: ``(state, batch, key) -> (state, metrics)``; one training step on one batch.
        predict: ``(state, x) -> scores`` of shape (batch, classes); the argmax is the label.
    """

    init: Callable[[Array, Array], State]
    update: Callable[[State, Batch, Array], tuple[State, Metrics]]
    predict: Callable[[State, Array], Array]


class Block(Protocol):
    """One hidden layer, as rules see it: any object with ``init`` and ``apply`` (a Flax Linen module is one)."""

    def init(self, rngs: Any, *args: Any) -> Any:
        """Draw the block's parameters for example inputs."""
        ...

    def apply(self, variables: Any, *args: Any) -> Any:
        """The block's output for inputs (batch, *features)."""
        ...


Net = tuple[Any, ...]
"""A tuple of `Block`, one per hidden layer, hashable by value."""


class RuleModule(Protocol):
    """What a rule module offers; `fwdonly.RULES` lists the modules by name."""

    init: Callable[..., State]
    grads: Callable[..., tuple[PyTree, Metrics]]
    update: Callable[..., tuple[State, Metrics]]
    predict: Callable[..., Array]
    rule: Callable[..., LearningRule]
    stages: Callable[..., Sequence[LearningRule]]


def descend(tx: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
    """One optax step: the new ``(params, opt_state)``."""
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


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


def cross_entropy(scores: Float[Array, "batch classes"], y: Int[Array, " batch"]) -> Float[Array, ""]:
    """Mean over the batch of ``-log softmax(scores)[y]``, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()
