"""Cascaded Forward in float64 NumPy, from the equations of arXiv 2303.09728's public code, the DFA variant from those
of arXiv 2509.19063. No autodiff, no fwdonly.

A block is a dict: ``W`` (n_in, n_out), or (3, 3, in, out) for a convolution block, ``b`` (n_out) or none, and batch
norm's ``gamma`` and ``beta`` (n_out). Images are (B, H, W, c) and are flattened in that order. A head is a dict: ``V``
(D, C) and ``b`` (C) or none. A network is a list of blocks.
"""

import numpy as np

from .mf import cross_entropy, halves, patches


def windows(x):
    """The four pixels of each 2x2 square, in reading order: (4, B, H // 2, W // 2, c). An odd last line is dropped."""
    height, width = halves(x.shape[1]), halves(x.shape[2])
    return np.stack([x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)])


def pooled(block, x):
    """The block before batch norm, and what its gradient needs: the rows that W multiplies, and ReLU's input."""
    conv = block["W"].ndim == 4
    rows = patches(x) if conv else x.reshape(len(x), -1)
    z = rows @ block["W"].reshape(rows.shape[-1], -1) + block.get("b", 0)
    out = np.maximum(z, 0)
    return (windows(out).max(0) if conv else out), (rows, z)


def batch_statistics(pooled):
    """Mean and biased variance of every channel."""
    axes = tuple(range(pooled.ndim - 1))
    return pooled.mean(axes), pooled.var(axes)


def features(block, x, mean, var, eps):
    """h_i with the batch-norm statistics given."""
    return (pooled(block, x)[0] - mean) / np.sqrt(var + eps) * block["gamma"] + block["beta"]


def block_gradient(block, x, cotangent, eps):
    """The gradient of <cotangent, h> by the block's parameters; batch norm uses the batch's own statistics."""
    out, (rows, z) = pooled(block, x)
    mean, var = batch_statistics(out)
    u, unit = cotangent.reshape(out.shape), (out - mean) / np.sqrt(var + eps)
    axes = tuple(range(out.ndim - 1))
    gradient = {"gamma": (u * unit).sum(axes), "beta": u.sum(axes)}
    d = u * block["gamma"]
    d = (d - d.mean(axes) - unit * (d * unit).mean(axes)) / np.sqrt(var + eps)
    if block["W"].ndim == 4:  # to the first of the largest pixels
        squares = windows(np.maximum(z, 0))
        chosen = np.arange(4).reshape(4, 1, 1, 1, 1) == squares.argmax(0)
        small, d = d, np.zeros_like(z)
        for at, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            d[:, i : halves(z.shape[1]) : 2, j : halves(z.shape[2]) : 2] = small * chosen[at]
    d = (d * (z > 0)).reshape(-1, z.shape[-1])
    gradient["W"] = (rows.reshape(len(d), -1).T @ d).reshape(block["W"].shape)
    return gradient | ({"b": d.sum(0)} if "b" in block else {})


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def threshold(z):
    """tau of sparsemax, one per row."""
    down = -np.sort(-z, axis=-1)
    total, j = down.cumsum(-1), np.arange(1, z.shape[-1] + 1)
    k = (1 + j * down > total).sum(-1, keepdims=True)
    return (np.take_along_axis(total, k - 1, -1) - 1) / k


def sparsemax(z):
    return np.maximum(z - threshold(z), 0)


def sparsemax_loss(z, y):
    """Mean over the batch; 0.5 is added once per sample."""
    tau = threshold(z)
    return (0.5 * np.where(z > tau, z**2 - tau**2, 0).sum(1) + 0.5 - z[np.arange(len(y)), y]).mean()


def scores(F, head):
    return F @ head["V"] + head.get("b", 0)


def head_gradient(F, V, b, y, C, kind):
    """Mean loss ("ce" or "sl"), dV and db of a predictor; ``b`` may be None."""
    z = F @ V + (0 if b is None else b)
    p, loss = (sparsemax(z), sparsemax_loss(z, y)) if kind == "sl" else (softmax(z), cross_entropy(z, y)[0])
    E = (p - np.eye(C)[y]) / len(y)
    return loss, F.T @ E, E.sum(0)


def closed_form(F, Y, ridge):
    F, Y = F.astype(np.float64), Y.astype(np.float64)
    return np.linalg.solve(F.T @ F + ridge * np.eye(F.shape[1]), F.T @ Y)


def predict(Fs, heads, aggregation, kind="ce"):
    """Scores (B, C): the sum over blocks of "probabilities" (sparsemax's for ``kind`` "sl") or "logits"."""
    output = (lambda z: z) if aggregation == "logits" else sparsemax if kind == "sl" else softmax
    return sum(output(scores(F, head)) for F, head in zip(Fs, heads, strict=True))


def dfa_step(blocks, A, R, x, y, eps):
    """Loss, the gradients of the blocks (descent) and those of the auxiliary head A, for one batch of phase 1.

    A is a dict ``W`` (D_L, C), ``b`` (C); R a list of at least L - 1 feedback matrices (C, D_i).
    """
    inputs = [x]
    for block in blocks:
        inputs.append(features(block, inputs[-1], *batch_statistics(pooled(block, inputs[-1])[0]), eps))
    last = inputs[-1].reshape(len(x), -1)
    loss, E = cross_entropy(last @ A["W"] + A["b"], y)
    e = E * len(x)  # the sheet's error is not divided by B
    cotangents = [e @ R[i] for i in range(len(blocks) - 1)] + [E @ A["W"].T]
    gradients = [block_gradient(*each, eps) for each in zip(blocks, inputs[:-1], cotangents, strict=True)]
    return loss, gradients, {"W": last.T @ E, "b": E.sum(0)}
