"""Mono-Forward in float64 NumPy, written from arXiv 2509.19063, equations 2.7-2.11. No autodiff, no fwdonly.

A layer is a dict: ``W`` (n_in, n_out), or (3, 3, in, out) for a convolution block, ``b`` (n_out) and the readout ``M``
(classes, n_out). M_0 is a layer that holds ``M`` alone. A network is a list of layers.
"""

import numpy as np


def patches(x):
    """The 3x3 neighbourhood of every pixel, zero outside: (B, H, W, c) -> (B, H, W, 9c)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return np.concatenate([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)


def halves(size):
    return size // 2 * 2


def pool(x):
    """Means of 2x2 squares; an odd last row or column is dropped."""
    x = x[:, : halves(x.shape[1]), : halves(x.shape[2])]
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def unpool(d, shape):
    """The transpose of `pool`: a quarter of each error to each of its four pixels."""
    out = np.zeros(shape)
    for i in (0, 1):
        for j in (0, 1):
            out[:, i : halves(shape[1]) : 2, j : halves(shape[2]) : 2] = d / 4
    return out


def block(layer, a):
    """a_i, and what its gradient needs: the rows that W multiplies, and z_i."""
    if "W" not in layer:
        return a, None
    conv = layer["W"].ndim == 4
    rows = patches(a) if conv else a.reshape(len(a), -1)
    z = rows @ layer["W"].reshape(rows.shape[-1], -1) + layer["b"]
    out = np.maximum(z, 0)
    return (pool(out) if conv else out), (rows, z)


def block_gradient(layer, tape, dA):
    """dW and db from the error dA at the block's output (and dZ, for back-propagation)."""
    rows, z = tape
    dZ = (unpool(dA, z.shape) if layer["W"].ndim == 4 else dA) * (z > 0)
    flat = dZ.reshape(-1, z.shape[-1])
    return {"W": (rows.reshape(len(flat), -1).T @ flat).reshape(layer["W"].shape), "b": flat.sum(0)}, dZ


def cross_entropy(scores, y):
    """The loss and E = (P - Y) / B."""
    e = np.exp(scores - scores.max(1, keepdims=True))
    P = e / e.sum(1, keepdims=True)
    return -np.log(P[np.arange(len(y)), y]).mean(), (P - np.eye(scores.shape[1])[y]) / len(y)


def local_gradient(layer, a, y):
    """loss_i, the gradient of layer i given a_{i-1}, and a_i."""
    out, tape = block(layer, a)
    flat = out.reshape(len(out), -1)
    loss, E = cross_entropy(flat @ layer["M"].T, y)
    gradient = {"M": E.T @ flat}
    if tape is not None:
        gradient |= block_gradient(layer, tape, (E @ layer["M"]).reshape(out.shape))[0]
    return loss, gradient, out


def sums_of_squares(out, p):
    """ASGE's goodness: the sum of squares in each of p x p equal windows, per channel, as one vector a sample."""
    rows, columns = (size // p for size in out.shape[1:3])
    g = np.zeros((len(out), p, p, out.shape[3]))
    for i in range(p):
        for j in range(p):
            window = out[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            g[:, i, j] = (window**2).sum(axis=(1, 2))
    return g.reshape(len(out), -1)


def asge_gradient(layer, a, y, p):
    """As `local_gradient`, of a readout that is fixed and reads sums of squares: d g / d out = 2 out, by windows."""
    out, tape = block(layer, a)
    loss, E = cross_entropy(sums_of_squares(out, p) @ layer["M"].T, y)
    of_windows = (E @ layer["M"]).reshape(len(out), p, p, -1)
    of_cells = of_windows.repeat(out.shape[1] // p, axis=1).repeat(out.shape[2] // p, axis=2)
    return loss, block_gradient(layer, tape, 2 * out * of_cells)[0], out


def step(layers, x, y, descend, memories, only=None):
    """One step of all layers (simultaneous), or of the layer at position ``only`` of the list (greedy)."""
    a, stepped, losses = x, [], []
    for at, (layer, memory) in enumerate(zip(layers, memories, strict=True)):
        loss, gradient, a = local_gradient(layer, a, y)
        trains = only is None or at == only
        stepped.append(descend(layer, gradient, memory) if trains else layer)
        losses += [loss] if trains else []
    return stepped, losses


def predict(layers, x, mode="last", sum_includes_input=False):
    """G_L, or the sum of G_1..G_L (and of G_0)."""
    a, scores = x, []
    for layer in layers:
        a = block(layer, a)[0]
        if "W" in layer or sum_includes_input:
            scores.append(a.reshape(len(a), -1) @ layer["M"].T)
    return sum(scores) if mode == "sum" else scores[-1]


def sgd(rate):
    return lambda params, gradient, memory: {k: params[k] - rate * gradient[k] for k in params}


def adam(rate, b1=0.9, b2=0.999, eps=1e-8):
    """Kingma and Ba, arXiv 1412.6980, algorithm 1; ``memory`` is an empty dict at the start."""

    def descend(params, gradient, memory):
        t = memory["t"] = memory.get("t", 0) + 1
        new = {}
        for k, g in gradient.items():
            m = memory["m", k] = b1 * memory.get(("m", k), 0) + (1 - b1) * g
            v = memory["v", k] = b2 * memory.get(("v", k), 0) + (1 - b2) * g**2
            new[k] = params[k] - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        return new

    return descend
