"""Choose the deep and the slow tests by measured CPU seconds: 6 minutes for the README's test command, 30 for the gate.

Measure on an idle machine (a plugin of pytest), then write ``tests/deep.txt`` and ``tests/slow.txt``:

    PYTHONPATH=scripts python -m pytest -n 2 -p deep_tests -m ""
    python scripts/deep_tests.py

Quick, for the README's command: every test function with its cheapest cases, unless its only case is dear. A contract
that is dear stays with the rules of `CORE`. Deep, for the gate: further cases up to `GATE`, and every rule's contracts.
Slow, once a week: what is left. A test that was not measured stays where it is, and so does a pattern. What is deep
stays at least that: beside others that compile for it a test looks cheap. Delete its line to have it tried as quick.
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
DEEP, SLOW = (Path(__file__).parents[1] / "tests" / f"{part}.txt" for part in ("deep", "slow"))
ORACLES = re.compile(r"test_(equations\w*|locality|learning|cost|readouts)\.py")
"""Files that hold the mathematics: the gate has more of them."""
GATE, GATE_OF_ORACLES = 2.0, 8.0
"""CPU seconds that the cases of one function may take in the gate; its cheapest case stays, if it is not too dear."""
LONE, LONE_ORACLE = 7.0, 10.0
"""CPU seconds of a function's cheapest case, at most, unless it stands in `KEPT`."""
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
KEPT = QUICK | {
    "test_axes.py::test_every_rule_trains_on_one_network_in_one_comparison",
    "test_claims.py::test_a_claim_is_run_and_continued",
    "test_compare.py::test_a_killed_comparison_repeats_no_finished_run",
    "test_compare.py::test_a_search_prints_the_command_that_trains_the_best_settings",
    "test_compare.py::test_every_row_of_every_table_is_a_command_of_ours",
    "test_compare.py::test_matched_passes_are_the_same_number_of_images_for_every_rule_stages_included",
    "test_crashes.py::test_a_few_kills_are_resumed_to_the_same_numbers",
    "test_crashes.py::test_mutated_files_for_every_reader_are_taken_or_refused_in_one_line",
    "test_lost.py::test_figures_need_no_backend_and_no_latex",
    "test_memory.py::test_bp_in_chunks_keeps_fewer_activations_than_mf_but_all_of_its_gradient",
    "test_models.py::test_the_example_of_ones_own_images",
    "test_networks.py::test_the_example_of_ones_own_network",
    "test_notebook.py::test_the_notebook_runs_and_ends_with_a_verdict",
    "test_processes.py::test_a_killed_process_costs_its_unfinished_runs_alone",
    "test_scripts.py::test_every_bad_input_is_one_line_a_non_zero_exit_and_loses_nothing",
    "test_sharding.py::test_a_split_batch_is_that_of_one_device_by_jit_and_refused_where_gradients_would_be_summed",
    "test_train.py::test_each_run_of_a_sweep_equals_its_single_run",
    "test_tune_workers.py::test_three_workers_that_start_together_lose_and_repeat_nothing",
}
"""Functions that the gate tries whatever they take: examples, kills, resumption, bad input, all rules at once."""
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
    if "device" in item.path.parts:  # a suite of its own
        return outcome
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


def slow_cases(function: str, cases: dict[str, float]) -> list[str]:
    """The cases of a function that the gate leaves out."""
    if function.startswith("test_contract.py"):
        return [name for name in cases if FORMS.search(name)]
    all_cases, lone = (GATE_OF_ORACLES, LONE_ORACLE) if ORACLES.match(function) else (GATE, LONE)
    total, slow = 0.0, []
    for at, (name, seconds) in enumerate(sorted(cases.items(), key=lambda case: case[1])):
        stays = total + seconds <= all_cases if at else function in KEPT or seconds <= lone
        total += seconds
        if not stays:
            slow.append(name)
    return slow


def write(file: Path, chosen: set[str], measured: set[str]) -> None:
    """Write a list: its heading, its patterns and tests that were not measured, and what is chosen."""
    head, *lines = file.read_text().splitlines()
    chosen = chosen | {line for line in lines if "*" in line or line not in measured}
    file.write_text("\n".join([head, *sorted(chosen)]) + "\n")


def main() -> None:
    """Write the lists."""
    functions: dict[str, dict[str, float]] = collections.defaultdict(dict)
    for file in sorted(MEASURED.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            name, seconds = json.loads(line)
            functions[name.partition("[")[0]][name] = max(seconds, functions[name.partition("[")[0]].get(name, 0.0))
    slow = {name for function, cases in functions.items() for name in slow_cases(function, cases)}
    deep = {name for function, cases in functions.items() for name in deep_cases(function, cases)}
    deep |= {name for cases in functions.values() for name in cases} & set(DEEP.read_text().splitlines())
    slow -= {name for cases in functions.values() for name in cases if name not in deep}  # quick ones stay
    seconds = {name: taken for cases in functions.values() for name, taken in cases.items()}
    write(DEEP, deep - slow, set(seconds))
    write(SLOW, slow, set(seconds))
    parts = {"quick": seconds.keys() - deep, "deep": deep - slow, "slow": slow}
    print(", ".join(f"{part} {sum(map(seconds.__getitem__, names)):.0f} CPU seconds" for part, names in parts.items()))


if __name__ == "__main__":
    main()
