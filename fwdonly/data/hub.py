"""Data sets of Hugging Face, through their package `datasets` (extra ``hf``)."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from ..errors import UsageError
from .arrays import Share, from_arrays
from .dataset import Dataset
from .folders import brief, optional, shown
from .pictures import plain_image, stack_images
from .tables import from_table


class _Parts(NamedTuple):
    """What trains, with the validation rows at its end, and what tests."""

    train: Any
    test: Any | None
    num_validation: int
    division: str


def from_huggingface(
    name: str, *, target: str | None = None, config: str | None = None, test: Share = 0.2, seed: SupportsIndex = 0
) -> Dataset:
    """A set of images, or a table, from Hugging Face's hub or from a folder that ``save_to_disk`` wrote.

    Its part "train" trains; "test", else "validation", tests. Where there are all three, the validation part is kept as
    such (`split` uses it); where there is only one, a test part is held out.

    Args:
        name: on the hub, ``user/name``, or a folder.
        target: column of the classes; default the only one of type ``ClassLabel``.
        config: which of the set's configurations.
        test: how much to hold out where there is only one part, as in `from_arrays`.
        seed: of the held-out part.

    Raises:
        UsageError: `datasets` is missing, or a set that cannot be had or is neither images nor a table.
    """
    library = optional("datasets", f"data set hf:{name}", "hf")
    where = f"hf:{Path(name).resolve().name if Path(name).is_dir() else name}"
    parts = _roles(library, where, _load(library, name, config))
    features = parts.train.features
    label = _label(library, where, features, target)
    image = next((column for column, kind in features.items() if isinstance(kind, library.Image)), None)
    if image is None:
        rows, rows_test = parts.train.to_pandas(), None if parts.test is None else parts.test.to_pandas()
        dataset = from_table(rows, target=label, test=test if rows_test is None else rows_test, seed=seed)
    else:
        test_part = None if parts.test is None else (_images(where, parts.test, image), parts.test[label][:])
        x, y = _images(where, parts.train, image), parts.train[label][:]
        dataset = from_arrays(x, y, test=test_part or test, seed=seed, name=where)
    kind = features[label]
    classes = tuple(kind.names) if isinstance(kind, library.ClassLabel) else dataset.class_names
    return dataclasses.replace(
        dataset,
        name=where,
        source=f"{where} (Hugging Face; {parts.division})",
        class_names=classes,
        num_classes=len(classes) if classes else dataset.num_classes,
        num_validation=parts.num_validation,
    )


def _load(library: Any, name: str, config: str | None) -> dict[str, Any]:
    """The parts by name."""
    try:
        parts = library.load_from_disk(name) if Path(name).is_dir() else library.load_dataset(name, config)
    except Exception as error:  # the network, the hub, the file formats: anything
        place = shown(Path(name)) if Path(name).is_dir() else name
        raise UsageError(
            f"hf:{place} cannot be had ({brief(error)}): correct the name, or give a saved folder"
        ) from error
    return dict(parts) if isinstance(parts, dict) else {"train": parts}


def _roles(library: Any, where: str, parts: dict[str, Any]) -> _Parts:
    if "train" not in parts:
        raise UsageError(f"{where} has the parts {', '.join(parts)} and no 'train'; save one under that name")
    train, validation, test = parts["train"], parts.get("validation"), parts.get("test")
    if test is None and validation is None:
        return _Parts(train, None, 0, "a test part held out")
    if test is None:
        return _Parts(train, validation, 0, "tested on its validation part")
    if validation is None:
        return _Parts(train, test, 0, "its own test part")
    joined = library.concatenate_datasets([train, validation])
    return _Parts(joined, test, len(validation), "its own validation and test parts")


def _label(library: Any, where: str, features: Any, target: str | None) -> str:
    if target is not None:
        if target not in features:
            raise UsageError(f"{where} has no column {target!r}; its columns are {', '.join(features)}")
        return target
    columns = [column for column, kind in features.items() if isinstance(kind, library.ClassLabel)]
    if len(columns) != 1:
        raise UsageError(
            f"{where} has {len(columns)} columns of classes; name one of {', '.join(columns or features)} as target, "
            "or hf:NAME#target=COLUMN"
        )
    return columns[0]


def _images(where: str, rows: Any, column: str) -> np.ndarray:
    try:
        images = [row[column] for row in rows.select_columns([column])]
    except Exception as error:  # damage shows as anything that pillow's readers raise
        raise UsageError(f"{where}: images of {column!r} cannot be read ({brief(error)}): replace them") from error
    names = [f"{where} image {at}" for at in range(len(images))]
    return stack_images([plain_image(image, what) for image, what in zip(images, names, strict=True)], names)
