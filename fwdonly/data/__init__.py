"""Data sets as checked arrays: named sets, ways in for one's own, splits, normalisation, augmentation.

Images stay uint8 until they are on the device (MNIST: 45 MiB instead of 180 as float32), so `normalise` and `crop_flip`
are pure functions for use inside the compiled step.
"""

from .arrays import from_arrays
from .checks import DataWarning
from .columns import Columns
from .dataset import Dataset, check_dataset
from .facts import CLASS_NAMES, KNOWN
from .folders import cache_folder
from .formats import read_array
from .hub import from_huggingface
from .inputs import Preprocessing, preprocessing, preprocessing_of
from .pictures import from_folder
from .pixels import crop_flip, normalise, standardise, statistics
from .places import load
from .samples import image_files, read_images
from .speech import vowels
from .splits import paper_split, split
from .tables import from_table, read_table, rows_and_labels

__all__ = [
    "CLASS_NAMES",
    "KNOWN",
    "Columns",
    "DataWarning",
    "Dataset",
    "Preprocessing",
    "cache_folder",
    "check_dataset",
    "crop_flip",
    "from_arrays",
    "from_folder",
    "from_huggingface",
    "from_table",
    "image_files",
    "load",
    "normalise",
    "paper_split",
    "preprocessing",
    "preprocessing_of",
    "read_array",
    "read_images",
    "read_table",
    "rows_and_labels",
    "split",
    "standardise",
    "statistics",
    "vowels",
]
