"""A mixer block in NumPy, float64, from equation 1 of arXiv 2105.01601 and the code of its appendix E."""

import numpy as np


def normalised(x, weights):
    """Every patch over its channels; Flax's epsilon."""
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * weights["scale"] + weights["bias"]


def gelu(z):
    """The approximation by tanh, as the paper's code has it."""
    return z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def affine(x, weights):
    return x @ weights["kernel"] + weights["bias"]


def stem(x, weights, side):
    """A convolution with windows and strides of ``side`` pixels, window by window."""
    kernel = weights["kernel"].reshape(side, side, x.shape[-1], -1)
    out = np.zeros((len(x), x.shape[1] // side, x.shape[2] // side, kernel.shape[-1]))
    for i, j in np.ndindex(*out.shape[1:3]):
        window = x[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
        out[:, i, j] = np.tensordot(window, kernel, 3)
    return out + weights["bias"]


def block(x, weights, *, patch=0, head="none", skip=1.0):
    """The output of a block; ``skip`` 0 leaves out what is added to the mixing."""
    x = stem(x, weights["stem"], patch) if patch else x
    grid, X = x.shape, x.reshape(len(x), -1, x.shape[-1])
    mixed = np.empty_like(X)
    for sample, h in enumerate(normalised(X, weights["token_norm"])):
        for channel in range(grid[-1]):  # a column of the table, the same two layers for each
            z = gelu(affine(h[:, channel], weights["token_in"]))
            mixed[sample, :, channel] = affine(z, weights["token_out"])
    U = skip * X + mixed
    z = gelu(affine(normalised(U, weights["channel_norm"]), weights["channel_in"]))
    Y = skip * U + affine(z, weights["channel_out"])
    return normalised(Y, weights["head_norm"]).mean(1) if head == "mean" else Y.reshape(grid)
