"""DeeperForward in float64 NumPy, from the reference sheet's equations (ICLR 2025). No autodiff, no fwdonly.

A layer is a dict: ``W`` (n_in, n_out), or (3, 3, in, out) for a convolution of stride 1, and perhaps ``b`` (n_out);
``pool`` is True where 2x2 means follow. Channels form C contiguous groups of equal size.
"""

import numpy as np

from .mf import cross_entropy, patches, pool

EPS = 1e-5


def standard(x):
    """Every sample with mean 0 and variance 1 over all of its values: layer norm without a scale."""
    rows = x.reshape(len(x), -1)
    return ((rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + EPS)).reshape(x.shape)


def by_group(y, C, function):
    """``function`` of every group's channels, one group after the other."""
    size = y.shape[-1] // C
    return [function(y[..., c * size : (c + 1) * size]) for c in range(C)]


def goodness(y, C):
    """G (B, C): the mean of every group."""
    return np.stack(by_group(y, C, lambda part: part.reshape(len(y), -1).mean(1)), axis=1)


def layer_gradient(layer, a, y, C):
    """Loss, gradients by name (descent), G, and the output before normalisation."""
    if layer["W"].ndim == 4:
        rows = patches(a)
        W = layer["W"].reshape(-1, layer["W"].shape[-1])
    else:
        rows, W = a.reshape(len(a), -1), layer["W"]
    z = rows @ W + layer.get("b", 0)
    s = np.maximum(z, 0)
    G = goodness(s, C)
    loss, E = cross_entropy(G, y)
    values = s[0].size // C  # of a group, per sample
    slope = np.repeat(E / values, s.shape[-1] // C, axis=1)
    dz = slope.reshape(len(a), *[1] * (s.ndim - 2), -1) * (z > 0)
    flat_rows, flat_dz = rows.reshape(-1, rows.shape[-1]), dz.reshape(-1, dz.shape[-1])
    gradient = {"W": (flat_rows.T @ flat_dz).reshape(layer["W"].shape)}
    if "b" in layer:
        gradient["b"] = flat_dz.sum(0)
    return loss, gradient, G, s


def step(layers, x, y, C, words):
    """Losses, gradients, goodness and outputs of all layers; ``words`` says how layers 3.. are joined, one by one."""
    outputs, losses, gradients, scores = [standard(x)], [], [], []
    for i, layer in enumerate(layers, start=1):
        loss, gradient, G, s = layer_gradient(layer, outputs[-1], y, C)
        n = np.concatenate(by_group(s, C, standard), axis=-1)
        n = pool(n) if layer.get("pool") else n
        word = words[i - 3] if i > 2 and words else "none"
        if word != "none":
            below = outputs[i - 2]
            below = pool(below) if n.ndim == 4 and below.shape[1] == 2 * n.shape[1] else below
            n = n + below if word == "add" else np.concatenate([n, below], axis=-1)
        outputs.append(n)
        losses.append(loss)
        gradients.append(gradient)
        scores.append(G)
    return losses, gradients, scores, outputs[1:]
