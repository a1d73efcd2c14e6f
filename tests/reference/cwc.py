"""Channel-wise competitive learning in float64 NumPy, one dense layer (arXiv 2312.12668). No autodiff, no fwdonly.

A layer is a dict: ``W`` (n_in, n_out), ``b`` (n_out), and of batch norm ``gamma`` and ``beta`` (n_out), 1 and 0 where
they are missing. Units form C contiguous groups of equal size.
"""

import numpy as np

from .mf import cross_entropy


def goodness_loss(G, y, loss):
    """The loss, and its slope by G (B, C): "ce", "pvn" with the threshold 2, or "cwg", 0.28 and 0.72 of them."""
    ce, E = cross_entropy(G, y)
    if loss == "ce":
        return ce, E
    B, C = G.shape
    true = np.eye(C)[y]
    g_pos, g_neg = (G * true).sum(1), (G * (1 - true)).sum(1) / (C - 1)
    value = np.concatenate([np.logaddexp(0, 2 - g_pos), np.logaddexp(0, g_neg - 2)]).mean()
    up, down = 1 / (1 + np.exp(g_pos - 2)), 1 / (1 + np.exp(2 - g_neg))
    slope = (-up[:, None] * true + down[:, None] * (1 - true) / (C - 1)) / (2 * B)
    return (value, slope) if loss == "pvn" else (0.28 * ce + 0.72 * value, 0.28 * E + 0.72 * slope)


def competitive_gradient(layer, a, y, C, eps=1e-4, loss="ce"):
    """CwC's loss of one dense block (ReLU, then batch norm), gradients by name (descent), and the output."""
    s = np.maximum(a @ layer["W"] + layer["b"], 0)
    gamma, deviation = layer.get("gamma", np.ones(s.shape[1])), np.sqrt(s.var(0) + eps)
    n = (s - s.mean(0)) / deviation
    y_ = gamma * n + layer.get("beta", 0)
    size = s.shape[1] // C
    value, E = goodness_loss((y_**2).reshape(len(a), C, size).mean(2), y, loss)
    dy = np.repeat(E, size, axis=1) * 2 * y_ / size
    dn = gamma * dy
    ds = (dn - dn.mean(0) - n * (dn * n).mean(0)) / deviation
    dz = ds * (s > 0)
    every = {"W": a.T @ dz, "b": dz.sum(0), "gamma": (dy * n).sum(0), "beta": dy.sum(0)}
    return value, {name: every[name] for name in layer}, y_
