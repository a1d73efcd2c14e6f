"""What one training step computes, from the shapes alone: multiply-accumulates by layer and purpose.

Matrix products and convolutions only; biases, activations, normalisation and the optimizer's element-wise pass over the
weights are left out. A multiply-accumulate is two floating-point operations. The counts are those of this library's
programs, checked against the compiler's own (`tests/test_cost.py`).
"""

import math
from typing import Any, NamedTuple

import jax

from . import feedback, foton, nets
from .base import Net, UsageError


class Work(NamedTuple):
    """``macs`` multiply-accumulates of one step in ``layer`` (from 1; a readout: of its inputs) for ``what``."""

    layer: int
    what: str
    macs: float | int


_Counted = list[tuple[int, str, float | int]]


class _Layer(NamedTuple):
    """Of one block: multiply-accumulates per sample, its matrix (rows, columns), outputs before and after pooling."""

    macs: int
    matrix: tuple[int, int]
    h: int
    n: int


def work(
    rule: str, net: Net, shape: tuple[int, ...], *, num_classes: int, batch: int, **options: Any
) -> tuple[Work, ...]:
    """The products of one training step.

    Per sample, with F_l for the product of layer l (n_{l-1} n_l where it is dense) and C classes:

    * bp: F_l forward, F_l for the weights, F_l for the input but in layer 1; three products of the output layer.
    * mf: F_l forward, F_l for the weights, three products with M_l. ``layer=i``: layers below i forward only.
    * ff: three passes forward and two for the weights; two products with U_l from layer ``first`` on.
    * pepita, foton: two passes, of which the second takes C rows, once per batch, through layer 1; F_l for the weights.
      FOTON adds, per step and not per sample, the retraction, the product of the weights and the probe of
      orthogonality.
    * feedback: as bp, or C n_l in the place of F_l on the way back (dfa, sdfa, drtp).

    Args:
        rule: a name of `fwdonly.RULES` that is listed above.
        net: the hidden layers.
        shape: of one input.
        num_classes: C.
        batch: samples per step.
        **options: of the rule that change its products: ``layer`` (mf), ``first`` (ff), ``presynaptic`` and
            ``output_error`` (pepita), ``presynaptic``, ``feedback_every``, ``retract_every`` and ``retract_iterations``
            (foton; means over steps), ``mode`` (feedback).

    Raises:
        UsageError: a rule whose products are not counted here.

    Example:
        >>> import fwdonly
        >>> net = fwdonly.nets.mlp([1000, 1000])
        >>> [fwdonly.cost.macs(rule, net, (784,), num_classes=10, batch=1) for rule in ("bp", "mf")]
        [4598000, 3628000]
    """
    layers = _layers(net, shape)
    counts = {"bp": _bp, "mf": _mf, "ff": _ff, "pepita": _pepita, "foton": _foton, "feedback": _feedback}
    if rule not in counts:
        raise UsageError(f"the products of {rule!r} are not counted; choose one of {', '.join(counts)}")
    return tuple(Work(*each) for each in counts[rule](layers, math.prod(shape), num_classes, batch, **options))


def macs(rule: str, net: Net, shape: tuple[int, ...], **options: Any) -> float | int:
    """The sum of `work`."""
    return sum(each.macs for each in work(rule, net, shape, **options))


def _bp(layers: list[_Layer], inputs: int, C: int, B: int) -> _Counted:
    found: _Counted = []
    for i, own in enumerate(layers, start=1):
        found += [(i, "forward", B * own.macs), (i, "weight gradient", B * own.macs)]
        found += [(i, "input gradient", B * own.macs)] if i > 1 else []
    L, out = len(layers), B * C * layers[-1].n
    return [*found, (L, "output layer", 3 * out)]


def _mf(layers: list[_Layer], inputs: int, C: int, B: int, *, layer: int | None = None) -> _Counted:
    found: _Counted = []
    for i, own in enumerate(layers[:layer], start=1):
        found.append((i, "forward", B * own.macs))
        if layer in (None, i):
            found += [(i, "weight gradient", B * own.macs), (i, "readout", 3 * B * C * own.n)]
    return found


def _ff(layers: list[_Layer], inputs: int, C: int, B: int, *, first: int = 2) -> _Counted:
    found: _Counted = []
    for i, own in enumerate(layers, start=1):
        found += [(i, "forward", 3 * B * own.macs), (i, "weight gradient", 2 * B * own.macs)]
        found += [(i, "readout", 2 * B * C * own.n)] if i >= min(first, len(layers)) else []
    return found


def _pepita(
    layers: list[_Layer],
    inputs: int,
    C: int,
    B: int,
    *,
    presynaptic: str = "modulated",
    output_error: str = "second",
) -> _Counted:
    found: _Counted = [(1, "second pass", C * layers[0].macs + B * C * layers[0].h)]  # F^T W_1, and e times it
    found += [(1, "modulated input", B * C * inputs)] if presynaptic == "modulated" else []
    for i, own in enumerate(layers, start=1):
        found += [(i, "forward", B * own.macs), (i, "weight gradient", B * own.macs)]
        found += [(i, "second pass", B * own.macs)] if i > 1 else []
    out = B * C * layers[-1].n
    return [*found, (len(layers), "output layer", (3 if output_error == "second" else 2) * out)]


def _foton(
    layers: list[_Layer],
    inputs: int,
    C: int,
    B: int,
    *,
    presynaptic: str = "clean",
    feedback_every: int = 1,
    retract_every: int = 1,
    retract_iterations: int | None = None,
) -> _Counted:
    found = _pepita(layers, inputs, C, B, presynaptic=presynaptic, output_error="first")
    found += [(i, "feedback", C * own.macs / feedback_every) for i, own in enumerate(layers, start=1)]
    iterations = foton.default_iterations(retract_iterations, retract_every)
    matrices = [own.matrix for own in layers] + [(layers[-1].n, C)]
    for i, sides in enumerate(matrices, start=1):
        m, n = sorted(sides)
        # In every iteration W^T W and W R, and for R E^2, E^3 and one product more; the power method has vectors.
        square = iterations * (2 * n * m * m + 3 * m**3) + (foton.POWER_ITERATIONS + 1) * m * m
        found += [(min(i, len(layers)), "retraction", square / retract_every)]
        found += [(min(i, len(layers)), "orthogonality error", 2 * n * m)]
    return found


def _feedback(layers: list[_Layer], inputs: int, C: int, B: int, *, mode: str = "fa") -> _Counted:
    direct = mode in feedback.DIRECT
    found: _Counted = []
    for i, own in enumerate(layers, start=1):
        found += [(i, "forward", B * own.macs), (i, "weight gradient", B * own.macs)]
        found += [(i, "direct feedback", B * C * own.h)] if direct else []
        found += [(i, "input gradient", B * own.macs)] if i > 1 and not direct else []
    out = B * C * layers[-1].n
    return [*found, (len(layers), "output layer", (2 if direct else 3) * out)]


def _layers(net: Net, shape: tuple[int, ...]) -> list[_Layer]:
    found, a = [], jax.ShapeDtypeStruct((1, *shape), float)
    nets.check_parts(net)
    for block in net:
        own = jax.eval_shape(block.init, jax.random.key(0), a)
        kernel = _kernel(own)
        h = jax.eval_shape(nets.linear(block).apply, own, a)
        matrix = (math.prod(kernel.shape[:-1]), kernel.shape[-1])
        positions = h.size // kernel.shape[-1]
        after = jax.eval_shape(block.apply, own, a)
        found.append(_Layer(matrix[0] * matrix[1] * positions, matrix, h.size, after.size))
        a = after
    return found


def _kernel(own: Any) -> Any:
    return next(leaf for leaf in jax.tree.leaves(own) if leaf.ndim > 1)
