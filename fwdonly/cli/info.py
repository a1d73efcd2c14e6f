"""``fwdonly info``: versions, devices, sensors, extras and data; of what is missing, how to get it."""

from collections.abc import Sequence
from typing import Any

from ..errors import UsageError
from ..results import environment
from ..study import inventory


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly info") -> int:
    """Print what is there; the exit code."""
    del command_line
    if {"-h", "--help"} & set(words):
        print(f"usage: {prog}\n\nVersions, devices, sensors, extras and data of this machine. Nothing is downloaded.")
        return 0
    if words:
        raise UsageError(f"{prog} takes no options; got {' '.join(words)}")
    facts = environment()
    for name in ("python", "platform", "cpu", "cores", "backend", "device", "devices"):
        print(f"{name:<20} {facts[name]}")
    print(f"{'packages':<20} {_joined(facts['packages'])}")
    _section("sensors", inventory.sensors())
    _section("extras", inventory.extras())
    _section("data", inventory.sets())
    return 0


def _joined(versions: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _section(title: str, lines: Sequence[inventory.Item]) -> None:
    print(f"\n{title}")
    for line in lines:
        print(f"  {'+' if line.there else '-'} {line.name:<18} {line.words}")
