"""Cascaded-Forward on a CNN: predictors on random blocks, or with --blocks dfa on trained ones."""

import sys

from fwdonly.cli import script

sys.exit(script("train", "cafo"))
