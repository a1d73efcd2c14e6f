"""Coverage of lines and branches by room, from ``coverage json``; fails where a room has less than its floor."""

import collections
import json
import sys
from pathlib import Path

FLOOR = 90.0
"""Percent of lines and branches together."""


def main(file: str) -> int:
    """Print a line per room; 1 if one lies below the floor."""
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for name, found in json.loads(Path(file).read_text())["files"].items():
        parts = Path(name).parts
        if "fwdonly" not in parts:
            continue
        inside = parts[parts.index("fwdonly") + 1 :]
        room, numbers = inside[0] if len(inside) > 1 else "rules and base", found["summary"]
        counts[room][0] += numbers["covered_lines"] + numbers["covered_branches"]
        counts[room][1] += numbers["num_statements"] + numbers["num_branches"]
    below = False
    for room, (hit, total) in sorted(counts.items()):
        percent = 100 * hit / max(total, 1)
        below |= percent < FLOOR
        note = f"  below {FLOOR:g} %" if percent < FLOOR else ""
        print(f"{room:<16} {percent:5.1f} % of {total} lines and branches{note}")
    return int(below)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
