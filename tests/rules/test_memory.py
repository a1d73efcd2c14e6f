"""The point of a local rule: a training step needs the memory of one layer, not of all of them; and how it is read."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
import pytest

from fwdonly import Batch, bp, measure, mf, nets

pytestmark = pytest.mark.usefixtures("users_compilation")
WIDTH, BATCH, CLASSES = 1000, 4096, 10


def temporary_bytes(module, depth, inputs=WIDTH, **form):
    """Peak temporary memory of one compiled step, beside the state and the batch. Nothing is allocated."""
    rule = module.rule(nets.mlp([WIDTH] * depth), optax.adam(1e-3), num_classes=CLASSES, **form)
    compiled = measure.compile_step(rule, (inputs,), BATCH).compiled
    return compiled.memory_analysis().temp_size_in_bytes


def test_control_bp_keeps_every_activation():
    assert temporary_bytes(bp, 5) >= 5 * BATCH * WIDTH * 4


def test_mf_needs_less_memory_than_bp_and_no_more_for_more_layers(monkeypatch):
    five, twenty = (temporary_bytes(mf, depth) / temporary_bytes(bp, depth) for depth in (5, 20))
    assert five <= 0.7
    assert twenty <= 0.2
    # The control: without `base.after` the compiler runs all forward passes first and keeps every activation.
    monkeypatch.setattr("fwdonly.mf.after", lambda a, done: a)
    assert temporary_bytes(mf, 5) / temporary_bytes(bp, 5) > 0.7


def test_bp_in_chunks_keeps_fewer_activations_than_mf_but_all_of_its_gradient():
    """comparators.md 1, the prediction: 784-1000x20, batch 4096, 16 chunks; numbers: docs/method/measuring.md."""
    chunks, local = temporary_bytes(bp, 20, 784, chunks=16), temporary_bytes(mf, 20, 784)
    gradient = 4 * (784 * WIDTH + 19 * WIDTH**2 + 20 * WIDTH + WIDTH * CLASSES + CLASSES)
    assert chunks - gradient < local - 4 * (WIDTH**2 + WIDTH + WIDTH * CLASSES + CLASSES) < local < chunks
    assert temporary_bytes(bp, 20, 784) > 10 * local


@pytest.mark.parametrize(("donated", "matrices"), [((), 5), ((0,), 4)])
def test_a_product_of_three_holds_them_the_result_and_what_is_between(donated, matrices):
    a = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    compiled = jax.jit(lambda x, a, b: (x @ a) @ b, donate_argnums=donated).lower(a, a, a).compile()
    found = measure.memory(compiled)
    assert found.value == matrices * 256 * 256 * 4  # one fewer where the result takes the place of x
    assert (found.unit, found.status, found.source) == ("B", "estimated", "xla_buffer_assignment")


def test_a_gradient_step_holds_what_the_sheet_says():
    # measurement.md 10: 784-2000-2000-10, batch 128: 48.2 MB, and 42.9 MB where the state is donated.
    rule = bp.rule(nets.mlp([2000, 2000]), optax.sgd(0.1), num_classes=10)
    step = measure.compile_step(rule, (784,), 128)
    batch = Batch(jax.ShapeDtypeStruct((128, 784), jnp.float32), jax.ShapeDtypeStruct((128,), jnp.int32))
    kept = jax.jit(rule.update).lower(step.state_shape, batch, jax.random.key(0)).compile()
    assert abs(measure.memory(kept).value / 48.2e6 - 1) < 0.02
    assert abs(measure.memory(step.compiled).value / 42.9e6 - 1) < 0.02


def test_memory_that_the_compiler_does_not_tell_is_unavailable(monkeypatch):
    compiled = jax.jit(jnp.sin).lower(jnp.ones(3)).compile()
    assert measure.memory(compiled).value is not None
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    assert measure.memory(compiled).status == "unavailable"


def test_the_allocators_peak_is_read_and_not_what_is_in_use_now():
    stats = {"bytes_in_use": 5, "peak_bytes_in_use": 123, "bytes_limit": 1000}
    found = measure.device_peak(SimpleNamespace(platform="gpu", memory_stats=lambda: stats))
    assert (found.value, found.unit, found.status, found.source) == (123, "B", "measured", "xla_allocator")


def test_a_device_without_statistics_has_no_peak_and_not_0():
    found = [measure.device_peak()]  # the CPU's
    found += [measure.device_peak(SimpleNamespace(platform="gpu", memory_stats=lambda s=s: s)) for s in (None, {})]
    for quantity in found:
        assert quantity.value is None and quantity.status == "unavailable" and quantity.reason
