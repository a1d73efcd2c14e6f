"""Multiply-accumulates of one training step, by layer and purpose, and the optimizer's traffic."""

import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from .. import nets
from ..base import Batch, Net
from ..errors import UsageError, one_line
from .programs import _bytes


class Work(NamedTuple):
    """``macs`` multiply-accumulates of one step in ``layer`` (from 1; a readout: of its inputs) for ``what``.

    Layer 0 is the whole update, where no rule says more.
    """

    layer: int
    what: str
    macs: float | int


def work(
    rule: Any, net: Net, shape: tuple[int, ...], *, num_classes: int, batch: int, **options: Any
) -> tuple[Work, ...]:
    """The products of one training step.

    A rule's module counts them itself, by a function ``work(layers, num_classes, batch, **options)`` from the sizes of
    the layers; its docstring gives the formulas. Of a module without one, and of networks with other blocks than
    `fwdonly.nets.Dense` and `Conv`, the update is counted as it is traced (`products`).

    Args:
        rule: the module of a rule, such as ``fwdonly.mf``; of `fwdonly.RULES` or any with a function ``rule``.
        net: the hidden layers.
        shape: of one input.
        num_classes: C.
        batch: samples per step.
        **options: of the rule; those that its ``work`` does not ask for change no product.

    Raises:
        UsageError: what is no module of a rule or no network, or an option or a word that it does not have.

    Example:
        >>> import fwdonly
        >>> net = fwdonly.nets.mlp([1000, 1000])
        >>> [fwdonly.measure.macs(rule, net, (784,), num_classes=10, batch=1) for rule in (fwdonly.bp, fwdonly.mf)]
        [4598000, 3628000]
    """
    nets.check_net(net)
    if hasattr(rule, "work") and nets.is_sized(net):
        known_options = _of_work(rule, options)
        counts = rule.work(nets.layer_sizes(net, shape), num_classes, batch, **known_options)
        return tuple(Work(*count) for count in counts)
    if not hasattr(rule, "rule"):
        raise UsageError(f"the products of {rule!r} are not counted; give the module of a rule, such as fwdonly.mf")
    learning_rule = rule.rule(net, optax.sgd(0.1), num_classes=num_classes, **options)
    x: Any = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    y: Any = jax.ShapeDtypeStruct((batch,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with one_line():
        state = jax.eval_shape(learning_rule.init, key, x)
        return (Work(0, "update", products(learning_rule.update, state, Batch(x, y), key)),)


def _of_work(rule: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options that ``work`` takes. A ``work`` with ``**options`` takes all of the rule's first record."""
    parameters = inspect.signature(rule.work).parameters
    records = getattr(getattr(rule, "CARD", None), "options", ())
    declared = [list(record.__annotations__) for record in records]
    for name in options:
        if not any(name in names for names in (parameters, inspect.signature(rule.rule).parameters, *declared)):
            raise UsageError(f"the rule has no option {name!r}; leave it out of the count")
    every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    names = [*parameters, *(declared[0] if every and declared else ())]
    return {name: value for name, value in options.items() if name in names}


def macs(rule: Any, net: Net, shape: tuple[int, ...], **options: Any) -> float | int:
    """The sum of `work`."""
    return sum(product.macs for product in work(rule, net, shape, **options))


def products(f: Any, *args: Any) -> int:
    """Multiply-accumulates of the products and convolutions of ``f(*args)``, as it is traced; shapes will do.

    The body of a scan counts as often as it runs, of a condition the dearer branch; what nothing reads does not count.
    Neither do factorisations and all that happens element by element. A convolution counts every window in full, also
    where it reaches over the edge.

    Raises:
        UsageError: products within a ``while_loop``, which runs nobody knows how often.
    """
    program = jax.make_jaxpr(f)(*args).jaxpr
    return _of_program(program, [True] * len(program.outvars))


def _of_program(program: Jaxpr, used: Sequence[bool]) -> int:
    """Count the equations that the used outputs need, from the last one up."""
    total = 0
    needed = {var for var, use in zip(program.outvars, used, strict=True) if use and not isinstance(var, Literal)}
    for equation in reversed(program.eqns):
        used = [var in needed for var in equation.outvars]
        if any(used) or equation.effects:
            needed |= {var for var in equation.invars if not isinstance(var, Literal)}
            total += _of_equation(equation, used)
    return total


def _of_equation(equation: Any, used: Sequence[bool]) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        ((contracted, _), _), left = params["dimension_numbers"], equation.invars[0].aval
        return equation.outvars[0].aval.size * math.prod(left.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _of_convolution(
            *(var.aval for var in (*equation.invars, *equation.outvars)), params["dimension_numbers"]
        )
    if name == "cond":
        return max(_of_program(branch.jaxpr, used) for branch in params["branches"])
    if name == "scan":
        carried = [True] * params["num_carry"]
        return params["length"] * _of_program(params["jaxpr"].jaxpr, [*carried, *used[len(carried) :]])
    inner = [value for value in params.values() if isinstance(value, ClosedJaxpr | Jaxpr)]
    programs = [value.jaxpr if isinstance(value, ClosedJaxpr) else value for value in inner]
    alike = [used if len(program.outvars) == len(used) else [True] * len(program.outvars) for program in programs]
    total = sum(_of_program(program, needed) for program, needed in zip(programs, alike, strict=True))
    if total and name == "while":
        raise UsageError("products within a while_loop cannot be counted; give the rule's module a function work")
    return total


def _of_convolution(x: Any, kernel: Any, out: Any, dimensions: Any) -> int:
    """A window per position: of the outputs, or of the inputs where a transposed convolution has fewer of them."""
    pairs = zip(dimensions.lhs_spec[2:], dimensions.out_spec[2:], strict=True)
    positions = math.prod(min(x.shape[before], out.shape[after]) for before, after in pairs)
    samples, channels = (out.shape[axis] for axis in dimensions.out_spec[:2])
    return samples * positions * channels * (kernel.size // kernel.shape[dimensions.rhs_spec[0]])


def optimizer_bytes(tx: optax.GradientTransformation, params: Any) -> int:
    """Bytes that one step of ``tx`` moves if it touches every array once: a floor under the traffic of the optimizer.

    The gradient is read, parameters and every array of the optimizer's state are read and written: in float32 12 B per
    weight for SGD, 20 with momentum, 28 for Adam (and its counter). Rules with one state per layer move the sum over
    their layers.

    Not counted: the gradient's writing, which belongs to the backward pass, and what fusion with it saves (a step fused
    into the product that makes the gradient reads none); second readings, such as clipping by the norm needs; caches.

    Args:
        tx: an optax transformation.
        params: arrays, or their shapes (`jax.ShapeDtypeStruct`).

    Example:
        >>> import jax, optax, fwdonly
        >>> fwdonly.measure.optimizer_bytes(optax.adam(1e-3), jax.ShapeDtypeStruct((1000, 1000), "float32"))
        28000008
    """
    return 3 * _bytes(params) + 2 * _bytes(jax.eval_shape(tx.init, params))
