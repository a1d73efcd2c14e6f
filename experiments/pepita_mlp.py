"""PEPITA on an MLP or a small CNN, in the forms of both papers."""

import sys

from fwdonly.cli import script

sys.exit(script("train", "pepita"))
