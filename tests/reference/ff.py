"""Forward-Forward in float64 NumPy, from the equations of Hinton's released Matlab (arXiv 2212.13345), with the pair
loss of SymBa (arXiv 2303.08418) for one dense layer. No autodiff, no fwdonly.

A layer is a dict: ``W`` (n_in, n_out), ``b`` (n_out), ``m`` (n_out, running mean activity) and, where the head reads
it, ``U`` (n_out, C); the last layer has one. A network is a list of layers; hidden layers count from 1. ``x`` is
(B, ...) and is flattened.
"""

import numpy as np

from .mf import cross_entropy

EPS = np.exp(-100)


def rms(a):
    """The direction of each row, with mean square 1."""
    return a / (EPS + np.sqrt((a**2).mean(1, keepdims=True)))


def sigmoid(z):
    return np.exp(-np.logaddexp(0, -z))


def overlay(x, T, on=1.0):
    """Rows whose first C inputs are the label."""
    flat = x.reshape(len(x), -1)
    return np.concatenate([on * T, flat[:, T.shape[1] :]], axis=1)


def neutral(x, C, on=1.0):
    return overlay(x, np.full((len(x), C), 1 / C), on)


def forward(layers, x):
    """For every layer: its input n_{l-1}, s_l, n_l, g_l and p_l."""
    n, passes = rms(x), []
    for layer in layers:
        s = np.maximum(n @ layer["W"] + layer["b"], 0)
        g = (s**2).sum(1)
        passes.append({"in": n, "s": s, "n": rms(s), "g": g, "p": sigmoid(g - s.shape[1])})
        n = passes[-1]["n"]
    return passes


def positive_error(s, p, m, peer):
    """d of the positive pass; the peer term is not gated, and is the same for every sample."""
    return (1 - p)[:, None] * s + peer * (m.mean() - m)


def head(layers, passes):
    return sum(pas["n"] @ layer["U"] for layer, pas in zip(layers, passes, strict=True) if "U" in layer)


def zeros(layers):
    """The gradient buffers before the first mini-batch."""
    return [{"v" + k: np.zeros_like(layer[k]) for k in ("W", "b", "U") if k in layer} for layer in layers]


def step(
    layers,
    buffers,
    x,
    y,
    y_neg,
    *,
    gain=1.0,
    rate=0.01,
    head_rate=0.1,
    decay=0.001,
    head_decay=0.003,
    smoothing=0.9,
    peer=0.03,
    peer_momentum=0.9,
):
    """One mini-batch: the new layers, the new buffers, and what was seen on the way.

    info: ``loss`` (L, binary cross-entropy over 2B samples), ``head_loss`` (nats), ``g_pos``, ``g_neg``, ``p_pos``,
    ``p_neg`` (a (B) per layer), ``q_in`` (B, C), and ``gradients`` (a dict of gW, gb, gU per layer: ascent, over B).
    """
    B, C = len(x), layers[-1]["U"].shape[1]
    T, T_neg = np.eye(C)[y], np.eye(C)[y_neg]
    pos, neu, neg = (forward(layers, v) for v in (overlay(x, T), neutral(x, C), overlay(x, T_neg)))
    q_in = head(layers, neu)
    head_loss, minus = cross_entropy(q_in, y)  # minus = (q - T) / B
    new, moved, gradients = [], [], []
    for layer, memory, up, mid, down in zip(layers, buffers, pos, neu, neg, strict=True):
        m = peer_momentum * layer["m"] + (1 - peer_momentum) * up["s"].mean(0)
        d_up, d_down = positive_error(up["s"], up["p"], m, peer), -down["p"][:, None] * down["s"]
        g = {"W": (up["in"].T @ d_up + down["in"].T @ d_down) / B, "b": (d_up.sum(0) + d_down.sum(0)) / B}
        if "U" in layer:
            g["U"] = -mid["n"].T @ minus
        v = {k: smoothing * memory["v" + k] + (1 - smoothing) * g[k] for k in g}
        rates, costs = {"W": rate, "b": rate, "U": head_rate}, {"W": decay, "b": 0, "U": head_decay}
        new.append({"m": m} | {k: layer[k] + gain * rates[k] * (v[k] - costs[k] * layer[k]) for k in g})
        moved.append({"v" + k: v[k] for k in v})
        gradients.append({"g" + k: g[k] for k in g})
    N = [layer["b"].size for layer in layers]
    info = {
        "loss": np.array(
            [
                (np.logaddexp(0, n - up["g"]).sum() + np.logaddexp(0, down["g"] - n).sum()) / (2 * B)
                for n, up, down in zip(N, pos, neg, strict=True)
            ]
        ),
        "head_loss": head_loss,
        "q_in": q_in,
        "gradients": gradients,
    }
    for name, passes in (("pos", pos), ("neg", neg)):
        info |= {f"{k}_{name}": [pas[k] for pas in passes] for k in ("g", "p")}
    return new, moved, info


def choices(layers, x, y):
    """Log-probabilities (B, C) of the negative label; minus infinity at the true one."""
    C = layers[-1]["U"].shape[1]
    q = np.where(np.eye(C)[y] > 0, -np.inf, head(layers, forward(layers, neutral(x, C))))
    q = q - q.max(1, keepdims=True)
    return q - np.log(np.exp(q).sum(1, keepdims=True))


def goodness_scores(layers, x, C, first=2):
    """The goodness of layers ``first``.. under each of the C labels."""
    labelled = (overlay(x, np.tile(row, (len(x), 1))) for row in np.eye(C))
    return np.stack([sum(pas["g"] for pas in forward(layers, v)[first - 1 :]) for v in labelled], axis=1)


def softmax_scores(layers, x, C):
    return head(layers, forward(layers, neutral(x, C)))


def symba_gradient(layer, n_pos, n_neg, alpha=4.0):
    """The pair loss of one layer with mean-square goodness, dW and db (descent)."""
    s_pos, s_neg = (np.maximum(n @ layer["W"] + layer["b"], 0) for n in (n_pos, n_neg))
    z = -alpha * ((s_pos**2).mean(1) - (s_neg**2).mean(1))
    dG = (-alpha * sigmoid(z) / len(z))[:, None]  # by G_pos; by G_neg the negative of it
    d_pos, d_neg = dG * 2 * s_pos / s_pos.shape[1], -dG * 2 * s_neg / s_neg.shape[1]
    return np.logaddexp(0, z).mean(), n_pos.T @ d_pos + n_neg.T @ d_neg, d_pos.sum(0) + d_neg.sum(0)


def layer_gradient(layer, n_pos, n_neg, loss="logistic", temperature=1.0, alpha=4.0, sign=1):
    """Loss, dW and db (descent) of one dense layer, without a peer term.

    "logistic": the sum of squares against N times ``sign``; "symba" and "swish": pairs of means of squares. ``sign`` -1
    is for low activity of positives: it stands before every goodness.
    """
    s = [np.maximum(n @ layer["W"] + layer["b"], 0) for n in (n_pos, n_neg)]
    if loss == "logistic":
        u = [(sign * (a**2).sum(1) - sign * a.shape[1]) / temperature for a in s]
        value = (np.logaddexp(0, -u[0]).mean() + np.logaddexp(0, u[1]).mean()) / 2
        dg = [-sigmoid(-u[0]) / 2 / temperature, sigmoid(u[1]) / 2 / temperature]
        unit = sign
    else:
        g = [sign * (a**2).mean(1) for a in s]
        z, unit = -alpha * (g[0] - g[1]), sign / s[0].shape[1]
        p = sigmoid(z)
        value = np.logaddexp(0, z).mean() if loss == "symba" else (z * p).mean()
        slope = p if loss == "symba" else p + z * p * (1 - p)
        dg = [-alpha * slope, alpha * slope]
    d = [(one * unit)[:, None] * 2 * a / len(a) for one, a in zip(dg, s, strict=True)]
    return value, n_pos.T @ d[0] + n_neg.T @ d[1], d[0].sum(0) + d[1].sum(0)
