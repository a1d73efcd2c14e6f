"""From gradients to steps: one optax step, and optimizers that differ from layer to layer or rest in some epochs."""

import contextlib
import functools
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from .errors import UsageError, check_samples, fitting

State = Any
Objective = Callable[[Any], Array]
"""The loss as a function of the parameters that an optimizer steps, on the same batch and with the same noise."""


class ByLayer(optax.GradientTransformationExtraArgs):
    """An optimizer per layer, see `by_layer`; ``layers`` has them one by one."""

    layers: tuple[optax.GradientTransformation, ...]


def by_layer(optimizers: Iterable[optax.GradientTransformation]) -> ByLayer:
    """One optimizer for every layer, for any rule: give it as ``tx``.

    Layers are hidden layers from the first one on, and then the output layer, or CwC's readout, where the rule has one;
    readouts of a hidden layer belong to it. Of rules that train the output layer alone (frozen hidden layers, shallow)
    it is the one layer. Rules with parameters per layer (MF, FF, CwC, DeeperForward, PhyLL, zeroth order, forward
    gradients with local losses, heads of CaFo) step each by its own optimizer; to others it is one transformation of
    all parameters, which may stand within a chain.

    Args:
        optimizers: as many as there are layers.

    Raises:
        UsageError: no optimizers; at the start of a rule, another number of them than of layers.

    Example:
        >>> import jax, optax, fwdonly
        >>> tx = fwdonly.by_layer([optax.sgd(0.1), optax.sgd(0.1), optax.adam(1e-3)])
        >>> rule = fwdonly.bp.rule(fwdonly.nets.mlp([8, 6]), tx, num_classes=3)
        >>> state = rule.init(jax.random.key(0), jax.numpy.ones((1, 4)))
    """
    layers = tuple(optimizers)
    if not layers or not all(map(_is_optimizer, layers)):
        raise UsageError("by_layer takes optax transformations, one per layer: by_layer([optax.sgd(0.1), ...])")
    named: dict[Any, optax.GradientTransformation] = dict(enumerate(layers))
    whole = optax.partition(named, lambda params: _numbers(params, len(layers)))
    tx = ByLayer(whole.init, whole.update)
    tx.layers = layers
    return tx


def within(tx: optax.GradientTransformation, first: int, end: int) -> optax.GradientTransformation:
    """The optimizer in steps ``first`` to ``end`` - 1, counted from 0; before and after, parameters and it rest.

    Its schedule counts the steps that it takes.
    """

    def inside(step: Any, **_: Any) -> Array:
        return (step >= first) & (step < end)

    return optax.transforms.conditionally_mask(tx, inside)


def windowed(tx: optax.GradientTransformation, windows: Sequence[str], steps: int) -> optax.GradientTransformation:
    """The optimizer for every layer in its window of epochs of ``steps``, such as 0-11; as it is without windows.

    Raises:
        UsageError: a text that is no window, or `by_layer` of another number of layers.
    """
    if not windows:
        return tx
    layers = []
    for window, one in zip(windows, of_layers(tx, len(windows)), strict=True):
        first, _, end = window.partition("-")
        if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
            raise UsageError(
                f"layer_epochs are windows such as 0-11, from 0 and without the last epoch; got {window!r}"
            )
        layers.append(within(one, int(first) * steps, int(end) * steps))
    return by_layer(layers)


def half_then_linear(rate: float | Array, steps_per_epoch: int, epochs: int) -> optax.Schedule:
    """``rate`` for the first half of the epochs, then falling linearly from epoch to epoch to rate / epochs."""

    def schedule(count: Any) -> Array:
        epoch = jnp.minimum(count // steps_per_epoch + 1, epochs)
        return rate * jnp.where(2 * epoch <= epochs, 1.0, (1 + 2 * (epochs - epoch)) / epochs)

    return schedule


def smoothed(rate: Any, decay: float, smoothing: float) -> optax.GradientTransformation:
    """v <- smoothing v + (1 - smoothing) g, then W <- W - rate (v + decay W)."""
    averages, decays = optax.ema(smoothing, debias=False), optax.add_decayed_weights(decay)
    return optax.chain(averages, decays, optax.scale_by_learning_rate(rate))


def lifted(make: Callable[..., Any], *optimizers: optax.GradientTransformation) -> Any:
    """``make(*optimizers)``; layer by layer, where one of them is `by_layer`."""
    counts = {len(tx.layers) for tx in optimizers if isinstance(tx, ByLayer)}
    if not counts:
        return make(*optimizers)
    return by_layer([make(*one) for one in zip(*(of_layers(tx, max(counts)) for tx in optimizers), strict=True)])


def _check_count(count: int, trained: int) -> None:
    if count != trained:
        raise UsageError(
            f"by_layer has {count} optimizers, and this rule trains {trained} layers; give one for each (of a command: "
            "--layer-rates, --layer-epochs)"
        )


def of_layers(tx: optax.GradientTransformation, count: int) -> tuple[optax.GradientTransformation, ...]:
    """The optimizers of ``count`` layers that step by themselves.

    Raises:
        UsageError: `by_layer` of another number.
    """
    if not isinstance(tx, ByLayer):
        return (tx,) * count
    _check_count(len(tx.layers), count)
    return tx.layers


def begin_layers(tx: optax.GradientTransformation, layers: Sequence[Any]) -> tuple[Any, ...]:
    """The first optimizer state of every layer, for rules whose layers step by themselves; errors as of `begin`."""
    return tuple(begin(one, layer) for one, layer in zip(of_layers(tx, len(layers)), layers, strict=True))


def descend_layers(
    tx: optax.GradientTransformation,
    grads: Sequence[Any],
    opt_states: Sequence[Any],
    params: Sequence[Any],
    values: Iterable[Any],
    objective: Callable[[int, Any], Array] | None = None,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """One step of every layer that has gradients; the others are handed on.

    ``values``: a loss for each layer that steps, in order. ``objective(i, params_i)`` is the loss of the i-th layer,
    from 0, where it has one from step to step; see `updates`.
    """
    losses, stepped = iter(values), []
    layers = enumerate(zip(of_layers(tx, len(params)), grads, opt_states, params, strict=True))
    for i, (one, gradient, state, layer) in layers:
        value_fn = None if objective is None else functools.partial(objective, i)
        stepped.append(
            (layer, state) if gradient is None else descend(one, gradient, state, layer, next(losses), value_fn)
        )
    new, states = zip(*stepped, strict=True)
    return new, states


def _is_optimizer(tx: Any) -> bool:
    return callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))


def _numbers(params: Any, count: int) -> Any:
    """The number of the layer, from 0, in the place of every parameter.

    Raises:
        UsageError: parameters that are not those of all layers, or another number of layers.
    """

    def numbered(tree: Any, number: int) -> Any:
        return jax.tree.map(lambda _: number, tree)

    if hasattr(params, "blocks") and hasattr(params, "_replace"):  # of an output layer
        total = len(params.blocks) + 1
        fields = {
            name: tuple(numbered(part, at) for at, part in enumerate(field))
            if type(field) is tuple
            else numbered(field, total - 1)
            for name, field in params._asdict().items()
        }
        numbers = params._replace(**fields)
    elif type(params) in (tuple, list):
        total, parts = 0, []
        for part in params:  # blocks may lie together in a tuple
            inner = part if type(part) is tuple else (part,)
            labels = tuple(numbered(one, total + at) for at, one in enumerate(inner))
            parts.append(labels if type(part) is tuple else labels[0])
            total += len(inner)
        numbers = type(params)(parts)
    else:
        raise UsageError("by_layer must be the outermost optimizer of a rule whose layers step by themselves")
    _check_count(count, total)
    return numbers


def begin(tx: optax.GradientTransformation, params: Any) -> Any:
    """The optimizer's first state for ``params``.

    Raises:
        UsageError: no optax transformation, or one that wants parameters of a form of its own.
    """
    if not _is_optimizer(tx):
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


def _is_its_state(tx: optax.GradientTransformation, opt_state: Any, params: Any) -> bool:
    """Whether a state has the form that the optimizer starts with; many take another one in silence."""
    try:
        start = jax.eval_shape(tx.init, params)
    except Exception:  # an optimizer that starts outside compiled code alone
        return True
    return jax.tree.structure(start) == jax.tree.structure(opt_state)


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
            decides by a number's value; or the state is that of another one.
    """
    if not _is_its_state(tx, opt_state, params):
        raise UsageError("opt_state is that of another optimizer; pass the state of a rule with this one")
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


def stepping(kind: type) -> Callable[[Read], Read]:
    """Let a rule's ``update`` see states of its ``kind`` alone.

    Raises:
        UsageError: anything else, such as the state of another rule; inputs of another shape than the state is for, as
            far as its arrays tell it: a convolution takes maps of every size.
    """

    def checked(update: Read) -> Read:
        @functools.wraps(update)
        def of_state(state: State, batch: Any, key: Array, **options: Any) -> Any:
            if not isinstance(state, kind):
                raise _no_state(state)
            shape = getattr(getattr(batch, "x", None), "shape", ())
            with fitting("the network", shape), _of_one_form():
                return update(state, batch, key, **options)

        return cast(Read, of_state)

    return checked


OTHER_LAYERS = "the state has another number of layers than the network; pass the state of this rule and network"


def _no_state(state: Any) -> UsageError:
    kind = type(state)
    module = "" if kind.__module__ == "builtins" else f" of {kind.__module__}"
    return UsageError(f"state is what the rule's init or update returned; got a {kind.__name__}{module}")


@contextlib.contextmanager
def _of_one_form() -> Generator[None, None, None]:
    """Says in one line that parameters and network differ in their numbers of layers, for which Python has `zip`'s."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, UsageError) or not str(error).startswith("zip()"):
            raise
        raise UsageError(OTHER_LAYERS) from error


def predicting(read: Read) -> Read:
    """Let a rule's function of (state, x) see the state as `for_prediction` gives it, and samples that it can take.

    Raises:
        UsageError: a single sample without its batch axis, no sample, or samples of another shape than the network's.
    """

    @functools.wraps(read)
    def of_state(state: State, x: Array, **options: Any) -> Any:
        if not hasattr(state, "params"):
            raise _no_state(state)
        check_samples(x)
        try:
            with fitting("the network", x.shape), _of_one_form():
                return read(for_prediction(state), x, **options)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            kind = getattr(sys.modules.get(read.__module__), "State", None)
            if kind is None or isinstance(state, kind):
                raise
            raise _no_state(state) from error

    return cast(Read, of_state)
