"""Optuna's gRPC proxy in front of a database."""

import sys

from fwdonly.cli import script

sys.exit(script("serve"))
