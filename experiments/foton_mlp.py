"""FOTON on an MLP or a CNN of orthonormal layers."""

import sys

from fwdonly.cli import script

sys.exit(script("train", "foton"))
