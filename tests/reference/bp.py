"""Back-propagation in float64 NumPy by the chain rule written out. No autodiff, no fwdonly.

A network is a list of layers as in `reference.mf`, without readouts; the last one, ``W`` (n_L, classes) and ``b``, is
the linear output layer.
"""

import numpy as np

from .mf import block, block_gradient, cross_entropy


def fold(rows, shape):
    """The transpose of `reference.mf.patches`."""
    height, width, channels = shape[1:]
    padded = np.zeros((shape[0], height + 2, width + 2, channels))
    for at in range(9):
        i, j = divmod(at, 3)
        padded[:, i : i + height, j : j + width] += rows[..., at * channels : (at + 1) * channels]
    return padded[:, 1:-1, 1:-1]


def input_error(layer, dZ, shape):
    """The error at the block's input, which Mono-Forward never forms: dZ W^T."""
    rows = dZ @ layer["W"].reshape(-1, dZ.shape[-1]).T
    return fold(rows, shape) if layer["W"].ndim == 4 else rows.reshape(shape)


def gradients(layers, x, y):
    """The loss and the gradient of every layer."""
    *hidden, output = layers
    a, inputs, tapes = x, [], []
    for layer in hidden:
        inputs.append(a)
        a, tape = block(layer, a)
        tapes.append(tape)
    flat = a.reshape(len(a), -1)
    loss, D = cross_entropy(flat @ output["W"] + output["b"], y)
    found = [{"W": flat.T @ D, "b": D.sum(0)}]
    dA = (D @ output["W"].T).reshape(a.shape)
    for layer, a, tape in zip(hidden[::-1], inputs[::-1], tapes[::-1], strict=True):
        gradient, dZ = block_gradient(layer, tape, dA)
        found.insert(0, gradient)
        dA = input_error(layer, dZ, a.shape)
    return loss, found


def step(layers, x, y, descend, memories):
    loss, found = gradients(layers, x, y)
    return [descend(*each) for each in zip(layers, found, memories, strict=True)], loss
