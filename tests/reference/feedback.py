"""Feedback alignment and its relatives in float64 NumPy, written from the equations. No autodiff, no fwdonly.

A network is a list of layers as in `reference.bp`: ``W`` (n_in, n_out), or (3, 3, in, out) for a convolution that is
followed by 2x2 average pooling, and ``b`` (n_out) where there is one; the last one is the linear output layer. What is
sent back is, per mode, a list for layers 1..L of the matrices in the place of W (fa, wm, kp), of magnitudes (usf: one
number; brsf, frsf: |M| in the shape of W), or for the hidden layers of B_l (classes, *features of h_l).
"""

import numpy as np

from .bp import input_error
from .mf import patches, pool, unpool


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def softmax(a):
    e = np.exp(a - a.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


ACTIVATIONS = {
    "relu": (lambda a: np.maximum(a, 0), lambda a: (a > 0).astype(float)),
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "sigmoid": (sigmoid, lambda a: sigmoid(a) * (1 - sigmoid(a))),
    "identity": (lambda a: a, np.ones_like),
}
"""phi and phi', written out."""

OUTPUTS = {"softmax": softmax, "sigmoid": sigmoid}


def forward(layers, x, activation):
    """Per hidden layer what it is given (h_{l-1}), the rows that W multiplies and a_l; then h_L as rows, and a_L."""
    *hidden, output = layers
    tapes, h = [], x
    for layer in hidden:
        conv = layer["W"].ndim == 4
        rows = patches(h) if conv else h.reshape(len(h), -1)
        a = rows @ layer["W"].reshape(rows.shape[-1], -1) + layer.get("b", 0)
        tapes.append((h, rows, a))
        h = ACTIVATIONS[activation][0](a)
        h = pool(h) if conv else h
    top = h.reshape(len(h), -1)
    return tapes, h.shape, top, top @ output["W"] + output.get("b", 0)


def loss(s, y, output):
    """Cross-entropy in nats: of the softmax, or one binary per class, summed."""
    p = OUTPUTS[output](s)
    t = np.eye(s.shape[1])[y]
    if output == "softmax":
        return -(t * np.log(p)).sum(1).mean()
    return -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum(1).mean()


def matrix(mode, layer, B_l):
    """What stands in the place of W_{l+1} on the way back."""
    if mode == "bp":
        return layer["W"]
    if mode in ("fa", "wm", "kp"):
        return B_l
    return B_l * np.sign(layer["W"])  # usf: s sign(W); brsf, frsf: |M| sign(W)


def gradients(layers, x, y, mode, B=None, activation="relu", output="softmax", clip=np.inf):
    """The loss and G_l of every layer: delta_l = send_l * phi'(a_l), G_l = h_{l-1}^T delta_l / N."""
    return _backwards(layers, x, y, mode, B, activation, output, clip)[:2]


def errors(layers, x, y, mode, B=None, activation="relu", output="softmax", clip=np.inf):
    """delta_l of every hidden layer."""
    return _backwards(layers, x, y, mode, B, activation, output, clip)[2]


def _backwards(layers, x, y, mode, B, activation, output, clip):
    B = [None] * len(layers) if B is None else B
    tapes, shape, top, s = forward(layers, x, activation)
    t = np.eye(s.shape[1])[y]
    e = OUTPUTS[output](s) - t
    found = [{"W": top.T @ e / len(x)} | ({"b": e.mean(0)} if "b" in layers[-1] else {})]
    deltas = []
    if mode not in ("dfa", "sdfa", "drtp"):
        send = np.clip((e @ matrix(mode, layers[-1], B[-1]).T).reshape(shape), -clip, clip)
    for at in range(len(tapes) - 1, -1, -1):
        layer, (below, rows, a) = layers[at], tapes[at]
        if mode in ("dfa", "sdfa", "drtp"):
            signal = {"dfa": e, "sdfa": np.sign(e), "drtp": t}[mode]
            send = np.clip(signal @ B[at].reshape(s.shape[1], -1), -clip, clip).reshape(a.shape)  # before pooling
        elif layer["W"].ndim == 4:
            send = unpool(send, a.shape)
        delta = send * ACTIVATIONS[activation][1](a)
        deltas.insert(0, delta)
        flat = delta.reshape(-1, a.shape[-1])
        G = (rows.reshape(len(flat), -1).T @ flat).reshape(layer["W"].shape) / len(x)
        found.insert(0, {"W": G} | ({"b": flat.sum(0) / len(x)} if "b" in layer else {}))
        if mode not in ("dfa", "sdfa", "drtp"):
            send = np.clip(input_error({"W": matrix(mode, layer, B[at])}, delta, below.shape), -clip, clip)
    return loss(s, y, output), found, deltas


def ways(layers):
    """W_L^T ... W_{l+1}^T of every hidden layer of a dense network, written out for direct feedback."""
    way, found = np.eye(layers[-1]["W"].shape[1]), []
    for layer in layers[:0:-1]:
        way = way @ layer["W"].T
        found.insert(0, way)
    return found


def cosine(one, other):
    """That of two arrays as vectors."""
    return (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())


def mirror_kernel(K, b, B, xi, rate, decay, activation):
    """As `mirror` for one 3x3 convolution with edges of zeros: a sum over samples and positions, noise with A = 1.5."""
    rows = patches(xi).reshape(-1, K.shape[0] * K.shape[1] * K.shape[2])
    eta = ACTIVATIONS[activation][0](rows @ K.reshape(len(rows[0]), -1) + b)
    return B + rate * ((rows.T @ eta).reshape(K.shape) - decay * len(rows) * 1.5**2 / 12 * B)


def momentum(rate, mu=0.0):
    """Heavy ball: v <- mu v + G, and the change -rate v; ``memory`` is an empty dict at the start."""

    def change(found, memory):
        for at, layer in enumerate(found):
            for k, g in layer.items():
                memory[at, k] = mu * memory.get((at, k), 0) + g
        return [{k: -rate * memory[at, k] for k in layer} for at, layer in enumerate(found)]

    return change


def moved(layers, changes):
    """W + change, for all that a layer holds."""
    return [{k: layer[k] + change[k] for k in layer} for layer, change in zip(layers, changes, strict=True)]


def kolen_pollack(layers, B, changes, decay):
    """W <- lambda W + u, B <- lambda B + u with the same u, biases without lambda; B in the shape of the layers."""
    keep = {"W": 1 - decay, "b": 1.0}
    return tuple(
        [{k: keep[k] * own[k] + u[k] for k in own} for own, u in zip(tree, changes, strict=True)]
        for tree in (layers, B)
    )


def mirror(layers, B, noises, rate, decay, activation, output):
    """B_l <- B_l + rate (xi^T layer_l(xi) - decay N A^2 / 12 B_l), a sum over N noise samples; of W alone.

    ``noises``: one xi per layer, uniform on [-A/2, A/2] with A = 1.5, and then N A^2 / 12 is the expected xi^T xi.
    """
    new = []
    for at, (layer, B_l, xi) in enumerate(zip(layers, B, noises, strict=True)):
        a = xi @ layer["W"] + layer.get("b", 0)
        eta = OUTPUTS[output](a) if at == len(layers) - 1 else ACTIVATIONS[activation][0](a)
        expected = len(xi) * 1.5**2 / 12
        new.append(B_l | {"W": B_l["W"] + rate * (xi.T @ eta - decay * expected * B_l["W"])})
    return new


def layer_angles(one, other):
    """Cosine and ratio of norms, layer by layer; W and b of a layer are one vector."""
    cosine, ratio = [], []
    for a, b in zip(one, other, strict=True):
        a, b = (np.concatenate([np.ravel(layer[k]) for k in sorted(layer)]) for layer in (a, b))
        cosine.append((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
        ratio.append(np.sqrt((a**2).sum() / (b**2).sum()))
    return np.array(cosine), np.array(ratio)
