"""What a reader of an energy must know of the machine it was measured on."""

from collections.abc import Sequence

from .reading import Part

OTHERS = 0.05
"""Share of the processors' busy seconds from which other processes are told of."""


def on_other_processes(parts: Sequence[Part]) -> list[str]:
    """A line where processes beside this one had the processors: one for the machine, however many packages it has."""
    for begin, end in ((part.begin, part.end) for part in parts):
        if {"busy_s", "own_s"} <= begin.keys() & end.keys():
            busy, ours = (end[name] - begin[name] for name in ("busy_s", "own_s"))
            if busy - ours > max(OTHERS * busy, 0.1):
                return [
                    f"processes beside this one and its finished children had {busy - ours:.1f} of the {busy:.1f} s "
                    "that processors were busy; the energy of the packages is not this one's alone"
                ]
            return []
    return []
