"""Forward-Forward on a CNN, in its channel-wise competitive form (CwC)."""

import sys

from fwdonly.cli import script

sys.exit(script("train", "cwc"))
