"""Trained models as files: saved, loaded without running anything of theirs, used on raw samples, and exported.

The format is in docs/saved-models.md.
"""

from .export import exported
from .model import Evaluation, Model, Prediction
from .opening import load
from .storing import save

__all__ = ["Evaluation", "Model", "Prediction", "exported", "load", "save"]
