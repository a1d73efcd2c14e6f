"""What the compiler and the device say of a training step: seconds of compiling, operations, memory."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..base import Batch, LearningRule, State
from ..errors import UsageError, one_line
from .quantity import Quantity, unavailable


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Step(NamedTuple):
    """A training step, compiled ahead of time: ``compiled(state, batch, key)`` gives (state, metrics).

    ``state_shape`` is that of the state it takes, whose buffers it reuses; ``seconds`` went into tracing and compiling.
    """

    compiled: jax.stages.Compiled
    state_shape: State
    seconds: Quantity


def compile_step(rule: LearningRule, shape: tuple[int, ...], batch: int, *, kept: bool = False) -> Step:
    """``rule.update`` for batches of one shape, with donated state. Nothing runs, and no weight is allocated.

    The seconds are of this process: a persistent compilation cache, or an earlier trace of the same rule, makes them
    fewer.

    Args:
        rule: with its options bound.
        shape: of one input, float32; labels are int32.
        batch: samples per step.
        kept: the step on features that the loop has kept, ``rule.frozen.update``.

    Raises:
        UsageError: inputs the network cannot take, or ``kept`` where the rule has nothing frozen.

    Example:
        >>> import optax, fwdonly
        >>> rule = fwdonly.mf.rule(fwdonly.nets.mlp([8]), optax.sgd(0.1), num_classes=3)
        >>> step = fwdonly.measure.compile_step(rule, (4,), 5)
        >>> fwdonly.measure.memory(step.compiled).unit, fwdonly.measure.flops(step.compiled).unit, step.seconds.unit
        ('B', 'FLOP', 's')
    """
    x: Any = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    y: Any = jax.ShapeDtypeStruct((batch,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with one_line():
        state, update = jax.eval_shape(rule.init, key, x), rule.update
        if kept:
            if rule.frozen is None:
                raise UsageError("this rule has no frozen layers whose features could be kept; leave kept out")
            x, update = jax.eval_shape(rule.frozen.features, state, x), rule.frozen.update
        start = time.perf_counter()
        compiled = jax.jit(update, donate_argnums=0).lower(state, Batch(x, y), key).compile()
        return Step(compiled, state, Quantity(time.perf_counter() - start, "s", "measured", "perf_counter"))


def flops(compiled: jax.stages.Compiled) -> Quantity:
    """The compiler's own count of floating-point operations, element-wise ones included; a check on `work`, no more.

    The bodies of ``lax.scan``, ``map`` and ``while_loop`` count once, however often they run, and of a ``cond`` one
    branch. Library calls (factorisations; on a GPU matrix products, too) hardly count at all.
    """
    analysis = compiled.cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list | tuple) and analysis else analysis  # as older jax has it
    value = analysis.get("flops") if isinstance(analysis, dict) else None
    if value is None or not value >= 0:
        return unavailable("FLOP", "the compiler gives no count of operations for this program")
    return Quantity(value, "FLOP", "estimated", "xla_cost_analysis")


def memory(compiled: jax.stages.Compiled) -> Quantity:
    """The buffers of a compiled program: arguments + outputs - outputs that reuse arguments + temporaries, in bytes.

    Known without running. Constants and code are not in it. Compare programs of equal boundary and donation: these
    decide what is a temporary, what an output. (The compiler's ``peak_memory_in_bytes`` has no temporaries on a CPU.)
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        return unavailable("B", "the compiler gives no buffer sizes for this program")
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return Quantity(held + analysis.temp_size_in_bytes, "B", "estimated", "xla_buffer_assignment")


def device_peak(device: Any = None) -> Quantity:
    """The most bytes that the device's allocator has ever had in use, of everything in this process.

    It never falls and cannot be reset: **measure one cell per process**. Compiling may set it, where kernels are tuned
    by trying; fill a persistent compilation cache in an earlier process.

    Args:
        device: default the first of `jax.devices`.
    """
    device = jax.devices()[0] if device is None else device
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    if peak is None:
        return unavailable("B", f"the allocator of {device.platform} keeps no statistics")
    return Quantity(peak, "B", "measured", "xla_allocator")
