"""The command ``fwdonly``: train, compare, tune, report, reproduce and serve, for whoever installed the package."""

from .main import main, script

__all__ = ["main", "script"]
