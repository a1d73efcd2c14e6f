"""Search a rule's settings with Optuna."""

import sys

from fwdonly.cli import script

sys.exit(script("tune"))
