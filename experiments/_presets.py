"""The settings published for Mono-Forward and its BP twin (arXiv 2509.19063 and its public code and run logs, 2025).

MF: greedy, no M_0, prediction from the last layer, Adam without decay or schedule, patience per layer on the validation
loss with min_delta 1e-4, last weights of each layer kept. BP: AdamW, patience on the validation loss, weights of the
best validation accuracy kept. Both: batch 128, the incomplete last batch dropped. "*_2026": the authors' re-measurement
under one stopping rule, MF with M_0.
"""

from typing import Any

from _common import BPOptions


def _published(mf: tuple[float, int, int], bp: tuple[float, float, int], **data: Any) -> dict[str, dict[str, Any]]:
    rate, cap, patience = mf
    common = {"split": "paper", "normalise": "paper", "lr_schedule": "constant", "batch_size": 128} | data
    greedy = {
        "learning_rate": rate,
        "epochs": cap,
        "patience": patience,
        "min_delta": 1e-4,
        "keep": "last",
        "optimizer": "adam",
    }
    bp_rate, decay, bp_patience = bp
    twin = {
        "learning_rate": bp_rate,
        "weight_decay": decay,
        "epochs": 100,
        "patience": bp_patience,
        "min_delta": 0.0,
        "keep": "best_accuracy",
        "optimizer": "adamw",
    }
    return {"mf": common | greedy | {"schedule": "greedy"}, "bp": common | twin, "bp_only": twin}


_MNIST = {"widths": (1000, 1000), "augment": False}
_CIFAR = {"widths": (2000, 2000, 2000), "augment": True}

PUBLISHED = {
    "mnist": _published(
        (1.570297088405539e-3, 14, 5), (1.9762e-4, 7.4763e-6, 10), preset="mnist", dataset="mnist", **_MNIST
    ),
    "fashion_mnist": _published(
        (3.873086262136253e-4, 12, 10),
        (2.1316e-4, 2.7123e-5, 10),
        preset="fashion_mnist",
        dataset="fashion_mnist",
        **_MNIST,
    ),
    "cifar10": _published(
        (3.241756767272183e-4, 15, 4), (8.1159e-5, 2.0847e-5, 20), preset="cifar10", dataset="cifar10", **_CIFAR
    ),
    "cifar100": _published(
        (1.7277890583771544e-4, 8, 4), (1.0362e-4, 9.1059e-6, 5), preset="cifar100", dataset="cifar100", **_CIFAR
    ),
}


def _remeasured(
    dataset: str, mf: tuple[float, float], bp: tuple[float, float] | None = None
) -> dict[str, dict[str, Any]]:
    """Protocol A of the authors' re-measurement (2026): one stopping rule for the whole net or for each stage.

    Tested are the last weights of both rules. Of BP our sheet has those of the best validation accuracy, as in 2025;
    but the authors' table of runs (artifacts/tidy/runs.csv at 1c74018 of their repository) has the test losses of
    last ones: 0.518 to 0.584 on Fashion-MNIST (seeds 52, 53, 99, 101, 102, 129 and 130; the others were not looked
    at), where ours are 0.475 to 0.544, and 0.368 to 0.537 at the best accuracy. With last weights ten seeds of BP
    come near their means: 98.30 and 89.42, published 98.20 and 89.41.
    """
    published = PUBLISHED[dataset]
    stopping = {"epochs": 100, "patience": 20, "min_delta": 0.0, "monitor": "loss", "keep": "last"}
    of_mf = {"learning_rate": mf[0], "weight_decay": mf[1], "input_readout": True, "preset": f"{dataset}_2026"}
    of_bp = {} if bp is None else {"learning_rate": bp[0], "weight_decay": bp[1]}
    return {
        "mf": published["mf"] | of_mf | stopping,
        "bp": published["bp"] | of_bp | stopping | {"preset": f"{dataset}_2026"},
        "bp_only": published["bp_only"] | of_bp | stopping,
    }


# BP's new values were found in the authors' configurations for two of the four; its published ones stand in elsewhere.
PUBLISHED |= {
    "mnist_2026": _remeasured(
        "mnist", (4.6569899460719333e-4, 2.8156e-5), (2.1980598088929354e-4, 3.378989803913246e-4)
    ),
    "fashion_mnist_2026": _remeasured("fashion_mnist", (4.173533352347702e-4, 3.9678e-4)),
    "cifar10_2026": _remeasured("cifar10", (2.1536491821693216e-4, 1.6064e-6)),
    "cifar100_2026": _remeasured(
        "cifar100", (2.7089684419387227e-4, 7.2047e-5), (6.681923669912236e-5, 2.9979680868782076e-6)
    ),
}


# ---------------------------------------------------------------------------------------------------------------------
# Forward-Forward. "hinton": the released Matlab. "paper_4x2000": the paper's run that has no public code. "ff_py": the
# NumPy port whose training curve is public (GitHub jesper-olsen/ff-py), its peer term off by a bug (0-based ports end
# at the rate 3/E; here 1/E). The others: arXiv 2509.19063 (2025) and its authors' re-measurement (2026). Their peer
# term is the gradient of a loss, some 5000 times weaker than the Matlab's: off. Their weight decay takes the biases,
# too, and their head sees true labels (ours does not), so that only the goodness predictions compare. Accuracies there
# are in percent: their min_delta of 0.01 is 1e-4 here. In 2026 one stopping rule held for all rules (min_delta 0,
# patience 20, at most 100 epochs), but FF watched the validation accuracy, as before; so min_delta alone changed.


def _ff(
    dataset: str,
    optimizer: str,
    widths: tuple[int, ...],
    layers: tuple[float, float],
    head: tuple[float, float],
    min_delta: float = 1e-4,
) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "split": "paper",
        "normalise": "paper",
        "widths": widths,
        "optimizer": {"sgd": "momentum"}.get(optimizer, optimizer),
        "learning_rate": layers[0],
        "weight_decay": layers[1],
        "head_learning_rate": head[0],
        "head_weight_decay": head[1],
        "lr_schedule": "half_linear",
        "epochs": 100,
        "monitor": "accuracy",
        "patience": 20,
        "min_delta": min_delta,
        "keep": "best_accuracy",
        "negatives": "uniform",
        "peer": 0.0,
        "start": "fan_out",
    }


_3, _4 = (1000,) * 3, (2000,) * 4
FF_PUBLISHED: dict[str, dict[str, Any]] = {
    "hinton": {"dataset": "mnist", "split": "paper", "epochs": 100},
    "paper_4x2000": {"dataset": "mnist", "split": "paper", "epochs": 60, "widths": _4},
    "ff_py": {"dataset": "mnist", "split": "paper", "epochs": 125, "weight_decay": 0.002, "peer": 0.0},
    "mnist": _ff(
        "mnist",
        "adamw",
        _3,
        (4.759134394296565e-4, 4.169096909947932e-4),
        (1.0727571797342173e-2, 6.1527185182837065e-3),
    ),
    "mnist_sgd": _ff(
        "mnist",
        "sgd",
        _3,
        (1.9075980272792064e-3, 5.229088821652552e-4),
        (3.234998392840941e-2, 4.7668064095875455e-3),
    ),
    "mnist_4x2000": _ff(
        "mnist",
        "adamw",
        _4,
        (5.253511034001832e-4, 4.227844165066995e-4),
        (2.7075510107757122e-3, 3.5730744916099627e-3),
    ),
    "fashion_mnist": _ff(
        "fashion_mnist",
        "adamw",
        _4,
        (3.722230492626773e-4, 3.583569744251919e-4),
        (1.1120232890144957e-2, 5.1200359925764015e-3),
    ),
    "mnist_2026": _ff("mnist", "adamw", _3, (1.332e-3, 6.031e-4), (6.707e-3, 8.298e-3), 0.0),
    "mnist_sgd_2026": _ff("mnist", "sgd", _3, (1.911e-3, 3.630e-4), (3.327e-3, 1.162e-3), 0.0),
    "mnist_4x2000_2026": _ff("mnist", "adamw", _4, (7.634e-4, 3.112e-4), (3.615e-3, 2.168e-3), 0.0),
    "fashion_mnist_2026": _ff("fashion_mnist", "adamw", _4, (1.050e-3, 6.836e-4), (6.011e-3, 9.722e-3), 0.0),
}


# ---------------------------------------------------------------------------------------------------------------------
# Cascaded-Forward. "paper_*": the public code of arXiv 2303.09728, full-batch descent from V = 1 (or closed form). It
# trains on all 50,000 images of CIFAR; here 5,000 of them are held out, as for every rule. Its mini-ImageNet runs need
# data that `fwdonly.data` does not have. The others: arXiv 2509.19063 (2025), whose blocks are not normalised while
# they are random, and the re-measurement (2026), with one stopping rule for all rules: validation loss, min_delta 0,
# patience 20, at most 100 epochs per head; the epochs of DFA's blocks are those of 2025, and the last weights are kept.


def _cafo_paper(dataset: str, loss: str, epochs: int) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "normalise": "paper" if dataset == "mnist" else "half",
        "loss": loss,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "batch_size": None,
        "epochs": epochs,
        "validate_every": min(epochs, 50),
    }


def _cafo(
    dataset: str,
    heads: tuple[float, float],
    stop: tuple[int, int | None, float],
    blocks: tuple[float, float, int] | None = None,
) -> dict[str, Any]:
    cap, patience, min_delta = stop
    preset: dict[str, Any] = {
        "dataset": dataset,
        "split": "paper",
        "normalise": "paper",
        "augment": dataset.startswith("cifar"),
        "loss": "ce",
        "optimizer": "adam",
        "learning_rate": heads[0],
        "weight_decay": heads[1],
        "batch_size": 128,
        "epochs": cap,
        "patience": patience,
        "min_delta": min_delta,
        "keep": "last",
        "conv_start": "he",
        "statistics": "identity",
        "eps": 1e-5,
        "head_start": "uniform",
        "head_bias": True,
        "aggregation": "logits",
    }
    if blocks is None:
        return preset
    rate, decay, epochs = blocks
    trained = {"block_learning_rate": rate, "block_weight_decay": decay, "block_epochs": epochs}
    return preset | trained | {"blocks": "dfa", "statistics": "examples"}


_RANDOM_STOP = {
    "mnist": (227, 8, 5e-4),
    "fashion_mnist": (145, 10, 0.0),  # the code's own: the keys of the configuration lie at the wrong level
    "cifar10": (733, 8, 1e-3),
    "cifar100": (1220, 10, 1e-3),
}
_DFA_STOP = {
    "mnist": (12, 5, 5e-4),
    "fashion_mnist": (85, 6, 1e-3),
    "cifar10": (147, 8, 1e-3),
    "cifar100": (1271, 10, 1e-3),
}
_STOP_2026 = (100, 20, 0.0)
_BLOCK_EPOCHS = {"mnist": 5, "fashion_mnist": 15, "cifar10": 250, "cifar100": 200}
_RANDOM = {
    "mnist": (4.2136234742798395e-4, 1.6585525961391826e-6),
    "fashion_mnist": (1.3737845955327983e-3, 2.937538457632828e-7),
    "cifar10": (2.4111676098423975e-4, 6.3583588566762514e-6),
    "cifar100": (2.4111676098423975e-4, 6.3583588566762514e-6),
}
_RANDOM_2026 = {
    "mnist": (3.650e-4, 2.890e-6),
    "fashion_mnist": (2.175e-4, 1.080e-6),
    "cifar10": (5.647e-4, 5.711e-6),
    "cifar100": (2.623e-4, 2.223e-5),
}
_DFA = {  # heads, blocks
    "mnist": ((2.5391813833013565e-4, 2.0840357948896564e-6), (4.977965859721583e-4, 9.594431243311431e-7)),
    "fashion_mnist": ((3.304463634024569e-4, 3.967605077052991e-5), (1.384690524742107e-4, 1.3311216080736884e-5)),
    "cifar10": ((6.677511008261821e-4, 1.5702970884055385e-5), (1.373784595532798e-4, 2.938027938703532e-7)),
    "cifar100": ((6.677511008261821e-4, 1.5702970884055385e-5), (1.373784595532798e-4, 2.938027938703532e-7)),
}
_DFA_2026 = {
    "mnist": ((3.465e-4, 3.479e-5), (3.914e-4, 8.620e-7)),
    "fashion_mnist": ((6.956e-4, 3.283e-5), (2.395e-4, 2.263e-7)),
    "cifar10": ((2.505e-4, 2.873e-7), (2.932e-4, 7.044e-6)),
    "cifar100": ((3.157e-4, 2.669e-7), (1.378e-4, 4.602e-7)),
}
_SETS = ("mnist", "fashion_mnist", "cifar10", "cifar100")
CAFO_PUBLISHED: dict[str, dict[str, Any]] = {
    "paper_mnist": _cafo_paper("mnist", "ce", 5000),
    "paper_mnist_mse": _cafo_paper("mnist", "mse", 1),
    "paper_mnist_sl": _cafo_paper("mnist", "sl", 5000),
    "paper_cifar10": _cafo_paper("cifar10", "ce", 5000),
    "paper_cifar10_mse": _cafo_paper("cifar10", "mse", 1),
    "paper_cifar10_sl": _cafo_paper("cifar10", "sl", 5000),
    "paper_cifar100": _cafo_paper("cifar100", "ce", 1000),
    "paper_cifar100_mse": _cafo_paper("cifar100", "mse", 1),
    "paper_cifar100_sl": _cafo_paper("cifar100", "sl", 1000),
    # The three published MNIST runs with random blocks ran without the tuned values: exactly 10 epochs per head.
    "mnist_as_run": _cafo("mnist", (1e-3, 0.0), (10, None, 0.0)),
    **{name: _cafo(name, _RANDOM[name], _RANDOM_STOP[name]) for name in _SETS},
    **{f"dfa_{n}": _cafo(n, _DFA[n][0], _DFA_STOP[n], (*_DFA[n][1], _BLOCK_EPOCHS[n])) for n in _SETS},
    **{f"{name}_2026": _cafo(name, _RANDOM_2026[name], _STOP_2026) for name in _SETS},
    **{f"dfa_{n}_2026": _cafo(n, _DFA_2026[n][0], _STOP_2026, (*_DFA_2026[n][1], _BLOCK_EPOCHS[n])) for n in _SETS},
}


# ---------------------------------------------------------------------------------------------------------------------
# Channel-wise competitive learning (arXiv 2312.12668). The network of its CIFAR-100 run has super-classes in its lower
# layers, which `fwdonly.cwc` does not; MNIST and Fashion-MNIST ran for 5 epochs, CIFAR-10 for 25.

CWC_PUBLISHED: dict[str, dict[str, Any]] = {
    name: {"dataset": name, "channels": (20, 80, 240, 480), "learning_rate": 0.01, "batch_size": 128, "epochs": epochs}
    for name, epochs in (("mnist", 5), ("fashion_mnist", 5), ("cifar10", 25))
}


# ---------------------------------------------------------------------------------------------------------------------
# PEPITA. "mnist", "cifar10", "cifar100", "cnn_*": Dellaferrera, Kreiman (arXiv 2201.11665), README and notebook.
# "srinivasan_*": the README runs of Srinivasan et al. (arXiv 2302.05440), feedback drawn at once, no weight decay;
# their mirrored configuration mirrors in every step of each hundredth epoch, which --mirror-every (steps) cannot say.
# The convolutional script divides the kernel's batch mean by the batch size once more (its rate is 1/50): not here.


def _pepita(dataset: str, rate: float, **changes: Any) -> dict[str, Any]:
    common = {"dataset": dataset, "learning_rate": rate, "epochs": 100, "lr_schedule": "drops", "keep": "last"}
    return common | {"split": "paper", "batch_size": 64, "lr_drops": (60, 90)} | changes


_CNN: dict[str, Any] = {"net": "cnn", "widths": (), "batch_size": 50, "dropout": 0.0, "start": "torch_uniform"}
_CNN |= {"output_error": "first"}
_SRINIVASAN: dict[str, Any] = {"sign": "minus", "output_error": "first"}
PEPITA_PUBLISHED: dict[str, dict[str, Any]] = {
    "mnist": _pepita("mnist", 0.1),
    "cifar10": _pepita("cifar10", 0.01),
    "cifar100": _pepita("cifar100", 0.01),
    "cnn_mnist": _pepita("mnist", 0.01, **_CNN | {"lr_drops": (10, 30, 60)}),
    "cnn_cifar10": _pepita("cifar10", 0.01, **_CNN),
    "cnn_cifar100": _pepita("cifar100", 0.01, **_CNN),
    "srinivasan_cifar10": _pepita("cifar10", 0.01, **_SRINIVASAN),
    "srinivasan_cifar10_2": _pepita("cifar10", 0.01, widths=(1024, 1024), **_SRINIVASAN),
    "srinivasan_cifar10_3": _pepita("cifar10", 0.01, widths=(1024, 1024, 1024), **_SRINIVASAN),
    "srinivasan_hebbian": _pepita("cifar10", 0.01, form="hebbian", **_SRINIVASAN),
}


# ---------------------------------------------------------------------------------------------------------------------
# FOTON (arXiv 2512.20668). "released": the only configuration in the public code (rate 0.5, dropout 0.1; unstable on
# MNIST), its 20 retractions of order 1 by our default. "mnist": ours, from the search in experiments/README.md.
# "deep_*": ten and fifty layers, also ours.

_RELEASED: dict[str, Any] = {"epochs": 100, "learning_rate": 0.5, "dropout": 0.1}
_RELEASED |= {"split": "paper", "normalise": "paper", "lr_schedule": "constant"}
_DEEP: dict[str, Any] = {"dataset": "mnist", "epochs": 15, "learning_rate": 0.05, "lr_schedule": "constant"}
_DEEP |= {"batch_size": 128, "normalise": "paper", "compare": True}
FOTON_PUBLISHED: dict[str, dict[str, Any]] = {
    "mnist": {"dataset": "mnist", "normalise": "paper", "epochs": 100, "optimizer": "adam"}
    | {"learning_rate": 3e-3, "lr_schedule": "cosine", "temperature": 4.0},
    **{f"released_{name}": _RELEASED | {"dataset": name} for name in ("mnist", "cifar10", "cifar100")},
    "deep_10_relu": _DEEP | {"widths": (128,) * 10},
    "deep_50_tanh": _DEEP | {"widths": (64,) * 50, "activation": "tanh"},
}


# ---------------------------------------------------------------------------------------------------------------------
# Feedback alignment, weight mirror and Kolen-Pollack: the MNIST and CIFAR-10 runs of Akrout et al. (arXiv 1904.05391),
# with their logs; they do not shuffle, and their KP runs without decay. BP beside it has their rate, but a softmax.
# DFA, which they do not have, equals FA with one hidden layer; its feedback is given the standard deviation of theirs,
# 1 / sqrt(n + 10).

_AKROUT: dict[str, Any] = {"split": "paper", "normalise": "none", "activation": "sigmoid", "output": "sigmoid"}
_AKROUT |= {"start": "normal_fan_avg", "optimizer": "sgd", "lr_schedule": "constant", "epochs": 400, "keep": "last"}
_RATES = {"fa": 0.2, "dfa": 0.2, "wm": 0.05, "kp": 0.3}
FEEDBACK_PUBLISHED: dict[str, dict[str, Any]] = {
    f"{dataset}_{mode}": _AKROUT
    | {"dataset": dataset, "widths": widths, "mode": mode, "learning_rate": rate, "decay": 0.0}
    | {"bp": BPOptions(learning_rate=0.2)}
    | ({"feedback_scale": (3 * widths[0] / (widths[0] + 10)) ** 0.5} if mode == "dfa" else {})
    for dataset, widths in (("mnist", (500,)), ("cifar10", (1000,)))
    for mode, rate in _RATES.items()
}


# ---------------------------------------------------------------------------------------------------------------------
# Alignment with backpropagation: the depths of FOTON's figure, ours in all else.

ALIGNMENT: dict[str, dict[str, Any]] = {
    "deep_relu": {"widths": (128,) * 10},
    "deep_tanh": {"widths": (64,) * 50, "activation": "tanh"},
}
