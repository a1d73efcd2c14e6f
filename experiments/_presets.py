"""The settings published for Mono-Forward and its BP twin (arXiv 2509.19063 and its public code and run logs, 2025).

MF: greedy, no M_0, prediction from the last layer, Adam without decay or schedule, patience per layer on the validation
loss with min_delta 1e-4, last weights of each layer kept. BP: AdamW, patience on the validation loss, weights of the
best validation accuracy kept. Both: batch 128, the incomplete last batch dropped.
"""

from typing import Any


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
