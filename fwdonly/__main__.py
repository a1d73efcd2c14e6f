"""``python -m fwdonly`` is the command ``fwdonly``."""

import sys

from .cli import main

sys.exit(main())
