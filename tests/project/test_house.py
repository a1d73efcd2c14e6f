"""The house: which way imports point, and how long files and functions are.

Errors and base lie below, rules on them, rooms beside them. What breaks a law today stands in a list with its reason,
and the lists may only shrink.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fwdonly

PACKAGE = Path(__file__).parents[2] / "fwdonly"
SHARED = {
    "_two_pass": ("pepita", "foton"),
    "_forward_passes": ("forward_gradient", "zeroth_order"),
    "_way_back": ("feedback", "_mirror"),
    "_mirror": ("feedback",),
    "_labels": ("ff", "phyll"),
}
"""Files that several rules share, or that hold a circuit of one, and who may import them."""
RULES = {*fwdonly.RULES, *SHARED}
ROOMS = {"claims", "nets", "data", "measure", "models", "results", "report", "study", "training", "tune"}
MAY_IMPORT = {
    "errors": set(),
    "surroundings": set(),
    "files": {"errors"},
    "descent": {"errors"},
    "options": {"errors"},
    "base": {"descent", "errors", "options"},
    "nets": {"base", "errors", "files"},
    "card": {"base", "options"},
    "rules": {"base", "card", "descent", "errors", "nets", "options"},
    "data": {"errors", "files"},
    "measure": {"base", "errors", "nets"},
    "results": {"errors", "files", "surroundings"},
    "report": {"results", "errors", "files"},
    "claims": {"report", "results", "errors", "files"},
    "training": {"base", "data", "errors", "files", "measure", "surroundings"},
    "loggers": {"errors", "files", "training"},
    "tune": {"base", "card", "data", "errors", "files", "surroundings", "training"},
    "study": {"base", "card", "data", "descent", "errors", "files", "loggers", "measure", "nets", "options"}
    | {"results", "rules", "surroundings", "training"},
    # A trained model is opened by the names of rules, which the study knows.
    "models": {"base", "card", "data", "errors", "files", "nets", "options", "results", "study", "training"},
    "cli": {"card", "claims", "data", "errors", "files", "models", "nets", "report", "results", "study"}
    | {"training", "tune"},
}
"""Rooms by the rooms that they may import."""

ARROWS: dict[str, str] = {}
"""Arrows that no room may have, and what ends them."""

CIRCLES: dict[tuple[str, str], str] = {}

LONG_FILES = {
    "cafo.py": "shared parts leave it",
}
LONG_FUNCTIONS = {}
MANY_ARGUMENTS = {
    "training.single.fit": "a public door: keywords of a call",
    "training.many.sweep": "as above",
    "tune.search.tune": "as above",
    "report.stats.paired": "as above",
}


SAYS_NOTHING = {"own", "found", "made", "said", "chosen", "each", "given", "asked", "gone", "all_"}
SPEECHLESS = {
    "report/stats.py": 1,  # a field of `Difference`, a public record
}
"""Files by how many variables and arguments they call so: a list that may only shrink."""


def parts(file: Path) -> list[str]:
    """``fwdonly/nets/blocks.py`` as [nets, blocks]; a room's door is the room."""
    names = list(file.relative_to(PACKAGE).with_suffix("").parts)
    return names[:-1] if names[-1] == "__init__" else names


def imports_of(file: Path) -> list[tuple[list[str], str]]:
    """(module within the package, name) of every import, those inside functions too."""
    found = []
    folder = list(file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = folder[: len(folder) - node.level + 1]
            module = [*start, *(node.module.split(".") if node.module else [])]
            found += [(module, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fwdonly":
            found += [(node.module.split(".")[1:], alias.name) for alias in node.names]
    return found


def target(module: list[str], name: str) -> str:
    """The file or room at the top of the package that an import reaches."""
    return module[0] if module else name


FILES = sorted(PACKAGE.rglob("*.py"))


def room(name: str) -> str:
    return "rules" if name in RULES else name


def test_imports_point_the_allowed_way():
    wrong = set()
    for file in FILES:
        if not parts(file) or room(parts(file)[0]) not in MAY_IMPORT:
            continue
        here = parts(file)[0]
        for module, name in imports_of(file):
            there = target(module, name)
            shared = here in SHARED.get(there, ())
            if there == here or room(there) in MAY_IMPORT[room(here)] or shared:
                continue
            wrong.add(f"{'.'.join(parts(file))} -> {there}")
    assert wrong == set(ARROWS), "mend the import, or take an arrow that is gone off the list"


def test_nothing_imports_another_rooms_private_name():
    wrong = []
    for file in FILES:
        here = parts(file)[:1]
        for module, name in imports_of(file):
            if module[:1] == here or name in SHARED:
                continue
            if any(part.startswith("_") for part in [*module, name]):
                wrong.append(f"{'/'.join(parts(file))} imports {'.'.join(module)}.{name}")
    assert not wrong


def test_rooms_have_no_circles():
    """Between the files of a room, and between flat files."""
    arrows: dict[str, set[str]] = {}
    names = {".".join(parts(file)): file for file in FILES if parts(file)}
    for name, file in names.items():
        if file.name == "__init__.py":
            continue
        arrows[name] = set()
        for module, imported in imports_of(file):
            for candidate in (".".join([*module, imported]), ".".join(module)):
                if candidate in names and names[candidate].name != "__init__.py":
                    arrows[name].add(candidate)
                    break

    def reach(name: str, seen: set[str]) -> set[str]:
        for other in arrows[name] - seen:
            seen.add(other)
            reach(other, seen)
        return seen

    circles = {tuple(sorted((a, b))) for a in arrows for b in arrows[a] if a in reach(b, set())}
    assert circles == set(CIRCLES)


def test_reports_are_made_without_jax():
    """From files alone: no file of these rooms imports JAX or a library on it when it is loaded."""
    for name in ("results", "report", "claims"):
        for file in sorted((PACKAGE / name).glob("*.py")):
            for node in ast.parse(file.read_text()).body:
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                assert not {"jax", "flax", "optax"} & {module.split(".")[0] for module in modules}, file


def test_importing_a_report_loads_no_jax():
    code = "import sys, fwdonly.claims, fwdonly.report; print(sorted({'jax', 'flax', 'optax'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_rooms_are_left_by_their_door_alone():
    """From outside a room only what its ``__init__`` names is imported, or one of its files as a whole."""
    for name in ROOMS:
        door = ast.parse((PACKAGE / name / "__init__.py").read_text())
        offered = {
            alias.asname or alias.name for node in door.body if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        listed = next(ast.literal_eval(n.value) for n in door.body if isinstance(n, ast.Assign))
        assert set(listed) == offered, f"__all__ of {name} differs from what it imports"
        files = {file.stem for file in (PACKAGE / name).glob("*.py")}
        whole = {alias.name for n in door.body if isinstance(n, ast.ImportFrom) and not n.module for alias in n.names}
        assert not offered & files - whole, f"a name of {name} hides one of its files"
        for file in FILES:
            for module, imported in imports_of(file):
                if module[:1] == [name] and parts(file)[:1] not in ([name], []):
                    assert module == [name] and imported in offered, (
                        f"{file.name} imports {'.'.join(module)}.{imported}"
                    )


def test_tests_have_the_rooms_of_the_package():
    """Suites of the accelerator and restatements aside; rules are files at the top, and a project is more than code."""
    folders = {path.parent.name for path in PACKAGE.parent.glob("tests/*/test_*.py")} - {"device"}
    assert folders == (ROOMS - {"results"}) | {"cli", "rules", "project"}  # the files of results are those of a report


def functions(file: Path):
    """(name, body lines without docstring, arguments) of every function."""

    def walk(node: ast.AST, before: str):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                body = child.body
                if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and len(body) > 1:
                    body = body[1:]
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
                a = child.args
                count = len([arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs) if arg.arg not in ("self", "cls")])
                yield f"{before}.{child.name}", lines, count
                yield from walk(child, f"{before}.{child.name}")
            else:
                yield from walk(child, f"{before}.{child.name}" if isinstance(child, ast.ClassDef) else before)

    yield from walk(ast.parse(file.read_text()), ".".join(parts(file)))


ALL = [entry for file in FILES for entry in functions(file)]


@pytest.mark.parametrize(
    ("known", "over"),
    [
        (LONG_FILES, lambda: {str(f.relative_to(PACKAGE)) for f in FILES if len(f.read_text().splitlines()) > 500}),
        (LONG_FUNCTIONS, lambda: {name for name, lines, _ in ALL if lines > 60}),
        (MANY_ARGUMENTS, lambda: {name for name, _, count in ALL if count > 8}),
    ],
    ids=["files above 500 lines", "functions above 60 lines", "functions above 8 arguments"],
)
def test_sizes(known, over):
    assert over() == set(known), "shorten it, or take what is short now off the list"


def speechless(source: str) -> list[str]:
    """The variables and arguments in a source text whose names do not say what they hold."""
    nodes = list(ast.walk(ast.parse(source)))
    variables = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    arguments = [node.arg for node in nodes if isinstance(node, ast.arg)]
    return sorted(name for name in [*variables, *arguments] if name in SAYS_NOTHING)


def test_names_say_what_they_hold():
    counts = {str(file.relative_to(PACKAGE)): len(speechless(file.read_text())) for file in FILES}
    assert {name: count for name, count in counts.items() if count} == SPEECHLESS, (
        "name the thing, such as layer, words or values; or lower the number of a file that has fewer now"
    )


def test_speechless_names_are_seen_in_every_place():
    source = """
def f(own, *each, **given):
    for made in own:
        found: int = made
    return [said for said in found]
"""
    assert speechless(source) == ["each", "found", "given", "made", "own", "said"]
    assert not speechless("own.each(given=said)"), "a use is no second binding"


def test_docstrings_are_sentences_and_not_fragments():
    """No docstring hangs on the line above it: "Of the data." names nothing."""
    roots = [PACKAGE, *(PACKAGE.parent / name for name in ("experiments", "benchmarks", "scripts"))]
    files = [file for root in roots for file in sorted(root.rglob("*.py"))]
    lines = [(f"{file.name}:{at}", line) for file in files for at, line in enumerate(file.read_text().splitlines(), 1)]
    assert not [where for where, line in lines if line.strip().startswith('"""Of ')]


def test_a_rule_is_named_wherever_the_package_names_its_rules():
    """At its import for type checkers, in its public names, and among the modules that commands know."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    from fwdonly.study import rules

    assert set(fwdonly.RULES) <= imported and set(fwdonly.RULES) <= set(fwdonly.__all__)
    assert {module.__name__.rpartition(".")[2] for module in rules.MODULES} == set(fwdonly.RULES)
