"""The point of a local rule: a training step needs the memory of one layer, not of all of them."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from fwdonly import Batch, bp, mf, nets

WIDTH, BATCH, CLASSES = 1000, 4096, 10


def temporary_bytes(module, depth):
    """Peak temporary memory of one compiled step, beside the state and the batch. Nothing is allocated."""
    rule = module.rule(nets.mlp([WIDTH] * depth), optax.adam(1e-3), num_classes=CLASSES)
    x, y = jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float32), jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    key = jax.eval_shape(partial(jax.random.key, 0))
    state = jax.eval_shape(rule.init, key, x)
    compiled = jax.jit(rule.update, donate_argnums=0).lower(state, Batch(x, y), key).compile()
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
