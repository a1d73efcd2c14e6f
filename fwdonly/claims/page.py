"""The page of results and its figures, from the committed files; ``fwdonly claims --write`` writes them."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from ..report import stats
from .figures import figure
from .registry import Claim, Published
from .verdicts import VALUES, Verdict, family_size, planned, sensitivity, sentence

INTRODUCTION = """\
What is published, and what the committed files say of it. A verdict is written by a command, from files, and by no
hand: `fwdonly claims` prints the table, `fwdonly claims ID` a claim in full, `fwdonly reproduce --claim ID` runs it
again, and `fwdonly claims --write` makes this page and its figures. Claim, margin, direction and number of seeds stand
in `fwdonly/claims/records/`. Files that are older than the records are judged by margins that stood in the code before
(0.25 points, 5 %, half a point for a published number) and by the direction of the source; but for FOTON on deep
networks, whose margin of two points was set after the numbers had been seen."""

READING = """\
*Confirmed* and *refuted*: at the 5 % level, corrected for the other claims of the family (Holm), from ten pairs on; a
published number: by the 90 % interval, from three runs on. *Not decided*: neither; the seeds that are missing are those
for 80 % power if the estimate stays. After the last look no level is left, and more seeds take a new claim. *Not
measured*: no committed file; such a claim counts in its family, and so does one whose runs decide nothing. A claim that
two rules are equal is refuted by a difference that is shown to be larger than the margin, and by no other.
How often such verdicts are wrong on drawn numbers: [statistics](docs/method/statistics.md)."""


def tally(verdicts: Mapping[str, Verdict]) -> str:
    """How many claims have which verdict, in a line."""
    counts = Counter(verdict.word for verdict in verdicts.values())
    for_gpu = sum(v.word == "not measured" and v.claim.needs == "gpu" for v in verdicts.values())
    words = ", ".join(f"{counts[word]} {word}" for word in ("confirmed", "refuted", "not decided", "not measured"))
    return f"{len(verdicts)} claims: {words} ({for_gpu} of these need a GPU)."


def files(verdicts: Mapping[str, Verdict]) -> dict[str, str]:
    """All that the page is made of: text by place below the root of the repository."""
    pictures = {name: drawn for name, verdict in verdicts.items() if (drawn := figure(verdict)) is not None}
    places = {f"docs/pictures/claims/{name}.svg": drawn for name, drawn in pictures.items()}
    text = page(verdicts, pictures)
    return places | {"RESULTS.md": text, "docs/results.md": text.replace("](docs/", "](")}


def page(verdicts: Mapping[str, Verdict], pictures: Collection[str]) -> str:
    """The page in Markdown, as it lies at the root of the repository; ``pictures`` are claims with a figure."""
    lines = ["# Results", "", INTRODUCTION, "", f"**{tally(verdicts)}**", "", READING]
    for group in dict.fromkeys(verdict.claim.group for verdict in verdicts.values()):
        lines += ["", f"## {group}", "", "| claim | verdict | ours | published | command |", "|---|---|---|---|---|"]
        members = {name: v for name, v in verdicts.items() if v.claim.group == group}
        lines += [_row(name, verdict) for name, verdict in members.items()]
        for name, verdict in members.items():
            if verdict.word != "not measured":
                picture = f"docs/pictures/claims/{name}.svg" if name in pictures else None
                lines += ["", *_section(name, verdict, picture)]
    return "\n".join(lines) + "\n"


def facts(verdict: Verdict) -> list[tuple[str, str]]:
    """A claim in full: names and what is known."""
    claim = verdict.claim
    sides = claim.ours.rule.upper() + (f" against {claim.theirs.rule.upper()}" if claim.theirs else "")
    rows = [
        ("claim", claim.sentence),
        ("source", claim.source),
        ("verdict", verdict.text),
        ("what the files say", sentence(verdict)),
        ("published", published(claim)),
        ("arms", f"{sides}, {claim.network}, {claim.dataset}"),
        ("protocol", claim.protocol),
        ("decided by", _criterion(claim)),
        ("seeds", power_words(claim)),
        ("looks", looks(verdict)),
        ("command", claim.line),
        ("which is", f"fwdonly {claim.command}" if claim.command else ""),
        ("estimated time", _minutes(claim)),
    ]
    rows += [("trap", trap) for trap in claim.traps]
    if verdict.evidence is not None:
        rows += [("if otherwise", otherwise(verdict))]
        rows += [("file", source) for source in verdict.evidence.sources]
    return [(name, words) for name, words in rows if words]


def _minutes(claim: Claim) -> str:
    """How long it takes, where it runs."""
    known = {"cpu": "on two cores", "gpu": "on a GPU"}
    return ", ".join(f"{minutes:g} min {known[where]}" for where, minutes in claim.minutes.items() if minutes)


def otherwise(verdict: Verdict) -> str:
    """Whether the verdict changes with the margin, the correction, or the median, in a line."""
    if verdict.evidence is None:
        return ""
    words = sensitivity(verdict.claim, verdict.evidence)
    return "; ".join(f"{name}: {word}" for name, word in words)


def looks(verdict: Verdict) -> str:
    """How often a claim may be looked at, and which look its runs are."""
    claim = verdict.claim
    if claim.what.computed:
        return ""
    words = (
        f"{claim.looks}, each at the level {claim.level:g}" if claim.looks > 1 else f"1, at the level {claim.level:g}"
    )
    if verdict.look == 0:
        return words
    which = ["", "first", "second"][verdict.look] + " and last" * (verdict.last_look and verdict.look > 1)
    return f"{words}; {verdict.n} seeds are the {'only' if claim.looks == 1 else which} one"


def power_words(claim: Claim) -> str:
    """What the planned seeds decide, with where the assumed spread comes from."""
    if claim.what.computed:
        return "none: a number of the compiler"
    unit = "%" if claim.what.relative else "points"
    least = VALUES if claim.kind == "value" else stats.CLAIM
    words, they, seeds = f"{claim.seeds} planned", "they", claim.seeds
    if seeds < least:
        words, they, seeds = f"{words}, and fewer than {least} decide nothing", str(least), least
    alone, shared = (planned(claim, family, seeds) for family in (1, family_size(claim)))
    if alone is not None and claim.kind != "value":
        words += f"; with 80 % power {they} show {alone:.2g} {unit}"
        words += f" ({shared:.2g} as the first of {family_size(claim)})" if shared and family_size(claim) > 1 else ""
    return f"{words}; assumed sd {claim.sd:g} {unit} ({claim.sd_source})"


def published(claim: Claim) -> str:
    """The published number as text."""
    known = claim.published
    if known is None:
        return ""
    unit = "%" if claim.what.relative or claim.kind == "value" else "points"
    sign = "" if claim.kind == "value" else "+"
    words = f"{known.value:{sign}g}{_spread(known)} {unit}"
    notes = [*([f"n = {known.n}"] if known.n else []), *([known.note] if known.note else [])]
    return words + (f" ({', '.join(notes)})" if notes else "")


def _spread(known: Published) -> str:
    if known.low is not None and known.high is not None:
        return f" [{known.low:+g}, {known.high:+g}]"
    return "" if known.sd is None else f" ± {known.sd:g}"


def _criterion(claim: Claim) -> str:
    unit = "%" if claim.what.relative else "points"
    direction = {
        "more": f"more {claim.what.quantity}",
        "less": f"less {claim.what.quantity}",
        "equal": f"no difference in {claim.what.quantity} larger than the margin",
        "value": f"the published {claim.what.quantity}, within the margin",
    }[claim.kind]
    return f"{direction}; margin {claim.margin:g} {unit}"


def _ours(verdict: Verdict) -> str:
    """Our number, short."""
    answer = verdict.answer
    if verdict.change is not None:
        return f"{verdict.change:+.1f} %"
    if isinstance(answer, stats.Reproduction) and answer.measured.mean is not None:
        spread = "" if answer.measured.sd is None else f" ± {answer.measured.sd:.2f}"
        return f"{answer.measured.mean:.2f}{spread} %"
    if isinstance(answer, stats.Difference) and answer.mean is not None:
        unit = "%" if answer.relative else answer.unit
        around = "" if answer.interval is None else f" [{answer.interval[0]:+.2f}, {answer.interval[1]:+.2f}]"
        return f"{answer.mean:+.2f}{around} {unit}"
    return "-"


def _row(name: str, verdict: Verdict) -> str:
    claim = verdict.claim
    shown = f"[{claim.sentence}](#{name})" if verdict.word != "not measured" else claim.sentence
    cells = [shown, verdict.text, _ours(verdict), published(claim) or "-", f"`{claim.line}`"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _section(name: str, verdict: Verdict, picture: str | None) -> list[str]:
    claim = verdict.claim
    lines = [f"### {name}", "", claim.sentence + f" *{verdict.text}.*", "", sentence(verdict) + ".", ""]
    if picture is not None:
        lines += [f"![{claim.sentence} {verdict.text}]({picture})", ""]
    kept = ("source", "published", "protocol", "decided by", "seeds", "looks", "trap", "if otherwise", "file")
    lines += [f"* {label}: {words}" for label, words in facts(verdict) if label in kept]
    return lines


def differing(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """Places below ``folder`` whose text is not what the files give; figures that no claim has are among them."""
    wrong = [place for place, text in wanted.items() if _text(folder / place) != text]
    there = {f"docs/pictures/claims/{path.name}" for path in (folder / "docs/pictures/claims").glob("*.svg")}
    return sorted([*wrong, *(there - wanted.keys())])


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
