"""Files of data sets: NumPy archives, IDX, CIFAR's pickles; each checked as it is read."""

import contextlib
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, short
from ..files import Arrays, open_arrays, read_npy
from . import facts
from .checks import DataWarning, array_of, count_classes, labels_of
from .dataset import Dataset
from .facts import CLASS_NAMES
from .folders import brief, shown

KEYS = ("x_train", "y_train", "x_test", "y_test")
"""Arrays of a file in Keras layout."""

MEDMNIST = tuple(f"{part}_{kind}" for part in ("train", "val", "test") for kind in ("images", "labels"))
"""Arrays of a file in MedMNIST's layout."""


def checked_dataset(
    name: str, source: str, where: Path | str, arrays: dict[str, Any], num_classes: int | None, num_validation: int = 0
) -> Dataset:
    """Arrays in Keras layout as a `Dataset`; images of a named set must be of its type and size.

    With `num_classes` None the training labels tell the number, and each class must occur.
    """
    if num_classes is None:
        num_classes = count_classes(source, labels_of(f"{source}: y_train", arrays["y_train"]))
    with warnings.catch_warnings():
        if name in facts.IMAGE_SHAPE:  # sharper checks of named sets follow, and end in an error
            warnings.simplefilter("ignore", DataWarning)
        parts = [arrays[key] for key in KEYS]
        data = Dataset(name, source, *parts, num_classes=num_classes, num_validation=num_validation)
    shape = data.x_train.shape[1:]
    if name in facts.IMAGE_SHAPE and (shape != facts.IMAGE_SHAPE[name] or data.x_train.dtype != np.uint8):
        raise UsageError(
            f"{where}: images are {data.x_train.dtype} {shape}, those of {name} are uint8 {facts.IMAGE_SHAPE[name]}; "
            "replace the file"
        )
    return data


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file in Keras layout, with `num_classes`, or in that of MedMNIST."""
    with _numbers_of(path) as archive:
        stored = archive.names
        arrays = {key: archive[key] for key in (*KEYS, "num_classes", *MEDMNIST) if key in stored}
    if missing := [key for key in KEYS if key not in arrays]:
        if all(key in arrays for key in MEDMNIST):
            return {key: arrays[key] for key in MEDMNIST}
        raise UsageError(
            f"{path} lacks {', '.join(missing)} (it holds {short(', '.join(stored)) or 'nothing'}): store {KEYS}"
        )
    return {key: array for key, array in arrays.items() if key not in MEDMNIST}


def read_array(path: Path, name: str | None = None) -> np.ndarray:
    """One array of an .npz or .npy file: the one called ``name``, else "x", else the only one, else "x_test".

    Raises:
        UsageError: no such file or array, Python objects, or more than the memory holds; one line.
    """
    if path.suffix == ".npy":
        with _faults_of(path, ".npy"):
            return read_npy(path)
    with _numbers_of(path) as archive:
        known = archive.names
        preferred = [name] if name else ["x", *(known if len(known) == 1 else []), "x_test"]
        entry = next((key for key in preferred if key in known), None)
        if entry is None:
            what = f"no array {name!r}" if name else "no array x"
            raise UsageError(f"{path} has {what} (it holds {short(', '.join(known)) or 'nothing'}); give --array NAME")
        return archive[entry]


@contextlib.contextmanager
def _numbers_of(path: Path) -> Generator[Arrays, None, None]:
    """The arrays of an .npz file, within the block; what is wrong with it in one line."""
    with _faults_of(path, ".npz"):
        with path.open("rb") as raw:
            fault = _no_archive(raw.read(64))
        if fault:
            raise UsageError(f"{path} cannot be read as .npz ({fault}): replace it by the file itself")
        with open_arrays(path) as archive:
            yield archive


@contextlib.contextmanager
def _faults_of(path: Path, kind: str) -> Generator[None, None, None]:
    """Says in one line why a file cannot be read."""
    try:
        yield
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}; correct the path") from error
    except (OSError, ValueError) as error:
        if "Python objects" in str(error):
            raise UsageError(f"{path} holds Python objects, which may run anything: store plain numbers") from error
        raise UsageError(
            f"{path} cannot be read as {kind} ({brief(error)}): replace it by an undamaged file"
        ) from error


def _no_archive(start: bytes) -> str:
    """Why a file that begins so is no .npz; empty if it may be one."""
    if start[:2] == b"PK":
        return ""
    if start.lstrip()[:1] == b"<":
        return "it is an HTML page, as failed downloads are"
    if start[:6] == b"\x93NUMPY":
        return "it is a single array in .npy"
    return f"it begins with {start[:4].hex() or 'nothing'}"


def check_npz(name: str, path: Path) -> Dataset:
    """A named set from an .npz file: digests for the MNIST family, class counts and channel means for CIFAR."""
    classes = len(CLASS_NAMES[name])
    data = checked_dataset(name, shown(path), path, read_npz(path), classes)
    if name in facts.IDX_SHA256:
        for stem, array in zip(facts.IDX_RANKS, (data.x_train, data.y_train, data.x_test, data.y_test), strict=True):
            array = array[..., 0] if array.ndim == 4 else array.astype(np.uint8)
            # With the header of an IDX file in front, one table of digests serves both formats.
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            _check_digest(name, stem, path, hashlib.sha256(header + array.tobytes()).hexdigest())
        return data
    cifar = facts.CIFAR[name]
    for i, (x, y) in enumerate(((data.x_train, data.y_train), (data.x_test, data.y_test))):
        part = ("training", "test")[i]
        counts = np.bincount(y, minlength=classes)
        if (counts != cifar.per_class[i]).any():
            raise UsageError(
                f"{path}: {counts.min()} to {counts.max()} {part} images per class, {name} has {cifar.per_class[i]}; "
                "replace it by a complete copy"
            )
        means = x.reshape(-1, 3).sum(0, dtype=np.int64) / (x.size // 3 * 255)
        if np.abs(means - cifar.means[i]).max() > 6e-9:  # half of the last published digit, and rounding
            raise UsageError(
                f"{path}: channel means of the {part} images are {' '.join(f'{m:.8f}' for m in means)}, not "
                f"{' '.join(f'{m:.8f}' for m in cifar.means[i])}: a lossy or altered copy (JPEG? channel order?); "
                "replace it by a lossless one"
            )
    return data


def _check_digest(name: str, stem: str, path: Path, digest: str) -> None:
    """An error unless `digest` is that of the official file; it says so if it is another official file."""
    if digest == facts.IDX_SHA256[name][stem]:
        return
    for other, table in facts.IDX_SHA256.items():
        for other_stem, known in table.items():
            if digest == known:
                raise UsageError(
                    f"{path} holds the {other_stem} of {other}, not the {stem} of {name}: load it as {other!r}, or "
                    f"give {name} a sub-folder {name}/ with its own files"
                )
    raise UsageError(
        f"{path}: the {stem} are not the official ones of {name} (SHA-256 {digest[:8]}..., expected "
        f"{facts.IDX_SHA256[name][stem][:8]}...): altered, reordered or damaged; replace the file, or give a set of "
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
        raise UsageError(f"{path} cannot be read ({brief(error)}): truncated or damaged; {mend}") from error
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


def read_idx_folder(name: str, folder: Path, allow_partial: bool) -> Dataset | None:
    """MNIST or Fashion-MNIST from its four files, whose names do not tell the two apart."""
    paths = {}
    for stem, rank in facts.IDX_RANKS.items():
        names = (f"{stem}{dash}idx{rank}-ubyte{gz}" for gz in ("", ".gz") for dash in ("-", "."))
        if path := next((folder / file for file in names if (folder / file).is_file()), None):
            paths[stem] = path
    if missing := [stem for stem in facts.IDX_RANKS if stem not in paths]:
        if paths and not allow_partial:
            raise UsageError(f"{folder} holds {', '.join(paths)} but no {', '.join(missing)} of {name}: add the rest")
        return None
    arrays = []
    for stem, path in paths.items():
        array, digest = _read_idx(path, facts.IDX_RANKS[stem])
        _check_digest(name, stem, path, digest)
        arrays.append(array)
    keyed = dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays, strict=True))
    return checked_dataset(name, f"{shown(folder)} (IDX files)", folder, keyed, len(CLASS_NAMES[name]))


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


def read_cifar(name: str, folder: Path) -> Dataset | None:
    """CIFAR from the official Python batches, unpacked or in their archive."""
    cifar = facts.CIFAR[name]
    wanted = cifar.train | cifar.test
    for batches in (folder / cifar.folder, folder):
        if batches.name == cifar.folder and batches.is_dir():
            return _unpickle_cifar(name, batches, lambda file, at=batches: (at / file).read_bytes())
    archive = folder / cifar.archive
    if not archive.is_file():
        return None
    members = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if (file := Path(member.name).name) in wanted and (stream := tar.extractfile(member)):
                    members[file] = stream.read()
    except Exception as error:  # damage shows as anything that tarfile, gzip and zlib raise
        raise UsageError(f"{archive} cannot be read ({brief(error)}): truncated or damaged; replace it") from error
    return _unpickle_cifar(name, archive, members.__getitem__)


def _unpickle_cifar(name: str, where: Path, read: Callable[[str], bytes]) -> Dataset:
    """The batches that `read` gives, checked by MD5 before they are unpickled."""
    cifar = facts.CIFAR[name]
    arrays = {}
    for part, table in (("train", cifar.train), ("test", cifar.test)):
        xs, ys = [], []
        for file, md5 in table.items():
            try:
                raw = read(file)
            except (OSError, KeyError) as error:
                raise UsageError(f"{where}: {file} cannot be read ({brief(error)}): add or replace it") from error
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
                ys.append(np.asarray(batch[cifar.labels]))
            except Exception as error:  # what unpickling foreign bytes may raise has no bounds
                raise UsageError(f"{where}: {file} cannot be unpickled ({brief(error)}): replace it") from error
        arrays |= {f"x_{part}": np.concatenate(xs), f"y_{part}": np.concatenate(ys)}
    return checked_dataset(name, f"{shown(where)} (official batches)", where, arrays, len(CLASS_NAMES[name]))


def from_npz(name: str, path: Path) -> Dataset:
    """A set without official checksums."""
    arrays: dict[str, Any] = read_npz(path)
    if "x_train" not in arrays:
        return _from_medmnist(name, path, arrays)
    classes = arrays.get("num_classes")
    if classes is not None and (classes.size != 1 or not np.issubdtype(classes.dtype, np.integer)):
        raise UsageError(f"{path}: num_classes must be one integer")
    return checked_dataset(name, shown(path), path, arrays, None if classes is None else int(classes.item()))


def _from_medmnist(name: str, path: Path, arrays: dict[str, Any]) -> Dataset:
    """A set in MedMNIST's layout: its validation part follows the training part, and `split` knows it as such."""
    joined: dict[str, Any] = {"x_test": arrays["test_images"], "y_test": arrays["test_labels"]}
    for key, kind in (("x_train", "images"), ("y_train", "labels")):
        pair = tuple(array_of(f"{path}: {part}_{kind}", arrays[f"{part}_{kind}"]) for part in ("train", "val"))
        if min(pair[0].ndim, pair[1].ndim) < 1 or not all(array.dtype.kind in "buif" for array in pair):
            raise UsageError(f"{path}: train_{kind} and val_{kind} must be arrays of numbers; replace the file")
        if pair[0].shape[1:] != pair[1].shape[1:]:
            raise UsageError(
                f"{path}: train_{kind} are {pair[0].shape[1:]}, val_{kind} {pair[1].shape[1:]}; give both one size"
            )
        joined[key] = np.concatenate(pair)
    held = len(arrays["val_labels"])
    source = f"{shown(path)} (MedMNIST's layout, its own validation part)"
    if len(arrays["val_images"]) != held:
        raise UsageError(f"{path}: {len(arrays['val_images'])} val_images and {held} val_labels; give each its label")
    return checked_dataset(name, source, path, joined, None, held)
