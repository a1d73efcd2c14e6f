"""The report of one or several result folders."""

import sys

from fwdonly.cli import script

sys.exit(script("report"))
