"""Forward gradients in float64 NumPy, from arXiv 2202.08587 and 2210.03310: tangents carried by hand. No autodiff, no
fwdonly.

A layer is a dict: ``W`` (n_in, n_out), ``b`` (n_out) and, where a loss stands on it, ``M`` (classes, n_out). A
direction is a dict of a layer's moved parts: ``W``, ``b``, ``M`` of weights; ``z`` (B, n_out), ``G`` (B, classes) of
activities.
"""

import numpy as np

from .mf import cross_entropy


def slopes(layers, x, y, directions):
    """Every sample's slope of the last layer's loss, its loss's mean and E, and what every layer is given."""
    a, da, inputs = x, np.zeros_like(x), []
    for layer, v in zip(layers, directions, strict=True):
        inputs.append(a)
        z = a @ layer["W"] + layer["b"]
        dz = da @ layer["W"] + v.get("z", 0)
        dz = dz + a @ v["W"] + v["b"] if "W" in v else dz
        a, da = np.maximum(z, 0), dz * (z > 0)
    dG = da @ layer["M"].T + v.get("G", 0)
    dG = dG + a @ v["M"].T if "M" in v else dG
    loss, E = cross_entropy(a @ layer["M"].T, y)
    return (E * len(y) * dG).sum(1), loss, E, [*inputs, a]


def estimate(layers, x, y, directions):
    """One direction's estimate for the layers of one loss, whose last one holds ``M``; what it hands on; the loss."""
    slope, loss, E, passed = slopes(layers, x, y, directions)
    gradients = []
    for a, v in zip(passed, directions, strict=False):
        if "z" in v:
            error = slope[:, None] * v["z"] / len(y)
            gradients.append({"W": a.T @ error, "b": error.sum(0)})
        else:
            gradients.append({name: slope.mean() * v[name] for name in ("W", "b")})
    if "G" in directions[-1]:
        gradients[-1]["M"] = (slope[:, None] * directions[-1]["G"]).T @ passed[-1] / len(y)
    else:
        gradients[-1]["M"] = slope.mean() * directions[-1]["M"] if "M" in directions[-1] else E.T @ passed[-1]
    return gradients, passed[-1], loss


def total_variance(P, squared_norm, distribution):
    """E|g - E[g]|^2 of (G . v) v: E v_i^4 is 3 for normal entries and 1 for signs, so (P + 2) or P, less 1."""
    return (P + {"normal": 1, "rademacher": -1}[distribution]) * squared_norm
