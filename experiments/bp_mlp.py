"""Backpropagation on an MLP, the baseline of every other rule."""

import sys

from fwdonly.cli import script

sys.exit(script("train", "bp"))
