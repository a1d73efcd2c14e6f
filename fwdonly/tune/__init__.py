"""The search for settings with Optuna (extra ``tune``), by one worker or many; never on the test set."""

from ..card import Range, Space
from . import search, storage, workers
from .search import Round, best, tune
from .storage import masked, open_storage, reachable, serve
from .workers import elsewhere

__all__ = [
    "Range",
    "Round",
    "Space",
    "best",
    "elsewhere",
    "masked",
    "open_storage",
    "reachable",
    "search",
    "serve",
    "storage",
    "tune",
    "workers",
]
