"""A report as blocks: what is decided first, then everything it rests on."""

from collections.abc import Sequence
from typing import Any

from .blocks import Block, Facts, Heading, Items, Text
from .comparisons import answers
from .effects import factorial_blocks
from .folder import Folder
from .memory import memory_sentences
from .numbers import label, machines
from .pictures import picture_sections
from .rule_tables import published_sources, rule_table, seed_table
from .tables import footnotes


def title(folders: Sequence[Folder]) -> str:
    """Title of the page."""
    data = folders[0].summary["data"]["name"]
    return folders[0].summary["title"] if len(folders) == 1 else f"{len(folders)} experiments on {data}"


def blocks_of(folders: Sequence[Folder]) -> list[Block]:
    """The report: what is decided first, then everything it rests on."""
    out: list[Block] = [Heading(1, title(folders))]
    alone = len(folders) == 1
    for folder in folders:
        out += [] if alone else [Heading(3, _name(folder)), Text(folder.summary["title"])]
        out += _opening(folder)
    out += [Heading(2, "Verdicts"), *_verdicts(folders)]
    for folder in folders:
        level = 2 if alone else 3
        out += [] if alone else [Heading(2, _name(folder))]
        rows = [Heading(level, "Rules"), rule_table(folder), *published_sources(folder)]
        pictures = [(heading, drawn) for heading, drawn in picture_sections(folder) if drawn]
        out += rows + [block for heading, drawn in pictures for block in (Heading(level, heading), *drawn)]
        out += [Heading(level, "Every seed"), seed_table(folder)]
        out += [Heading(level, "What the numbers are"), Items([*NOTES, *footnotes(folder.rules)], "note")]
        out += [Heading(level, "How it was run"), _facts(folder)]
    return out


NOTES = (
    "mean ± sample standard deviation (n - 1) over the runs that finished and did not diverge; n says how many. "
    "A dash means: not available.",
    "A pass is every training image used once, all stages together. Test images were used once, at the end.",
    "memory: of one training step as the compiler lays it out, of the largest stage; it has no spread. FLOP: the "
    "compiler's count for the training steps of a run.",
)


def _opening(folder: Folder) -> list[Block]:
    protocol = folder.protocol
    words = protocol.get("words") or (
        "No protocol was recorded: every rule was trained and stopped as its own configuration says, so costs are "
        "shown and not compared."
    )
    words = f"Protocol {protocol.get('name', 'without a name')}: {words}" if protocol else words
    target = protocol.get("target")
    passes = protocol.get("passes")
    words += f" Target: {100 * target:.4g} % validation accuracy." if target is not None else ""
    words += f" Passes: {passes}." if passes is not None else ""
    out: list[Block] = [Text(words)]
    out += [Items(protocol["notes"])] if protocol.get("notes") else []
    if folder.partial:
        out.append(Text("Partial: this experiment was interrupted, and what follows is not its outcome.", "warning"))
    for summary in folder.rules:
        diverged = [str(run["seed"]) for run in summary["runs"] if run["diverged"]]
        if diverged:
            out.append(Text(f"{label(summary)} diverged with seed {', '.join(diverged)}.", "warning"))
    return out


def _verdicts(folders: Sequence[Folder]) -> list[Block]:
    every = answers(folders)
    count = sum(q.answer is not None for group in every for q in group)
    out: list[Block] = []
    for folder, group in zip(folders, every, strict=True):
        out += [] if len(folders) == 1 else [Heading(3, _name(folder))]
        if not group:
            name = (folder.protocol.get("reference") or "bp").upper()
            missing = "there is no other rule" if folder.reference else f"there is no reference rule ({name}) in it"
            out.append(Text(f"Nothing is compared: {missing}."))
        for names in dict.fromkeys((q.rule, q.reference) for q in group):
            out.append(Heading(4, f"{names[0]} against {names[1]}"))
            mine = [q for q in group if (q.rule, q.reference) == names]
            out.append(Items([q.sentence + "." for q in mine if q.answer is not None]))
            why = {q.reason: [other.quantity for other in mine if other.reason == q.reason] for q in mine if q.reason}
            out.append(Items([f"{', '.join(which)}: not compared; {reason}." for reason, which in why.items()], "note"))
        out += [*factorial_blocks(folder), Items(memory_sentences(folder), "note")]
    margins = dict.fromkeys(
        f"{f.protocol.get('margin_points', 0.25):g} points of accuracy, {f.protocol.get('margin_percent', 5.0):g} % of "
        "a cost"
        for f in folders
    )
    out = [block for block in out if not isinstance(block, Items) or block.items]
    words = (
        "Accuracy is that on the test images. Runs are paired by seed. Margins, below which a difference does not "
        f"matter: {'; '.join(margins)}. p values are corrected for the {count} questions of this report (Holm); "
        "intervals are not: they are unadjusted, each holds by itself. An interval covers what seeds change (start "
        "values, order, what else a run draws) at one fixed test set, and no other test images; where predictions were "
        "kept, a second one, over seeds and test images, stands beside it (a two-way bootstrap). A verdict is about "
        "the one setting of each rule that was run, tuned or given: another search may find another setting, and no "
        "interval here covers that. Sign flips and the studentised bootstrap stand beside a verdict where they "
        "disagree with the t test. A run that diverged is an outcome: the rule with more of them is neither equal "
        "nor better, whatever the other seeds say."
    )
    if any(folder.protocol.get("name") == "to-target" for folder in folders):
        words += " A run that misses the target counts as infinitely costly; its energy is up to the validation that "
        words += "confirms the target."
    return [*out, Text(words, "note")] if count else out


def _facts(folder: Folder) -> Facts:
    data, about = folder.summary["data"], dict(folder.summary.get("environment") or {})
    facts = {
        "result folder": _name(folder),
        "data": f"{data['name']}, digest {data['digest']}",
        "images": f"{data['train']:,} training, {data['validation']:,} validation, {data['test']:,} test",
        "data source": folder.config.get("data_source"),
        "command": folder.config.get("command"),
        "git commit": about.pop("git_commit", None),
        "packages": _listed(about.pop("packages", None)),
        "switches": _listed(about.pop("switches", None)),
    }
    facts |= {name.replace("_", " "): value for name, value in about.items()}
    where = machines(folder.rules)
    if len(where) > 1:
        for number, (machine, runs) in enumerate(where.items(), start=1):
            of = "; ".join(f"{name} seed {', '.join(map(str, seeds))}" for name, seeds in runs.items())
            facts[f"machine {number}"] = f"{machine}: {of}"
    return Facts([(name, "-" if value in (None, "") else str(value)) for name, value in facts.items()])


def _listed(named: Any) -> str:
    """What has a value, behind its name."""
    return ", ".join(f"{name} {value}" for name, value in (named or {}).items() if value is not None)


def _name(folder: Folder) -> str:
    return folder.path.resolve().name
