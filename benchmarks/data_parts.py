"""Cuts a data set's .npz into parts that are small enough to travel, and joins them again.

Colour images are kept as lossless WebP, 500 to a picture, at 0.55 of their size; everything else is kept as it is.

    python benchmarks/data_parts.py cut cifar10.npz --into FOLDER      # FOLDER/cifar10.part0of2.npz, ...
    python benchmarks/data_parts.py join cifar10 --into FOLDER         # FOLDER/cifar10.npz, checked by SHA-256
"""

import argparse
import hashlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("x_train", "y_train", "x_test", "y_test")
TOGETHER = 500
"""Images of one WebP picture; its height may be 16,383 pixels at most."""


def cut(path: Path, folder: Path, megabytes: float) -> list[Path]:
    """Write the parts of ``path`` into ``folder``, each of at most so many megabytes; returns their paths."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in NAMES}
    pieces = [(name, piece) for name, array in arrays.items() for piece in packed(array)]
    limit, groups, size = 1e6 * megabytes - 1e5, [[]], 0  # room for the file's own tables
    for number, (name, piece) in enumerate(pieces):
        if size + len(piece) > limit and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append((number, name, piece))
        size += len(piece)
    about = {f"shape of {name}": np.array(array.shape) for name, array in arrays.items()}
    about |= {f"dtype of {name}": np.array(array.dtype.str) for name, array in arrays.items()}
    about["digest"] = np.array(digest(arrays))
    paths = []
    for at, group in enumerate(groups):
        own = {f"{number:06d} {name}": np.frombuffer(piece, np.uint8) for number, name, piece in group}
        paths.append(folder / f"{path.stem}.part{at}of{len(groups)}.npz")
        np.savez(paths[-1], allow_pickle=False, **own, **about)
    return paths


def join(name: str, folder: Path) -> Path:
    """Write ``name``.npz from its parts in ``folder``.

    Raises:
        ValueError: a part is missing, or the result is not what was cut.
    """
    parts = found(name, folder)
    if not complete(parts):
        raise ValueError(
            f"parts of {name} are missing in {folder}: {', '.join(p.name for p in parts) or 'there is none'}"
        )
    pieces: dict[str, bytes] = {}
    for path in parts:
        with np.load(path, allow_pickle=False) as file:
            pieces |= {key: file[key].tobytes() for key in file.files if re.match(r"\d{6} ", key)}
            about = {key: file[key] for key in file.files if " of " in key or key == "digest"}
    arrays = {}
    for own in NAMES:
        given = [pieces[key] for key in sorted(pieces) if key.endswith(f" {own}")]
        arrays[own] = unpacked(given, tuple(about[f"shape of {own}"]), np.dtype(str(about[f"dtype of {own}"])))
    if digest(arrays) != str(about["digest"]):
        raise ValueError(f"{name} is damaged: its SHA-256 is not that of the file that was cut")
    path = folder / f"{name}.npz"
    np.savez(path, allow_pickle=False, **arrays)
    return path


def available(name: str, folder: Path) -> bool:
    """Whether ``folder`` has ``name``.npz; it is joined first where all its parts are there."""
    if not (folder / f"{name}.npz").exists() and complete(found(name, folder)):
        join(name, folder)
    return (folder / f"{name}.npz").exists()


def found(name: str, folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{name}.part*of*.npz"))


def complete(parts: list[Path]) -> bool:
    """Whether the parts are all that there were."""
    return bool(parts) and len(parts) == int(parts[0].stem.rpartition("of")[2])


def packed(array: np.ndarray) -> list[bytes]:
    """Bytes of an array: colour images as lossless pictures, one image below the other."""
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or TOGETHER * array.shape[1] > 16_383:
        return [np.ascontiguousarray(array).tobytes()]
    from PIL import Image

    pieces = []
    for start in range(0, len(array), TOGETHER):
        own = np.ascontiguousarray(array[start : start + TOGETHER])
        picture = io.BytesIO()
        column = Image.fromarray(own.reshape(-1, own.shape[2], 3))
        column.save(picture, "webp", lossless=True, quality=75, method=4, exact=True)
        pieces.append(picture.getvalue())
    return pieces


def unpacked(pieces: list[bytes], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The array of `packed`."""
    if not all(piece[:4] == b"RIFF" and piece[8:12] == b"WEBP" for piece in pieces):
        return np.frombuffer(b"".join(pieces), dtype).reshape(shape)
    from PIL import Image

    pictures = [np.asarray(Image.open(io.BytesIO(piece)).convert("RGB")) for piece in pieces]
    return np.concatenate(pictures).reshape(shape)


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of the arrays' shapes, types and bytes."""
    whole: Any = hashlib.sha256()
    for name in NAMES:
        whole.update(f"{name} {arrays[name].shape} {arrays[name].dtype.str}".encode())
        whole.update(np.ascontiguousarray(arrays[name]).tobytes())
    return whole.hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Cut or join."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("cut", "join"))
    parser.add_argument("name", help="cut: an .npz file; join: the data set's name")
    parser.add_argument("--into", type=Path, required=True, help="folder of the parts")
    parser.add_argument("--megabytes", type=float, default=58.0, help="size of a part at most")
    options = parser.parse_args(arguments)
    try:
        if options.what == "cut":
            for path in cut(Path(options.name), options.into, options.megabytes):
                print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        else:
            print(join(options.name, options.into))
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
