"""Named image sets as arrays: sources and checksums, splits, normalisation, augmentation.

Images stay uint8 until they are on the device (MNIST: 45 MiB instead of 180 as float32), so `normalise` and `crop_flip`
are pure functions for use inside the compiled step.
"""

from .checks import DataWarning
from .dataset import Dataset
from .facts import CLASS_NAMES, KNOWN
from .folders import cache_folder
from .pixels import crop_flip, normalise, standardise, statistics
from .places import load
from .splits import paper_split, split

__all__ = [
    "CLASS_NAMES",
    "KNOWN",
    "DataWarning",
    "Dataset",
    "cache_folder",
    "crop_flip",
    "load",
    "normalise",
    "paper_split",
    "split",
    "standardise",
    "statistics",
]
