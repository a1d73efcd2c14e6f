"""What tests share: how two trees are compared, random values, parameters as `reference` has them, a small data set."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fwdonly import bp, data, nets

jit = partial(  # compiling takes most of the time
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


def near(got, want, tolerance=1e-10):
    """Two trees alike, every leaf within ``tolerance`` in units of its largest entry (at least 1e-3)."""
    got, want = jax.tree.map(np.asarray, (got, want))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape
        scale = max(np.abs(b).max(), 1e-3)
        np.testing.assert_allclose(a / scale, b / scale, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))


def backpropagated(params, batch, net):
    """BP's gradient and metrics at parameters of another rule, shaped like them."""
    gradients, metrics = bp.grads(bp.Params(*params), batch, jax.random.key(0), net=net)
    return nets.output.Params(*gradients[:3]), metrics


def differ(one, other, by=1e-6):
    """True where some leaf differs by more than ``by``."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any(np.abs(np.asarray(a) - np.asarray(b)).max() > by for a, b in pairs)


def drawn(tree, seed=1, scale=0.4):
    """Random float64 values in the shapes of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(scale * rng.normal(size=a.shape)), tree)


def weights(block):
    """W and, where there is one, b of a Flax block; nothing of a block without parameters."""
    own = next(iter(block.get("params", {}).values()), {})
    return {name: np.asarray(own[of]) for name, of in (("W", "kernel"), ("b", "bias")) if of in own}


def layers_of(params):
    """Parameters, or gradients, of BP's shape as the restatements write them."""
    output = {"W": np.asarray(params.W)} | ({} if params.b is None else {"b": np.asarray(params.b)})
    return [*map(weights, params.blocks), output]


def template_images():
    """Noisy class templates: 200 training and 60 test images of 6x6, four classes."""
    rng = np.random.default_rng(0)
    templates = rng.integers(0, 160, (4, 6, 6, 1))
    y = np.tile(np.arange(4, dtype=np.int32), 65)
    x = (templates[y] + rng.integers(0, 96, (260, 6, 6, 1))).astype(np.uint8)
    return data.Dataset("tiny", "made here", x[:200], y[:200], x[200:], y[200:], 4)
