"""Mono-Forward on an MLP, and backpropagation on the same MLP beside it."""

import sys

from fwdonly.cli import script

sys.exit(script("train", "mf", "--against", "bp"))
