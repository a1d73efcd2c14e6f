"""Hand a command or a script to SLURM."""

import sys

from fwdonly.cli import script

sys.exit(script("submit"))
