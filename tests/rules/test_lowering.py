"""Every rule's step as it is handed to the compiler of an NVIDIA GPU, from a CPU: for ten seeds at once, no host in it.

A custom call is code that the compiler does not see into. None is expected in a step; a start value may need one.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fwdonly
from fwdonly import Batch, nets

pytestmark = pytest.mark.filterwarnings("ignore::fwdonly.foton.ExpansionWarning")

SEEDS, CLASSES = 10, 3
NETS = {"mlp": lambda: nets.mlp([9, 6]), "cnn": lambda: nets.cnn([3, 6])}
FACTORISATIONS = {"cusolver_geqrf_ffi", "cusolver_orgqr_ffi", "cusolver_gesvdj_ffi", "cusolver_gesvd_ffi"}
"""QR and SVD by cuSOLVER, in FOTON's start values. No other custom call is allowed, and none in a step."""
HOST = re.compile(r"\w*(?:callback|infeed|outfeed)\w*")
"""Operations of JAX that go to the host."""


def host_calls(f, *args):
    """Names of operations in ``f`` that go to the host; JAX refuses to lower them for a platform that is not here."""
    return set(HOST.findall(str(jax.jit(f).trace(*args).jaxpr)))


def custom_calls(f, *args):
    """Targets of the custom calls in ``f``'s program for CUDA."""
    text = jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    words = re.findall(r"custom_call @(\w+)", text) + re.findall(r'call_target_name = "(\w+)"', text)
    words += re.findall(r"stablehlo\.(infeed|outfeed|send|recv)\b", text)
    return set(words) - {"Sharding"}


def shapes(rule):
    """Keys, states and one batch for every seed alike, as shapes."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), SEEDS))
    x, y = jax.ShapeDtypeStruct((6, 8, 8, 1), jnp.float32), jax.ShapeDtypeStruct((6,), jnp.int32)
    states = jax.eval_shape(jax.vmap(rule.init, (0, None)), keys, x)
    return keys, states, Batch(x, y)


def build(name, net):
    return fwdonly.RULES[name].rule(NETS[net](), optax.adam(0.01), num_classes=CLASSES)


def step_of(rule):
    return jax.vmap(lambda state, key, batch: rule.update(state, batch, key), (0, 0, None))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", fwdonly.RULES)
def test_a_step_of_ten_seeds_lowers_for_cuda_without_the_host(name, net):
    rule = build(name, net)
    keys, states, batch = shapes(rule)
    assert not host_calls(step_of(rule), states, keys, batch)
    assert not custom_calls(step_of(rule), states, keys, batch)


@pytest.mark.parametrize("name", fwdonly.RULES)
def test_start_values_and_predictions_lower_for_cuda_without_the_host(name):
    rule = build(name, "mlp")
    keys, states, batch = shapes(rule)
    start, predict = (jax.vmap(f, (0, None)) for f in (rule.init, rule.predict))
    assert not host_calls(start, keys, batch.x) | host_calls(predict, states, batch.x)
    calls = custom_calls(start, keys, batch.x)
    assert calls <= FACTORISATIONS and bool(calls) == (name == "foton"), calls
    assert not custom_calls(predict, states, batch.x)


def planted(call):
    """A step of MF that does something to its loss, and its arguments."""
    rule = build("mf", "mlp")

    def update(state, key, batch):
        state, metrics = rule.update(state, batch, key)
        return state, call(metrics["loss"])

    keys, states, batch = shapes(rule)
    return jax.vmap(update, (0, 0, None)), states, keys, batch


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda a: (jax.debug.callback(print, a), a)[1], "debug_callback"),
        (lambda a: jax.pure_callback(np.asarray, a, a, vmap_method="sequential"), "pure_callback"),
    ],
    ids=["debug", "pure"],
)
def test_control_a_callback_in_a_step_is_seen(call, name):
    step = planted(call)
    assert name in host_calls(*step)
    with pytest.raises(ValueError, match="lowering platform cuda"):
        custom_calls(*step)


def test_control_a_factorisation_in_a_step_is_seen():
    calls = custom_calls(*planted(lambda a: jnp.linalg.qr(jnp.full((3, 2), a))[0].sum()))
    assert calls and calls <= FACTORISATIONS
