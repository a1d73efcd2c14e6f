"""PEPITA and its variants in float64 NumPy, written from arXiv 2201.11665 and 2302.05440. No autodiff, no fwdonly.

Row vectors. A network is a list of layers: ``W`` (n_in, n_out), or (k, k, in, out) for a convolution without padding
that is followed by 2x2 maximum pooling, and ``b`` (n_out) where there is one; the last one is the linear output layer.
``F`` is (n_0, classes), ``masks`` holds m_l of every hidden layer (0 or 1/keep) and ``t`` one-hot targets.
"""

import numpy as np

RELU = lambda z: np.maximum(z, 0)


def softmax(s):
    e = np.exp(s - s.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def flat(a):
    return a.reshape(len(a), -1)


def windows(x, size):
    """What a size x size kernel sees at every position: (B, H, W, c) -> (B, H', W', size * size * c)."""
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    return np.concatenate([x[:, i : i + height, j : j + width] for i in range(size) for j in range(size)], axis=-1)


def rows(layer, a):
    return windows(a, len(layer["W"])) if layer["W"].ndim == 4 else flat(a)


def pool(h):
    return np.max([h[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)


def affine(layer, a):
    r = rows(layer, a)
    return r @ layer["W"].reshape(r.shape[-1], -1) + layer.get("b", 0)


def forward(layers, x, masks, phi=RELU, hidden_norm="none"):
    """h_1..h_{L-1} (before pooling), what the layers are given, and the scores."""
    h, a = [], [x]
    for layer, m in zip(layers[:-1], masks, strict=True):
        h.append(m * phi(affine(layer, a[-1])))
        if hidden_norm == "batch":
            h[-1] = h[-1] / np.linalg.norm(h[-1])
        a.append(pool(h[-1]) if layer["W"].ndim == 4 else h[-1])
    return h, a, affine(layers[-1], flat(a[-1]))


def outer(layer, p, D, scale="sum"):
    """p^T D / B; of a convolution summed over the positions, or divided by (the root of) their number."""
    positions = D[0, ..., 0].size
    D = D / len(D) / {"sum": 1, "sqrt": positions**0.5, "mean": positions}[scale]
    r, D = rows(layer, p), D.reshape(-1, D.shape[-1])
    bias = {"b": D.sum(0)} if "b" in layer else {}
    return {"W": (r.reshape(len(D), -1).T @ D).reshape(layer["W"].shape)} | bias


def products(layers, p, D, scale="sum"):
    inputs = [*p[:-1], flat(p[-1])]
    return [outer(layer, a, d, scale) for layer, a, d in zip(layers, inputs, D, strict=True)]


def plus(one, factor, other):
    """one + factor * other, for all that layers hold."""
    return [{k: a[k] + factor * b[k] for k in a} for a, b in zip(one, other, strict=True)]


def modulated(x, F, e, sign, error_sign=False):
    return x + sign * ((np.sign(e) if error_sign else e) @ F.T).reshape(x.shape)


def pseudo_gradients(
    layers,
    F,
    x,
    t,
    masks,
    sign,
    presynaptic="modulated",
    output_error="second",
    error_sign=False,
    scale="mean",
    error="ce",
    hidden_norm="none",
):
    """G_l of every layer, to be subtracted."""
    y = softmax if error == "ce" else lambda s: s
    h, a, s = forward(layers, x, masks, hidden_norm=hidden_norm)
    e = y(s) - t
    h2, a2, s2 = forward(layers, modulated(x, F, e, sign, error_sign), masks, hidden_norm=hidden_norm)
    p = a if presynaptic == "clean" else a2
    d = e if output_error == "first" else y(s2) - t
    return products(layers, p, [*(one - other for one, other in zip(h, h2, strict=True)), d], scale)


def hebbian(layers, F, x, t, masks, sign):
    """ "mixed": what both passes would add up to, subtracted; the target in the place of y in the second."""
    h, a, s = forward(layers, x, masks)
    h2, a2, _ = forward(layers, modulated(x, F, softmax(s) - t, sign), masks)
    return plus(products(layers, a, [*h, softmax(s)]), -1, products(layers, a2, [*h2, t]))


def time_local(layers, F, x, t, masks, sign, rate):
    """ "mixed_tl": the new weights."""
    h, a, s = forward(layers, x, masks)
    y = softmax(s)
    layers = plus(layers, -rate, products(layers, a, [*h, y]))
    h2, a2, _ = forward(layers, modulated(x, F, y - t, sign), masks)
    return plus(layers, rate, products(layers, a2, [*h2, t]))


def mirror_updates(layers, noises, masks, phi=RELU):
    """xi^T eta / B of every layer, each shown its own noise."""
    updates = []
    for at, (layer, xi) in enumerate(zip(layers, noises, strict=True)):
        xi = xi - xi.mean()
        z = affine(layer, xi)
        eta = softmax(z) if at == len(layers) - 1 else masks[at] * phi(z)
        updates.append(xi.T @ eta / len(xi))
    return updates


def mirror(layers, B, noises, masks, rate, decay, spread):
    """One step of weight mirroring, B_l in the shape of W_l, and the rescaling to std(F) = ``spread``."""
    updates = mirror_updates(layers, noises, masks)
    B = [B_l + rate * u - rate * decay * B_l for B_l, u in zip(B, updates, strict=True)]
    F = B[0] if len(B) == 1 else np.linalg.multi_dot(B)
    return [B_l * (spread / F.std()) ** (1 / len(B)) for B_l in B]
