"""PhyLL in float64 NumPy, from the equations of the official code (arXiv 2304.11042). No autodiff, no fwdonly.

A layer is a dict: ``W`` (n_in, n_out), ``b`` (n_out) and the direction ``xi`` (n_out). Physics: any function
of states.
"""

import numpy as np


def goodness(u, xi):
    """cos(|u|, xi)."""
    return (np.abs(u) * xi).sum(1) / (np.linalg.norm(u, axis=1) * np.linalg.norm(xi))


def gradient(layer, F_pos, F_neg, theta=4.0):
    """loss_t, dW and db."""
    u_pos, u_neg = (F @ layer["W"] + layer["b"] for F in (F_pos, F_neg))
    c_pos, c_neg = (goodness(u, layer["xi"]) for u in (u_pos, u_neg))
    k = -theta / (1 + np.exp(theta * (c_pos - c_neg))) / len(c_pos)
    xi = layer["xi"] / np.linalg.norm(layer["xi"])

    def error(k, u, c):
        length = np.linalg.norm(u, axis=1, keepdims=True)
        return k[:, None] * np.sign(u) * (xi - c[:, None] * np.abs(u) / length) / length

    du_pos, du_neg = error(k, u_pos, c_pos), error(-k, u_neg, c_neg)
    loss = np.logaddexp(0, -theta * (c_pos - c_neg)).mean()
    return loss, {"W": F_pos.T @ du_pos + F_neg.T @ du_neg, "b": (du_pos + du_neg).sum(0)}


def overlay(x, y, classes, share=0.4):
    """The label over the first inputs, its square a share of the sample's energy."""
    labelled = x.copy()
    labelled[:, :classes] = 0
    labelled[np.arange(len(x)), y] = np.sqrt(share * (x**2).sum(1))
    return labelled


def step(layers, physics, x, y, y_neg, classes, rate, inner_steps, theta=4.0):
    """One batch with plain descent: the new layers and the losses before each layer's first inner step."""
    h, new, losses = [overlay(x, label, classes) for label in (y, y_neg)], [], []
    for t, layer in enumerate(layers):
        F = [physics(t, state) for state in h]
        for inner in range(inner_steps):
            loss, g = gradient(layer, *F, theta)
            losses += [loss] if inner == 0 else []
            layer = layer | {k: layer[k] - rate * g[k] for k in g}
        new.append(layer)
        h = [features @ layer["W"] + layer["b"] for features in F]
    return new, losses


def scores(layers, physics, x, classes):
    """The sum of all layers' goodness under each label."""
    total = np.zeros((len(x), classes))
    for label in range(classes):
        h = overlay(x, np.full(len(x), label), classes)
        for t, layer in enumerate(layers):
            h = physics(t, h) @ layer["W"] + layer["b"]
            total[:, label] += goodness(h, layer["xi"])
    return total


def optics(h, phases):
    """|T h| with the medium's matrix written out."""
    n = h.shape[1]
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n)
    T = fourier.conj() @ np.diag(np.exp(1j * phases[1])) @ fourier @ np.diag(np.exp(1j * phases[0]))
    np.testing.assert_allclose(T @ T.conj().T, np.eye(n), atol=1e-9)
    return np.abs(h @ T.T)
