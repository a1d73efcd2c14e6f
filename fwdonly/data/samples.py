"""Image files as raw samples for a model that is there already."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UsageError
from .checks import DataWarning
from .folders import shown
from .pictures import is_image, open_image

GREY = ("1", "L", "LA")


def image_files(path: Path) -> list[Path]:
    """A file, or the image files below a folder in a fixed order.

    Raises:
        UsageError: nothing is there.
    """
    if not path.exists():
        raise UsageError(f"there is no file {shown(path)}; correct the path")
    files = sorted(file for file in path.rglob("*") if file.is_file() and is_image(file)) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{shown(path)} holds no image file; give a folder of images")
    return files


def read_images(files: Sequence[Path], shape: tuple[int, ...], *, resize: bool = False) -> np.ndarray:
    """The images as uint8 (n, *shape) for a model that takes ``shape``, (height, width, 1 or 3).

    Colour becomes grey where the model takes grey, and transparency is dropped. Both give a warning.

    Args:
        files: image files.
        shape: of a sample of the model.
        resize: scale images of another size (bilinear), as ``from_folder(size=...)`` does.

    Raises:
        UsageError: a model that takes no images, a file that is none, or one of another size; one line.
    """
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise UsageError(f"this model takes samples {shape}, and image files are (height, width, 1 or 3); give an .npz")
    images = np.empty((len(files), *shape), np.uint8)
    for at, file in enumerate(files):
        image = open_image(file, shape[:2] if resize else None)
        if (image.height, image.width) != shape[:2]:
            raise UsageError(
                f"{shown(file)} is {image.height}x{image.width}, and this model takes {shape[0]}x{shape[1]}; scale it, "
                "or pass --resize"
            )
        if image.mode in ("RGBA", "LA"):
            _warn(f"{shown(file)} is transparent: that channel is dropped")
        if shape[2] == 1 and image.mode not in GREY:
            _warn(f"{shown(file)} has colours, and this model takes grey: they are dropped")
        images[at] = np.asarray(image.convert("L" if shape[2] == 1 else "RGB")).reshape(shape)
    return images


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=3)
