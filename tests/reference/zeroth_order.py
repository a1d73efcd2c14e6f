"""SPSA and MeZO in float64 NumPy, from Spall 1992 and arXiv 2305.17333, and the subspace of past parameters.
No fwdonly.

A layer is a dict: ``W`` (n_in, n_out), ``b`` (n_out); the last one also ``M`` (classes, n_out).
"""

import numpy as np

from .mf import cross_entropy


def loss(layers, x, y):
    a = x
    for layer in layers:
        a = np.maximum(a @ layer["W"] + layer["b"], 0)
    return cross_entropy(a @ layers[-1]["M"].T, y)[0]


def moved(layers, v, step):
    return [{k: layer[k] + step * u[k] for k in layer} for layer, u in zip(layers, v, strict=True)]


def estimate(layers, x, y, directions, eps):
    """The mean over directions of the difference quotient times the direction, and the mean of all values."""
    total, values = [{k: 0.0 * a for k, a in layer.items()} for layer in layers], []
    for v in directions:
        up, down = (loss(moved(layers, v, sign * eps), x, y) for sign in (1, -1))
        values += [up, down]
        total = moved(total, v, (up - down) / (2 * eps) / len(directions))
    return total, np.mean(values)


def without_noise(g, past, share):
    """``g`` (P,) less its parts along the weak principal directions of the rows of ``past``; by an SVD."""
    _, s, Q = np.linalg.svd(past - past.mean(0), full_matrices=False)
    r = 1 + np.flatnonzero(np.cumsum(s**2) >= share * (s**2).sum() * (1 - 1e-12))[0]
    for q, spread in zip(Q[r:], s[r:], strict=True):
        g = g - q * (q @ g) if spread > 1e-9 * s[0] else g
    return g
