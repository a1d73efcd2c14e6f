"""Channel-wise competitive learning in float64 NumPy, one dense layer (arXiv 2312.12668). No autodiff, no fwdonly.

A layer is a dict: ``W`` (n_in, n_out) and ``b`` (n_out). Units form C contiguous groups of equal size.
"""

import numpy as np

from .mf import cross_entropy


def competitive_gradient(layer, a, y, C, eps=1e-4):
    """CwC's loss of one dense block (ReLU, then batch norm), dW and db (descent), and the block's output y_."""
    s = np.maximum(a @ layer["W"] + layer["b"], 0)
    deviation = np.sqrt(s.var(0) + eps)
    y_ = (s - s.mean(0)) / deviation
    size = s.shape[1] // C
    loss, E = cross_entropy((y_**2).reshape(len(a), C, size).mean(2), y)
    dy = np.repeat(E, size, axis=1) * 2 * y_ / size
    ds = (dy - dy.mean(0) - y_ * (dy * y_).mean(0)) / deviation
    dz = ds * (s > 0)
    return loss, a.T @ dz, dz.sum(0), y_
