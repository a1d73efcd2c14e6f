"""What the documents promise: code blocks run, commands and links name files that exist, extras exist."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fwdonly.cli import compare, train
from fwdonly.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "experiments/README.md", "benchmarks/README.md"]
DOCUMENTS += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
TESTS = {path.stem: path for path in ROOT.glob("tests/*/test_*.py")}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def blocks(path: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.S)


@pytest.mark.parametrize("path", DOCUMENTS)
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks(path, "python"):
        exec(compile(block, path, "exec"), {"__name__": "__main__"})
    assert path != "README.md" or blocks(path, "python")


def test_the_readme_opens_with_the_two_commands_each_with_its_own_set_up():
    install_and_run, install_and_test = (block.strip() for block in blocks("README.md", "sh")[:2])
    for command in (install_and_run, install_and_test):
        assert "\n" not in command and command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert install_and_run.endswith("experiments/mf_mlp.py --seeds 10") and "pytest" in install_and_test


@pytest.mark.parametrize("path", DOCUMENTS)
def test_files_named_in_commands_and_links_exist(path):
    text = (ROOT / path).read_text()
    named = re.findall(r"\b(?:python|bash) ((?:experiments|benchmarks|scripts)/\w+\.\w+)", text)
    linked = [(ROOT / path).parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)]
    for file in [*(ROOT / name for name in named), *(file for file in linked if not is_generated(file))]:
        assert file.exists(), f"{path} names {file}"


def is_generated(file: Path) -> bool:
    """Whether it is a page that the site makes of the code."""
    place = file.resolve().relative_to(ROOT)
    if place.parts[:2] == ("docs", "rules"):
        return place.stem == "index" or (ROOT / "fwdonly" / f"{place.stem}.py").exists()
    if place.parts[:3] == ("docs", "reference", "cli"):
        return place.stem == "index" or place.stem in COMMANDS
    module = ROOT / "fwdonly" / place.stem.replace("-", "/")
    is_module = module.is_dir() or module.with_suffix(".py").exists()
    return place.parts[:3] == ("docs", "reference", "api") and is_module


@pytest.mark.parametrize("path", DOCUMENTS)
def test_commands_in_documents_are_understood(path):
    """Every ``fwdonly train`` and ``fwdonly compare`` that a document names describes a study."""
    text = (ROOT / path).read_text()
    for name, words in re.findall(r"(?:fwdonly|\.py) (train|compare) ([a-z.](?:(?! #)[^`\n|])*)", text):
        if not any(word in words for word in ("RULE", "FOLDER", "./")):
            parser = {"train": train, "compare": compare}[name]
            assert parser.study_of(shlex.split(words)).arms, f"{path}: fwdonly {name} {words}"


def test_importing_fwdonly_loads_no_optional_package():
    heavy = {
        "pynvml",
        "optuna",
        "codecarbon",
        "zeus",
        "torch",
        "tensorflow",
        "pandas",
        "matplotlib",
        "sklearn",
        "pooch",
    }
    code = f"import sys, fwdonly; print(sorted({heavy!r} & set(sys.modules)))"
    # Away from pytest, whose plugins import some of them.
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_no_requirement_has_an_upper_bound_and_every_extra_exists():
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *(r for group in extras.values() for r in group)]:
        assert "<" not in requirement and "==" not in requirement, requirement
        for extra in re.findall(r"fwdonly\[([\w,-]+)\]", requirement):
            assert set(extra.split(",")) <= set(extras)
    needed = (
        "cuda12 cuda13 energy carbon zeus data tfds tfds-prepare experiments tune tune-grpc slurm rivals all dev docs"
    )
    assert set(needed.split()) <= set(extras)
    for path in (ROOT / "fwdonly").glob("*.py"):
        for extra in re.findall(r"fwdonly\[(\w+)\]", path.read_text()):
            assert extra in extras, f"{path.name} names the extra {extra}"


def test_changelog_version_and_citation_agree():
    version = PYPROJECT["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert f'__version__ = "{version}"' in (ROOT / "fwdonly" / "__init__.py").read_text()


def test_every_mutant_still_finds_its_text():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import mutation_test
    finally:
        sys.path.pop(0)
    for mutant in mutation_test.MUTANTS:
        text = (ROOT / "fwdonly" / mutant.file).read_text()
        assert not mutant.old or text.count(mutant.old) == 1, f"{mutant.file}: {mutant.defect}"
        assert set(mutant.tests) <= TESTS.keys()


@pytest.mark.parametrize("part", ["deep", "slow"])
def test_the_tests_of_a_part_are_named_once_and_exist(part):
    lines = [line for line in (ROOT / f"tests/{part}.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(set(lines)) == len(lines)
    for line in lines:
        file, name = line.split("::")
        function = name.partition("[")[0].removesuffix("*")
        assert name.startswith("*") or f"def {function}(" in TESTS[file.removesuffix(".py")].read_text(), line
