"""A learning rule of one's own: every layer has a readout that regresses the one-hot labels from its output.

fwdonly compare examples/my_rule.py mf bp --net mlp:64,64 --dataset digits --alignment
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fwdonly import LearningRule
from fwdonly.base import descend


class State(NamedTuple):
    params: tuple  # per layer: the block's weights and its readout
    opt_state: object


def rule(net, tx, *, num_classes, spread=0.01):  # options are those of the command: --spread 0.1
    def init(key, x):
        layers = []
        for block, k in zip(net, jax.random.split(key, len(net)), strict=True):
            weights = block.init(k, x)
            x = block.apply(weights, x)
            layers.append((weights, spread * jax.random.normal(k, (x[0].size, num_classes))))
        return State(tuple(layers), tx.init(tuple(layers)))

    def scores(params, x, between=lambda a: a):
        out = []
        for block, (weights, readout) in zip(net, params, strict=True):
            a = block.apply(weights, x)
            out.append(a.reshape(len(a), -1) @ readout)
            x = between(a)
        return out

    def loss(params, batch):
        target = jax.nn.one_hot(batch.y, num_classes)
        local = scores(params, batch.x, jax.lax.stop_gradient)  # forward only: no layer sees the loss of another
        layers = jnp.stack([jnp.mean((s - target) ** 2) for s in local])
        return layers.sum(), layers

    def grads(state, batch, key):
        (total, layers), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, batch)
        return gradients, {"loss": total, "layer_loss": layers}

    def update(state, batch, key):
        gradients, metrics = grads(state, batch, key)
        return State(*descend(tx, gradients, state.opt_state, state.params)), metrics

    return LearningRule(init, update, lambda state, x: scores(state.params, x)[-1], grads=grads)
