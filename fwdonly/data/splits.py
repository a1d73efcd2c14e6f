"""Training and validation parts, balanced by class and fixed by a seed."""

from typing import SupportsIndex

import numpy as np

from ..errors import UsageError, check_seed
from .dataset import Dataset


def split(
    data: Dataset, *, seed: SupportsIndex = 0, num_validation: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split the training set into a part to train on and a part to choose with, stratified by class.

    One split serves every run: ``seed`` belongs to the split and must not be the seed of a run, or else validation
    numbers of different runs are not comparable. The numbers of a class differ from proportionality by less than one.

    Args:
        data: the set; only its training labels are used.
        seed: of the split, 0..2**32-1.
        num_validation: how many images to hold out; by default 10,000 of MNIST and Fashion-MNIST, 5,000 of CIFAR,
            the validation part that came with the set (``data.num_validation``), or 10 % of any other training set.
            0 holds out none.

    Returns:
        Indices into ``x_train``, int32, each ascending: (to train, to validate).

    Raises:
        UsageError: ``num_validation`` would leave nothing to train on, or a seed out of range.
    """
    n = len(data.y_train)
    if num_validation is None and data.num_validation:
        order = np.arange(n, dtype=np.int32)
        return order[: n - data.num_validation], order[n - data.num_validation :]
    if num_validation is None:
        num_validation = n // (6 if data.name in ("mnist", "fashion_mnist") else 10)
    if not 0 <= num_validation < n:
        raise UsageError(f"num_validation is {num_validation}: choose 0 to {n - 1} of the {n} training images")
    return hold_out(data.y_train, num_validation, seed)


def paper_split(data: Dataset, *, seed: SupportsIndex) -> tuple[np.ndarray, np.ndarray]:
    """The split of the Mono-Forward code, for reproductions: prefer `split`.

    MNIST: the first 50,000 images to train on and the last 10,000 to validate, whatever the seed. Other sets: a random
    90/10 split from the seed *of the run*, not stratified, so that validation numbers of different runs are not
    comparable.

    Args:
        data: the set; only its name and the size of its training set are used.
        seed: of the run, 0..2**32-1.

    Returns:
        Indices into ``x_train``, int32, each ascending: (to train, to validate).

    Raises:
        UsageError: a seed out of range.

    References:
        arXiv 2511.01061; GitHub Przemyslaw11/BeyondBackpropagation.

    Deviations:
        The original draws with PyTorch's generator: same sizes and distribution, other images.
    """
    n = len(data.y_train)
    random = random_state(seed)
    if data.name == "mnist":
        order, held = np.arange(n), n // 6
    else:
        order, held = random.permutation(n), n // 10
    return np.sort(order[: n - held]).astype(np.int32), np.sort(order[n - held :]).astype(np.int32)


def random_state(seed: SupportsIndex) -> np.random.RandomState:
    """NumPy's legacy generator, the only one whose stream is promised never to change."""
    return np.random.RandomState(check_seed(seed))


def hold_out(y: np.ndarray, held: int, seed: SupportsIndex) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out), ascending; each class gives its share, rounded by the largest remainders."""
    random = random_state(seed)
    classes, counts = np.unique(y, return_counts=True)
    take, remainder = np.divmod(held * counts, len(y))
    take[np.argsort(-remainder, kind="stable")[: held - take.sum()]] += 1
    out = np.zeros(len(y), bool)
    for label, number in zip(classes, take, strict=True):
        out[random.permutation(np.flatnonzero(y == label))[:number]] = True
    return np.flatnonzero(~out).astype(np.int32), np.flatnonzero(out).astype(np.int32)
