"""The controls between back-propagation and Mono-Forward in float64 NumPy, by the chain rule. No autodiff, no fwdonly.

Written from methods/mf.md 3.8: BP-DS and MF-Joint have a local loss in every layer and detach nothing; BP with summed
readouts has one loss of all scores together. A layer is a dict as in `reference.mf`; the output layer of the two BP
forms comes last and holds ``W`` (n_L, classes) and ``b`` alone.
"""

import numpy as np

from .bp import input_error
from .mf import block, block_gradient, cross_entropy


def forward(hidden, x):
    """(input, output, tape) of every layer, and its flat output."""
    passed, flats, a = [], [], x
    for layer in hidden:
        out, tape = block(layer, a)
        passed.append((a, out, tape))
        flats.append(out.reshape(len(out), -1))
        a = out
    return passed, flats


def backward(hidden, passed, flats, errors, from_above):
    """All gradients, from the error at the scores of every layer's M and the error at the last layer's flat output."""
    found = []
    for layer, (a, out, tape), flat, E in list(zip(hidden, passed, flats, errors, strict=True))[::-1]:
        gradient = {"M": E.T @ flat}
        if tape is not None:  # M_0 has no block, and nothing below it
            dA = (E @ layer["M"] + from_above.reshape(flat.shape)).reshape(out.shape)
            own, dZ = block_gradient(layer, tape, dA)
            gradient |= own
            from_above = input_error(layer, dZ, a.shape)
        found.insert(0, gradient)
    return found


def mf_joint(layers, x, y, weight):
    """loss_i of every layer, and the gradient of loss_L + weight * (the sum of the others)."""
    passed, flats = forward(layers, x)
    losses, errors = zip(*(cross_entropy(a @ own["M"].T, y) for a, own in zip(flats, layers, strict=True)), strict=True)
    weighted = [weight * E for E in errors[:-1]] + [errors[-1]]
    return list(losses), backward(layers, passed, flats, weighted, np.zeros_like(flats[-1]))


def bp_ds(layers, x, y, weight):
    """loss_i of every hidden layer, then the output's; the gradient of output loss + weight * (the sum of the rest)."""
    *hidden, output = layers
    passed, flats = forward(hidden, x)
    losses, errors = zip(*(cross_entropy(a @ own["M"].T, y) for a, own in zip(flats, hidden, strict=True)), strict=True)
    loss, D = cross_entropy(flats[-1] @ output["W"] + output["b"], y)
    found = backward(hidden, passed, flats, [weight * E for E in errors], D @ output["W"].T)
    return [*losses, loss], [*found, {"W": flats[-1].T @ D, "b": D.sum(0)}]


def summed_scores(layers, x):
    """The output layer's scores and those of every readout, added."""
    *hidden, output = layers
    flats = forward(hidden, x)[1]
    return flats[-1] @ output["W"] + output["b"] + sum(a @ own["M"].T for a, own in zip(flats, hidden, strict=True))


def bp_sum(layers, x, y):
    """The loss of `summed_scores`, and its gradient."""
    *hidden, output = layers
    passed, flats = forward(hidden, x)
    loss, D = cross_entropy(summed_scores(layers, x), y)
    found = backward(hidden, passed, flats, [D] * len(hidden), D @ output["W"].T)
    return loss, [*found, {"W": flats[-1].T @ D, "b": D.sum(0)}]


def step(gradients, layers, x, y, descend, memories):
    """One step along ``gradients(layers, x, y)``, and the losses before it."""
    loss, found = gradients(layers, x, y)
    return [descend(*each) for each in zip(layers, found, memories, strict=True)], loss
