"""Any rule against any other: the same blocks, data, seeds and stopping."""

import sys

from fwdonly.cli import script

sys.exit(script("compare"))
