"""Published tables, run again."""

import sys

from fwdonly.cli import script

sys.exit(script("reproduce"))
