"""Choose the deep tests by measured CPU seconds, so that the README's test command takes at most 6 minutes.

Measure on an idle machine (a plugin of pytest), then write ``tests/deep.txt``:

    PYTHONPATH=scripts python -m pytest -n 2 -p deep_tests -m "not slow"
    python scripts/deep_tests.py

Every test function stays in the quick part with its cheapest cases, unless its only case is dear. A contract that is
dear stays with the rules of `CORE`. A test that was not measured stays where it is, and so does a pattern.
"""

import collections
import json
import os
import re
import resource
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

MEASURED = Path(os.environ.get("FWDONLY_CPU_SECONDS", ".pytest_cpu_seconds"))
"""Folder with a file of lines (test, CPU seconds) per worker."""
DEEP = Path(__file__).parents[1] / "tests" / "deep.txt"
CASES = 0.9
"""CPU seconds that the quick cases of one function may take; one case stays, if it takes no more than ``ALONE``."""
ALONE = 1.4
"""CPU seconds of a test with a single case, at most."""
QUICK = {
    "test_axes.py::test_a_users_rule_goes_through_every_command",
    "test_compare.py::test_a_comparison_ends_in_verdicts_and_a_report_from_paired_runs",
    "test_docs.py::test_commands_in_documents_are_understood",
    "test_house.py::test_rooms_are_left_by_their_door_alone",
    "test_memory.py::test_control_bp_keeps_every_activation",
    "test_memory.py::test_mf_needs_less_memory_than_bp_and_no_more_for_more_layers",
    "test_scripts.py::test_help_explains_every_option",
    "test_scripts.py::test_mf_beside_bp_leaves_a_table_and_a_result_folder",
}
"""Functions that stay whatever they take: the doors, and the claims of the first page."""
FORMS = re.compile(r"_stages|mf_joint|bp_deep|bp_sum")
"""Cases of the contract that repeat a rule in another form."""
CORE = re.compile(r"(?<![a-z])(bp|mf|ff|cafo|pepita)(?![a-z])")
"""Rules that stay quick in contracts that take more than ``CONTRACT`` CPU seconds."""
CONTRACT = 4.0


def cpu_seconds() -> float:
    """CPU seconds of this process and its children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def pytest_runtest_protocol(item: Any) -> Generator[None, Any, Any]:
    """Note what a test took, its fixtures included."""
    before = cpu_seconds()
    outcome = yield
    MEASURED.mkdir(exist_ok=True)
    with open(MEASURED / f"{os.getpid()}.jsonl", "a") as file:
        print(json.dumps([f"{item.path.name}::{item.name}", cpu_seconds() - before]), file=file)
    return outcome


if "pytest" in sys.modules:
    import pytest

    pytest_runtest_protocol = pytest.hookimpl(wrapper=True)(pytest_runtest_protocol)


def deep_cases(function: str, cases: dict[str, float]) -> list[str]:
    """The cases of a function that go to the deep part."""
    if function in QUICK:
        return []
    if function.startswith("test_contract.py"):
        for left_out in (FORMS.search, lambda name: FORMS.search(name) or not CORE.search(name)):
            deep = [name for name in cases if left_out(name)]
            if len(deep) < len(cases) and sum(cases[name] for name in cases if name not in deep) < CONTRACT:
                break
        return deep if sum(cases.values()) > CONTRACT and len(deep) < len(cases) else []
    if len(cases) == 1:
        return [name for name, seconds in cases.items() if seconds > ALONE]
    total, deep = 0.0, []
    for at, (name, seconds) in enumerate(sorted(cases.items(), key=lambda case: case[1])):
        total += seconds
        if total > (CASES if at else ALONE):
            deep.append(name)
    return deep


def main() -> None:
    """Write the list."""
    functions: dict[str, dict[str, float]] = collections.defaultdict(dict)
    for file in sorted(MEASURED.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            name, seconds = json.loads(line)
            functions[name.partition("[")[0]][name] = seconds
    head, *lines = DEEP.read_text().splitlines()
    measured = {name for cases in functions.values() for name in cases}
    deep = {line for line in lines if "*" in line or line not in measured}
    deep |= {name for function, cases in functions.items() for name in deep_cases(function, cases)}
    DEEP.write_text("\n".join([head, *sorted(deep)]) + "\n")
    quick = sum(seconds for cases in functions.values() for name, seconds in cases.items() if name not in deep)
    print(f"{len(deep)} lines; the quick part takes {quick:.0f} CPU seconds")


if __name__ == "__main__":
    main()
