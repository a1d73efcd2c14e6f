"""Forward-Forward on an MLP: the reference recipe, and its variants."""

import sys

from fwdonly.cli import script

sys.exit(script("train", "ff"))
