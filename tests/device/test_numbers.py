"""Precision, memory over depth, orthonormal starts and donation on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fwdonly import Batch, Plan, UsageError, bp, fit, measure, mf, nets
from fwdonly.base import DOT
from fwdonly.foton import retraction

BOUNDS = {"float32": (0.0, 5e-5), "tf32": (5e-5, 1.5e-3), "bfloat16": (1e-3, 2e-2)}
"""Relative errors: operands of 24, 11 and 8 significant bits."""


def error(found, exact):
    return float(np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("what", ["product", "convolution"])
def test_products_and_convolutions_have_the_error_of_their_precision(what, precision, on_cpu, templates):
    rng = np.random.default_rng(0)
    if on_cpu and precision != "float32":
        with pytest.raises(UsageError, match="precision"):
            fit(mf.rule(nets.mlp([4]), optax.sgd(0.1), num_classes=4), templates, Plan(epochs=1, precision=precision))
        return
    low, high = BOUNDS[precision]
    with jax.default_matmul_precision(DOT[precision]):
        if what == "product":
            a, b = rng.standard_normal((2, 256, 256)).astype(np.float32)
            found, exact = jax.jit(jnp.matmul)(a, b), a.astype(np.float64) @ b
        else:
            block = nets.Conv(16, activation=nets.identity, pool="none", bias="none")
            x = rng.standard_normal((8, 16, 16, 16)).astype(np.float32)
            params = block.init(jax.random.key(0), x)
            found = jax.jit(block.apply)(params, x)
            kernel = np.asarray(params["params"]["Conv_0"]["kernel"], np.float64)
            padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
            shifts = [(i, j) for i in range(3) for j in range(3)]
            exact = sum(padded[:, i : i + 16, j : j + 16] @ kernel[i, j] for i, j in shifts)
    if what == "convolution" and precision == "tf32":
        low = 0.0  # allowed and not enforced: on an H200 XLA computed this small one in float32
    assert low <= error(found, exact) < high


def temporary(module, depth, width, batch):
    rule = module.rule(nets.mlp([width] * depth), optax.sgd(0.1), num_classes=10)
    return measure.memory(measure.compile_step(rule, (width,), batch).compiled).value


def test_mf_needs_no_more_memory_for_more_layers_and_bp_does(on_cpu):
    """By the compiler's account: state and batch aside, MF holds one layer's activities, BP all."""
    width, batch = (64, 1024) if on_cpu else (512, 8192)
    activity = width * batch * 4

    def grown(module):
        state = 2 * (12 - 3) * width * width * 4  # that a step may hold twice
        return temporary(module, 12, width, batch) - temporary(module, 3, width, batch) - state

    assert grown(mf) < 2 * activity
    assert grown(bp) > 7 * activity, "the control"


def test_foton_starts_orthonormal_and_its_retraction_keeps_it():
    block = nets.Dense(32, kernel_init=nets.orthogonal, bias="none")
    W = jax.jit(block.init)(jax.random.key(0), jnp.ones((1, 64)))["params"]["Dense_0"]["kernel"]
    gap = lambda W: float(np.abs(np.asarray(W, np.float64).T @ np.asarray(W, np.float64) - np.eye(32)).max())
    assert gap(W) < 1e-5
    tx = optax.chain(optax.sgd(0.01), retraction(iterations=4))
    gradient = jax.random.normal(jax.random.key(1), W.shape)
    updates, _ = jax.jit(tx.update)({"kernel": gradient}, tx.init({"kernel": W}), {"kernel": W})
    assert gap(W + updates["kernel"]) < 1e-4
    assert gap(W - 0.01 * gradient) > 0.01, "the control: the step alone leaves the orthonormal matrices"


def test_a_donated_state_gives_the_same_steps():
    rule = mf.rule(nets.mlp([8, 4]), optax.adam(0.1), num_classes=3)
    rng = np.random.default_rng(0)
    batch = Batch(jnp.asarray(rng.normal(size=(6, 5)), jnp.float32), jnp.asarray([0, 1, 2, 0, 1, 2]))
    key = jax.random.key(0)
    donating, keeping = jax.jit(rule.update, donate_argnums=0), jax.jit(rule.update)
    one = other = rule.init(key, batch.x)
    one = jax.tree.map(jnp.copy, one)
    for _ in range(5):
        one, other = donating(one, batch, key)[0], keeping(other, batch, key)[0]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.array_equal(a, b)
