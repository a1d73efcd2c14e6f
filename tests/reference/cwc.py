"""Channel-wise competitive learning in float64 NumPy, one dense layer (arXiv 2312.12668). No autodiff, no fwdonly.

A layer is a dict: ``W`` (n_in, n_out), ``b`` (n_out), and of batch norm ``gamma`` and ``beta`` (n_out), 1 and 0 where
they are missing. Units form C contiguous groups of equal size.
"""

import numpy as np

from .mf import cross_entropy


def competitive_gradient(layer, a, y, C, eps=1e-4):
    """CwC's loss of one dense block (ReLU, then batch norm), gradients by name (descent), and the output."""
    s = np.maximum(a @ layer["W"] + layer["b"], 0)
    gamma, deviation = layer.get("gamma", np.ones(s.shape[1])), np.sqrt(s.var(0) + eps)
    n = (s - s.mean(0)) / deviation
    y_ = gamma * n + layer.get("beta", 0)
    size = s.shape[1] // C
    loss, E = cross_entropy((y_**2).reshape(len(a), C, size).mean(2), y)
    dy = np.repeat(E, size, axis=1) * 2 * y_ / size
    dn = gamma * dy
    ds = (dn - dn.mean(0) - n * (dn * n).mean(0)) / deviation
    dz = ds * (s > 0)
    every = {"W": a.T @ dz, "b": dz.sum(0), "gamma": (dy * n).sum(0), "beta": dy.sum(0)}
    return loss, {name: every[name] for name in layer}, y_
