"""One step of an optimizer over a rule's parameters, and the parameters at which such an optimizer is evaluated."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import optax
from jaxtyping import Array

from .errors import UsageError, check_samples, fitting

State = Any
Objective = Callable[[Any], Array]
"""The loss as a function of the parameters that an optimizer steps, on the same batch and with the same noise."""


def begin(tx: optax.GradientTransformation, params: Any) -> Any:
    """The optimizer's first state for ``params``.

    Raises:
        UsageError: no optax transformation, or one that wants parameters of a form of its own.
    """
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise UsageError(f"tx is an optax transformation, such as optax.adam(1e-3); got {type(tx).__name__}")
    try:
        return tx.init(params)
    except AttributeError as error:
        raise UsageError(f"this optimizer cannot start from a rule's parameters ({error}); use another one") from error
    except ValueError as error:
        if "structure" not in str(error) or isinstance(error, UsageError):
            raise
        raise UsageError(
            "the optimizer has a mask or labels as a tree of another form; a rule may step its layers one by one: give "
            "a function of the parameters, such as mask=lambda p: jax.tree.map(lambda a: a.ndim > 1, p)"
        ) from error


TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""What JAX raises where Python code asks for the value of a traced number."""


def updates(
    tx: optax.GradientTransformation,
    grads: Any,
    opt_state: Any,
    params: Any,
    value: Array | None = None,
    value_fn: Objective | None = None,
) -> tuple[Any, Any]:
    """What optax adds to ``params``, and its new state.

    ``value``, the loss, and ``value_fn``, the `Objective` whose gradient ``grads`` is, are for transformations that ask
    for them (`optax.lbfgs` searches along a line). A rule that steps by no gradient of one loss has no ``value_fn``.

    Raises:
        UsageError: the transformation asks for more than that, or for parameters of a form of its own, or its schedule
            decides by a number's value.
    """
    more: dict[str, Any] = {} if value_fn is None else {"grad": grads, "value_fn": value_fn}
    update = optax.with_extra_args_support(tx).update
    try:
        try:
            return update(grads, opt_state, params, value=value, **more)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):  # as of optax.contrib.sam, which takes none of these
                raise
            return update(grads, opt_state, params)
    except (AttributeError, *TRACED) as error:
        words = "a schedule chooses by jnp.where, not by if, and computes with jnp, not with np"
        why = words if isinstance(error, TRACED) else str(error)
        raise UsageError(f"this optimizer cannot step a rule's parameters: {why}; change it, or use another") from error
    except TypeError as error:
        if "required keyword-only argument" not in str(error):
            raise
        raise UsageError(
            "this optimizer asks for the loss as a function (value_fn), which bp and stages of mf alone can give; with "
            "this rule use one that needs gradients and the loss's value at most"
        ) from error


def descend(
    tx: optax.GradientTransformation,
    grads: Any,
    opt_state: Any,
    params: Any,
    value: Array | None = None,
    value_fn: Objective | None = None,
) -> tuple[Any, Any]:
    """One optax step: the new ``(params, opt_state)``; arguments as of `updates`."""
    step, opt_state = updates(tx, grads, opt_state, params, value, value_fn)
    return optax.apply_updates(params, step), opt_state


def for_prediction(state: State) -> State:
    """The state that predicts: with averaged parameters where the optimizer averages (`optax.contrib.schedule_free`).

    Then ``opt_state`` is None, which is all that tells such a state from others; any other state comes back as it is.
    The state of a rule whose optimizers are neither one for all parameters nor one for every entry of a tuple of them
    has a method ``averaged()``, which gives its parameters.
    """
    if not _averaging(getattr(state, "opt_state", None)):
        return state
    params = state.averaged() if hasattr(state, "averaged") else averaged(state.opt_state, state.params)
    return state._replace(params=params, opt_state=None)


def averaged(opt_state: Any, params: Any) -> Any:
    """The parameters at which a schedule-free optimizer is to be evaluated, x = (y - (1 - b1) z) / b1 of its paper.

    Others come back as they are. ``opt_state`` belongs to ``params``, or a tuple of such to a tuple of parameters.
    """
    places, tree = jax.tree_util.tree_flatten_with_path(params)
    values = dict(places)
    for one in _averaging(opt_state):
        for place, z in jax.tree_util.tree_leaves_with_path(one.z):  # what the optimizer is masked from has no place
            if place not in values:
                return tuple(averaged(*pair) for pair in zip(opt_state, params, strict=True))
            values[place] = ((values[place] - (1 - one.b1) * z) / one.b1).astype(values[place].dtype)
    return jax.tree.unflatten(tree, values.values())


def _averaging(opt_state: Any) -> list[Any]:
    """The schedule-free parts of an optimizer's state."""
    kind = optax.contrib.ScheduleFreeState
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


Read = TypeVar("Read", bound=Callable[..., Any])


def predicting(read: Read) -> Read:
    """Let a rule's function of (state, x) see the state as `for_prediction` gives it, and samples that it can take.

    Raises:
        UsageError: a single sample without its batch axis, no sample, or samples of another shape than the network's.
    """

    @functools.wraps(read)
    def of_state(state: State, x: Array, **options: Any) -> Any:
        if not hasattr(state, "params"):
            raise UsageError(f"state is what the rule's init or update returned; got a {type(state).__name__}")
        check_samples(x)
        with fitting("the network", x.shape):
            return read(for_prediction(state), x, **options)

    return cast(Read, of_state)
