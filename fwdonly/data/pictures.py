"""A folder of images, a sub-folder for each class, through pillow (extra ``data``)."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from ..errors import UsageError
from ..files import expanded
from .arrays import Share, hold_out_share
from .checks import DataWarning
from .dataset import Dataset
from .folders import brief, optional, shown

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""Names of the folder beside ``train`` that is the test part; the first that is there."""


def from_folder(
    path: str | Path, *, test: Share = 0.2, seed: SupportsIndex = 0, size: tuple[int, int] | None = None
) -> Dataset:
    """Images in folders named after their classes: ``PATH/cat/1.png``, or ``PATH/train/cat/1.png`` and ``PATH/test``.

    Grey images have one channel, others three. Transparency is dropped with a warning.

    Args:
        path: the folder.
        test: how much to hold out to test where there is no folder ``test`` beside ``train``, as in `from_arrays`.
        seed: of the held-out part.
        size: (height, width) to which every image is scaled; images of several sizes need it.

    Raises:
        UsageError: no such folder, no classes in it, or images that cannot be read, in one line.
    """
    optional("PIL", "a folder of images", "data")
    root = expanded(path, "the folder")
    if not root.is_dir():
        raise UsageError(f"{shown(root)} is no folder; give one with a sub-folder of images for each class")
    sides = size if isinstance(size, tuple | list) else ()
    if size is not None and not (len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)):
        raise UsageError(f"size is (height, width) in pixels, at least 1; got {size}")
    name, where = f"folder:{root.resolve().name}", shown(root)
    held = next((root / part for part in TEST_FOLDERS if (root / part).is_dir()), None)
    if (root / "train").is_dir() and held:
        files, y, classes = _files_of(root / "train")
        test_files, y_test, _ = _files_of(held, classes)
        x = _read([*files, *test_files], size)
        x, x_test, source = x[: len(files)], x[len(files) :], f"{where} (images; train and {held.name})"
    else:
        files, y, classes = _files_of(root)
        x = _read(files, size)
        train, test_indices = hold_out_share(where, y, test, seed)
        x, x_test, y, y_test = x[train], x[test_indices], y[train], y[test_indices]
        source = f"{where} (images; {len(test_indices)} held out to test)"
    return Dataset(name, source, x, y, x_test, y_test, len(classes), class_names=classes)


def _files_of(root: Path, classes: tuple[str, ...] | None = None) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    """The image files under a folder in a fixed order, their labels, and the classes' names."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = tuple(folder.name for folder in folders)
    if len(names) < 2:
        raise UsageError(f"{shown(root)} has {len(names)} sub-folders; give one with a sub-folder of images per class")
    classes = classes or names
    if strange := [name for name in names if name not in classes]:
        raise UsageError(
            f"{shown(root)} holds the class {strange[0]!r}, which has no training images; remove or add it"
        )
    files, labels = [], []
    for folder in folders:
        here = sorted(path for path in folder.rglob("*") if is_image(path))
        if not here:
            raise UsageError(f"{shown(folder)} holds no image file ({', '.join(_common())}); fill or remove it")
        files += here
        labels += [classes.index(folder.name)] * len(here)
    return files, np.asarray(labels, np.int32), classes


def _common() -> list[str]:
    endings = optional("PIL.Image", "images", "data").registered_extensions()
    return [ending for ending in (".png", ".jpg", ".bmp", ".gif", ".tif", ".webp") if ending in endings]


def _read(files: Sequence[Path], size: tuple[int, int] | None) -> np.ndarray:
    """The images as uint8 (n, height, width, channels)."""
    return stack_images([open_image(file, size) for file in files], [shown(file) for file in files])


def open_image(file: Path, size: tuple[int, int] | None = None) -> Any:
    """An image of 8 bits without a palette, as it is to be looked at, scaled to ``size`` (height, width).

    Raises:
        UsageError: a file that cannot be read as one.
    """
    pillow, ops = (optional(f"PIL.{module}", "a folder of images", "data") for module in ("Image", "ImageOps"))
    name = shown(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(file) as opened:
                image = ops.exif_transpose(opened)
                image.load()
    except Exception as error:  # damage shows as anything that pillow's readers raise
        raise UsageError(f"{name} cannot be read as an image ({brief(error)}): replace or remove it") from error
    image = plain_image(image, name)
    return image if size is None else image.resize(size[::-1], pillow.Resampling.BILINEAR)


def is_image(path: Path) -> bool:
    """Whether a file's name ends as an image's does."""
    endings = optional("PIL.Image", "images", "data").registered_extensions()
    return path.suffix.lower() in endings and not path.name.startswith(".")


def plain_image(image: Any, name: str) -> Any:
    """An image of 8 bits without a palette.

    Raises:
        UsageError: it has more bits.
    """
    if image.mode.startswith(("I", "F")):
        raise UsageError(f"{name} has more than 8 bits a pixel (mode {image.mode}); convert it, or use from_arrays")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    return image


def stack_images(images: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    """Images of one size as uint8 (n, height, width, channels): one channel where all are grey, else three.

    Raises:
        UsageError: they have several sizes.
    """
    modes = {image.mode for image in images}
    if clear := next((name for image, name in zip(images, names, strict=True) if image.mode in ("RGBA", "LA")), None):
        warnings.warn(f"{clear} is transparent: that channel is dropped, here and elsewhere", DataWarning, stacklevel=4)
    first = images[0]
    for image, name in zip(images, names, strict=True):
        if image.size != first.size:
            raise UsageError(
                f"images have several sizes ({names[0]} {first.height}x{first.width}, {name} "
                f"{image.height}x{image.width}); give size=(height, width), or folder:PATH#size=N"
            )
    grey = modes <= {"1", "L", "LA"}
    x = np.stack([np.asarray(image.convert("L" if grey else "RGB")) for image in images])
    return x[..., None] if grey else x
