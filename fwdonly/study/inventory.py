"""What this machine has for a study: packages by extra, sensors, data sets; and how to get what is missing."""

import os
import re
from collections.abc import Iterable
from importlib import metadata
from typing import NamedTuple

from .. import data, measure
from ..errors import UsageError
from ..surroundings import version


class Item(NamedTuple):
    """One thing that a study may need."""

    name: str
    there: bool
    words: str
    """What it is, or how to get it."""


def extras(requirements: Iterable[str] | None = None) -> list[Item]:
    """The extras of the installed package: versions of their packages, or the command that installs them.

    Args:
        requirements: lines of the package's metadata; None reads them.
    """
    lines = metadata.requires("fwdonly") or () if requirements is None else requirements
    packages_of: dict[str, list[str]] = {}
    for line in lines:
        match = re.match(r"([\w.-]+)(\[[^\]]*\])?.*;.*extra *== *['\"]([\w-]+)['\"]", line)
        if match and match[1] not in ("fwdonly", "jax"):
            packages_of.setdefault(match[3], []).append(match[1])
    items = []
    for extra, packages in sorted(packages_of.items()):
        versions = {package: version(package) for package in packages}
        missing = [package for package, number in versions.items() if number is None]
        mend = f"without {', '.join(missing)}: pip install 'fwdonly[{extra}]'"
        known = ", ".join(f"{package} {number}" for package, number in versions.items())
        items.append(Item(extra, not missing, mend if missing else known))
    return items


def sensors() -> list[Item]:
    """Sensors of energy that can be read here, or why there is none."""
    import jax

    meter = measure.sensors
    kinds = {
        "processors (RAPL)": lambda: meter.packages(),
        "GPUs (NVML)": lambda: meter.boards([device for device in jax.devices() if device.platform == "gpu"]),
    }
    items = []
    for name, read in kinds.items():
        try:
            readable = read()
            words = f"{len(readable)} that can be read" if readable else "none; energy is unavailable, never guessed"
        except (meter.Unreadable, UsageError, OSError) as error:
            readable, words = [], " ".join(str(error).split())
        items.append(Item(name, bool(readable), words))
    return items


def sets(names: Iterable[str] = data.KNOWN[1:]) -> list[Item]:
    """Named data sets: where each comes from, or how to get it. Nothing is downloaded."""
    items, before = [], os.environ.get("FWDONLY_OFFLINE")
    os.environ["FWDONLY_OFFLINE"] = "1"
    try:
        for name in names:
            try:
                dataset = data.load(name)
                words = f"{len(dataset.y_train):,} + {len(dataset.y_test):,}, {dataset.source}"
                items.append(Item(name, True, words))
            except UsageError as error:
                items.append(Item(name, False, " ".join(str(error).split())))
    finally:
        os.environ.pop("FWDONLY_OFFLINE")
        if before is not None:
            os.environ["FWDONLY_OFFLINE"] = before
    return items
