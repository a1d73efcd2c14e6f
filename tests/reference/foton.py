"""FOTON in float64 NumPy, written from the public code of arXiv 2512.20668. No autodiff, no fwdonly.

Networks, masks and targets as in `reference.pepita`, dense layers only.
"""

import numpy as np

from .pepita import flat, forward, plus, products, softmax


def feedback(layers):
    """F = W_1 W_2 ... W_L: the linear parts only."""
    F = layers[0]["W"]
    for layer in layers[1:]:
        F = F @ layer["W"]
    return F


def output_error(s, t, error="ce", T=1.0):
    return softmax(T * s) - t if error == "ce" else s - t


def loss(s, t, error="ce", T=1.0):
    return -(t * np.log(softmax(T * s))).sum(1).mean() if error == "ce" else ((s - t) ** 2).sum(1).mean() / 2


def pseudo_gradients(
    layers, F, x, t, masks, phi, error="ce", T=1.0, eps=1.0, presynaptic="clean", sign=-1.0
):  # the sign is -1; the other one is for controls
    h, a, s = forward(layers, x, masks, phi)
    e = output_error(s, t, error, T)
    h2, a2, _ = forward(layers, x + sign * eps * (e @ F.T).reshape(x.shape), masks, phi)
    changes = [(one - other) / eps for one, other in zip(h, h2, strict=True)]
    p = a if presynaptic == "clean" else a2
    return products(layers, [flat(one) for one in p], [*changes, e])


def bjorck(W, v, iterations, power_iterations=10, scaled=True, order=1, bound=None):
    """Power method for the largest singular value, from v, then Bjorck's iterations. Also v as it ends.

    Those of order 1, as in FOTON's code, are 1.5 W - 0.5 W W^T W; in general W times the series of (I - E)^(-1/2) up to
    E^order, E = I - W^T W. ``bound``: the scale's square is at least the largest row sum of |W^T W| over it.
    """
    if W.shape[0] < W.shape[1]:
        Q, v = bjorck(W.T, v, iterations, power_iterations, scaled, order, bound)
        return Q.T, v
    for _ in range(power_iterations):
        u = W @ v / np.linalg.norm(W @ v)
        v = W.T @ u / np.linalg.norm(W.T @ u)
    if scaled:
        square = np.linalg.norm(W @ v) ** 2
        W = W / np.sqrt(square if bound is None else max(square, np.abs(W.T @ W).sum(0).max() / bound))
    for _ in range(iterations):
        if order == 1:
            W = 1.5 * W - 0.5 * W @ W.T @ W
            continue
        term = series = np.eye(W.shape[1])
        for i in range(1, order + 1):
            term = term @ (np.eye(W.shape[1]) - W.T @ W) * (2 * i - 1) / (2 * i)
            series = series + term
        W = W @ series
    return W, v


def polar(W):
    """U V^T of W = U S V^T."""
    U, _, Vt = np.linalg.svd(W, full_matrices=False)
    return U @ Vt


def step(layers, F, vs, x, t, masks, phi, count, rate, retract_every, update_every, iterations, powers, order):
    """The step number ``count`` (from 1) of SGD; ``vs`` are the vectors that the power methods start from."""
    layers = plus(layers, -rate, pseudo_gradients(layers, F, x, t, masks, phi))
    if count % retract_every == 0:
        pairs = [bjorck(layer["W"], v, iterations, powers, order=order) for layer, v in zip(layers, vs, strict=True)]
        layers = [layer | {"W": Q} for layer, (Q, _) in zip(layers, pairs, strict=True)]
        vs = [v for _, v in pairs]
    return layers, feedback(layers) if count % update_every == 0 else F, vs


def orthogonality_error(W):
    """Root mean square of s^2 - 1 over the singular values s."""
    return np.sqrt(np.mean((np.linalg.svd(W, compute_uv=False) ** 2 - 1) ** 2))
