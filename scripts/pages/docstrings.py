"""Docstrings as the site's reader of Google style expects them; Griffe, which reads them, is in the extra ``docs``."""

import importlib
import re
from typing import Any

griffe: Any = importlib.import_module("griffe")


class Docstrings(griffe.Extension):
    """Examples are code, and two colons that announce a block are one."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Change one object's docstring."""
        if obj.docstring is not None:
            text = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = re.sub(r"::(\n\s*\n +)", r":\1", text)
