"""Feedback alignment on an MLP or a CNN; its relatives are `fwdonly train dfa`, `wm`, `kp` and others."""

import sys

from fwdonly.cli import script

sys.exit(script("train", "fa"))
