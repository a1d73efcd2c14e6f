"""SCFF in float64 NumPy, from the equations of its public code (arXiv 2409.11593). No autodiff, no fwdonly.

A layer is a dict: ``W`` (n_in, n_out), or (k, k, in, out) for a convolution of stride 1, ``b`` (n_out), ``pad``
("reflect", "same" for zeros, "valid"), ``pool`` ("max4", "average", "none"), ``carried`` and ``triangle`` (booleans),
``above``, ``below`` (thresholds) and ``penalty``. Both halves of a pair go through the weights one after the other.
"""

import numpy as np

from .mf import cross_entropy, pool


def standard(*parts):
    """All values of a sample's parts with mean 0 and the unbiased standard deviation 1."""
    values = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    mean, sd = values.mean(1), values.std(1, ddof=1)
    shape = (-1,) + (1,) * (parts[0].ndim - 1)
    return [(part - mean.reshape(shape)) / (1e-10 + sd.reshape(shape)) for part in parts]


def edged(layer, x):
    """The input with its edge."""
    if layer["W"].ndim == 2:
        return x.reshape(len(x), -1)
    reach = layer["W"].shape[0] // 2
    width = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    return {"valid": lambda: x, "same": lambda: np.pad(x, width), "reflect": lambda: np.pad(x, width, "reflect")}[
        layer["pad"]
    ]()


def rows(layer, x):
    """What W multiplies at every position of an input with its edge."""
    if layer["W"].ndim == 2:
        return x
    k = layer["W"].shape[0]
    height, width = (size - k + 1 for size in x.shape[1:3])
    return np.concatenate([x[:, i : i + height, j : j + width] for i in range(k) for j in range(k)], axis=-1)


def through(layer, parts):
    """h: the sum over the parts of what the layer makes of each."""
    W = layer["W"].reshape(-1, layer["W"].shape[-1])
    return sum(rows(layer, part) @ W + layer["b"] for part in parts)


def weight_gradient(layer, parts, dh):
    flat = dh.reshape(-1, dh.shape[-1])
    dW = sum(rows(layer, part).reshape(len(flat), -1).T @ flat for part in parts)
    return {"W": dW.reshape(layer["W"].shape), "b": len(parts) * flat.sum(0)}


def maxima(x):
    """4x4 windows two apart, one row and column over the edge."""
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    height, width = (size // 2 for size in x.shape[1:3])
    windows = [wide[:, i : i + 2 * height : 2, j : j + 2 * width : 2] for i in range(4) for j in range(4)]
    return np.stack(windows).max(0)


def handed_on(layer, h):
    y = np.maximum(h - h.mean(-1, keepdims=True) if layer["triangle"] else h, 0)
    return {"max4": maxima, "average": pool, "none": lambda a: a}[layer.get("pool", "none")](y)


def local(layer, positive, negative):
    """Loss, gradients, h+ and h-; ``positive`` and ``negative`` are lists of parts, the latter may be None."""
    h = through(layer, positive)
    on = np.maximum(h, 0)
    G = (on**2).mean(-1).reshape(len(h), -1)
    length = np.sqrt((G**2).sum(1))
    loss = np.logaddexp(0, layer["above"] - G).mean() + layer["penalty"] * length.mean()
    dG = -1 / (1 + np.exp(G - layer["above"])) / G.size
    dG = dG + layer["penalty"] * G / length[:, None] / len(h)
    gradient = weight_gradient(layer, positive, dG.reshape(*h.shape[:-1], 1) * 2 * on / h.shape[-1])
    if negative is None:
        return loss, gradient, h, None
    h_neg = through(layer, negative)
    on = np.maximum(h_neg, 0)
    G = (on**2).mean(-1).reshape(len(h), -1)
    loss = loss + np.logaddexp(0, G - layer["below"]).mean()
    dG = 1 / (1 + np.exp(layer["below"] - G)) / G.size
    other = weight_gradient(layer, negative, dG.reshape(*h.shape[:-1], 1) * 2 * on / h.shape[-1])
    return loss, {name: gradient[name] + other[name] for name in gradient}, h, h_neg


def layer_step(layer, y, y_neg, shift):
    """Of one layer, for y and what is carried of negatives: loss, gradients, the next y and what is carried on.

    ``shift`` is ignored where the layer's negatives are carried; None: there are none.
    """
    x = edged(layer, standard(y)[0])
    if layer["carried"]:
        positive = standard(x)
        negative = None if y_neg is None else standard(edged(layer, standard(y_neg)[0]))
    else:
        positive = standard(x, x)
        negative = None if shift is None else standard(x, np.roll(x, -shift, axis=0))
    loss, gradient, h, h_neg = local(layer, positive, negative)
    return loss, gradient, handed_on(layer, h), None if h_neg is None else handed_on(layer, h_neg)


def windows(a, p):
    """Means of p x p windows, where p divides the sides; maps of p rows and columns or fewer as they are."""
    if a.ndim == 4 and a.shape[1] > p:
        size = a.shape[1] // p
        a = a.reshape(len(a), p, size, p, size, -1).mean((2, 4))
    return a.reshape(len(a), -1)


def readout(W, b, outputs, pools, y):
    """Loss, gradients, features and scores of the linear readout."""
    F = np.concatenate([standard(windows(a, p))[0] for a, p in zip(outputs, pools, strict=True)], axis=1)
    scores = F @ W + b
    loss, E = cross_entropy(scores, y)
    return loss, {"W": F.T @ E, "b": E.sum(0)}, F, scores
