"""``fwdonly claims``: what the field claims, and the verdicts of the committed result files."""

import dataclasses
import json
import re
import shlex
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import claims, results
from ..errors import DAMAGE, UsageError, words_of
from ..files import without_folders
from ..study import declared
from . import options
from .options import Group

DESCRIPTION = """List the claims of the field with the verdicts that committed result files give, or show one in full.

Confirmed and refuted are decided at the 5 % level, corrected for the claims of the family, from ten pairs of seeds on.
fwdonly reproduce --claim ID runs a claim; --take puts its result folder among the committed files, and the claim's
record names the file. Nothing here trains."""

KEPT = ("version", "finished", "title", "data", "protocol", "rules", "statistics", "environment")
"""Entries of a summary that a committed file keeps."""
LOCAL = ("--data-dir", "--output-dir", "--resume", "--log")
LOCAL += ("--coordinator", "--num-processes", "--process-id", "--join-seconds", "--slurm", "--no-slurm")
"""Options that a committed command lacks: they say where it ran, and no number depends on them."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is done beside the list."""

    write: bool = False
    """Write RESULTS.md, docs/results.md and the figures anew, from the files."""
    take: Path | None = None
    """A result folder to copy into experiments/results: its summary, with the command that made it. Of a folder that is
    not finished, the seeds that every rule has finished."""
    name: str | None = None
    """With --take: the name of the file, without its ending."""
    root: Path | None = None
    """The repository. Default: the one that this package lies in, or the files that came with it."""


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly claims") -> int:
    """Print the list, or a claim; the exit code."""
    del command_line
    names, words = options.names_first(words)
    values = options.parse(words, [Group("claims", declared(Choice))], {}, prog=f"{prog} [ID]", description=DESCRIPTION)
    choice = options.make(Choice, values)
    root = choice.root or claims.root()
    if (choice.take is None) != (choice.name is None):
        raise UsageError("--take FOLDER and --name NAME go together")
    if choice.take is not None and choice.name is not None:
        print(f"written: {take(choice.take, root, choice.name)}; name it in the claim's record")
        return 0
    for name in names:
        claims.find(name)
    verdicts = claims.judge(root)
    if choice.write:
        return _write(root, verdicts)
    for name in names:
        _show(verdicts[name])
    if not names:
        width = max(map(len, verdicts))
        print("\n".join(_line(name, verdict, width) for name, verdict in verdicts.items()))
        print("\n" + textwrap.fill(claims.tally(verdicts), 80))
        print("fwdonly claims ID shows one in full; fwdonly reproduce --claim ID runs it.")
    return 0


def take(folder: Path, root: Path, name: str) -> Path:
    """Copy a result folder's summary, with the command that made it, among the committed files; its place.

    Raises:
        UsageError: no result folder with a seed that every rule has, a name with a folder, or a file of that name is
            there.
    """
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise UsageError(f"--name is letters, digits, dots, dashes and underscores, without a folder; got {name!r}")
    path = root / "experiments" / "results" / f"{name}.json"
    if path.exists():
        raise UsageError(f"{path} is there already; give another --name")
    try:
        summary, config = (
            json.loads((folder / f"{part}.json").read_text(encoding="utf-8")) for part in ("summary", "config")
        )
        content: dict[str, Any] = {"command": without_places(config["command"])}
        content |= {part: summary[part] for part in KEPT if part in summary}
        seeds = set.intersection(*({run["seed"] for run in rule["runs"]} for rule in content["rules"]))
        for rule in content["rules"]:
            rule["runs"] = [run for run in rule["runs"] if run["seed"] in seeds]
    except (OSError, *DAMAGE) as error:
        raise UsageError(f"{folder} is no result folder ({words_of(error)})") from error
    if not seeds:
        raise UsageError(f"{folder} has no seed that every rule has finished; continue it with --resume")
    results.write_json(path, content)
    return path


def without_places(command: str) -> str:
    """A command without what it says of one machine: its Python, folders, network, and that it was continued.

    Of other files and folders the name alone is left: ``--tuned /home/me/mf`` is ``--tuned mf``.
    """
    words = shlex.split(command)
    at = next((i for i, word in enumerate(words) if word.rpartition("/")[2] == "fwdonly"), None)
    if at is None:
        raise ValueError(f"its command is none of fwdonly's: {command}")
    kept, skip = ["fwdonly"], False
    for word in words[at + 1 :]:
        if word.startswith("--"):
            skip = word.partition("=")[0] in LOCAL
        if not skip:
            kept.append(without_folders(word))
    return shlex.join(kept)


def _line(name: str, verdict: claims.Verdict, width: int) -> str:
    """A claim in one line of 80 columns at most."""
    words = f"{name:<{width}}  {verdict.text}"
    return words if len(words) <= 80 else words[:76] + " ..."


def _show(verdict: claims.Verdict) -> None:
    """A claim in full, in the width of the terminal."""
    width = min(100, max(60, shutil.get_terminal_size().columns))
    print(verdict.claim.id)
    for label, words in claims.facts(verdict):
        first, rest = f"  {label:<20}", " " * 22
        shape = textwrap.TextWrapper(width, first, rest, break_on_hyphens=False, break_long_words=False)
        print(shape.fill(words))


def _write(root: Path, verdicts: dict[str, claims.Verdict]) -> int:
    """Write the page and its figures; figures that no claim has any more go."""
    if not (root / "mkdocs.yml").is_file():
        raise UsageError(f"--write is for a checkout of the repository, and {root} is none; give --root")
    wanted = claims.files(verdicts)
    for place in claims.differing(root, wanted):
        path = root / place
        if place not in wanted:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(path, wanted[place])
        print(f"written: {place}")
    print(claims.tally(verdicts))
    return 0
