"""A report as blocks of text, tables and figures, to one self-contained HTML page or to Markdown.

The page has no script and refers to nothing outside itself. Figures are inline SVG, written by hand: their text stays
text, their colours follow the reader's light or dark scheme, and the same numbers give the same bytes.
"""

import html
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import figures, report, stats


class Heading(NamedTuple):
    """Level 1 is the title."""

    level: int
    text: str


class Text(NamedTuple):
    """A paragraph; ``kind`` is "", "note" (small) or "warning"."""

    text: str
    kind: str = ""


class Items(NamedTuple):
    """A list."""

    items: Sequence[str]
    kind: str = ""


class Table(NamedTuple):
    """Cells of several lines have the number first, and words about it after it.

    ``looks`` numbers the rows' rules, for the markers in the first column; ``strong`` are rows to set off.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    looks: Sequence[int] = ()
    strong: Sequence[int] = ()


class Figures(NamedTuple):
    """Inline SVG side by side, as (caption, SVG), with one legend: (look, rule)."""

    figures: Sequence[tuple[str, str]]
    legend: Sequence[tuple[int, str]]


class Facts(NamedTuple):
    """Names and values."""

    facts: Sequence[tuple[str, str]]


Block = Heading | Text | Items | Table | Figures | Facts


def title(folders: Sequence[report.Folder]) -> str:
    """Of the page."""
    data = folders[0].summary["data"]["name"]
    return folders[0].summary["title"] if len(folders) == 1 else f"{len(folders)} experiments on {data}"


def blocks(folders: Sequence[report.Folder]) -> list[Block]:
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
        rows = [Heading(level, "Rules"), _rule_table(folder), *_published_sources(folder)]
        pictures = [(heading, drawn) for heading, drawn in _pictures(folder) if drawn]
        out += rows + [block for heading, drawn in pictures for block in (Heading(level, heading), *drawn)]
        out += [Heading(level, "Every seed"), _seed_table(folder)]
        out += [Heading(level, "What the numbers are"), Items([*NOTES, *report.footnotes(folder.rules)], "note")]
        out += [Heading(level, "How it was run"), _facts(folder)]
    return out


NOTES = (
    "mean ± sample standard deviation (n - 1) over the runs that finished and did not diverge; n says how many. "
    "A dash is a number that there is not.",
    "A pass is every training image used once, all stages together. Test images were used once, at the end.",
    "memory: of one training step as the compiler lays it out, of the largest stage; it has no spread. FLOP: the "
    "compiler's count for the training steps of a run.",
)


def _opening(folder: report.Folder) -> list[Block]:
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
        gone = [str(run["seed"]) for run in summary["runs"] if run["diverged"]]
        if gone:
            out.append(Text(f"{report.label(summary)} diverged with seed {', '.join(gone)}.", "warning"))
    return out


def _verdicts(folders: Sequence[report.Folder]) -> list[Block]:
    every = report.answers(folders)
    count = sum(q.answer is not None for own in every for q in own)
    out: list[Block] = []
    for folder, own in zip(folders, every, strict=True):
        out += [] if len(folders) == 1 else [Heading(3, _name(folder))]
        if not own:
            name = (folder.protocol.get("reference") or "bp").upper()
            missing = "there is no other rule" if folder.reference else f"there is no reference rule ({name}) in it"
            out.append(Text(f"Nothing is compared: {missing}."))
        for names in dict.fromkeys((q.rule, q.reference) for q in own):
            out.append(Heading(4, f"{names[0]} against {names[1]}"))
            mine = [q for q in own if (q.rule, q.reference) == names]
            out.append(Items([q.sentence + "." for q in mine if q.answer is not None]))
            why = {q.reason: [other.quantity for other in mine if other.reason == q.reason] for q in mine if q.reason}
            out.append(Items([f"{', '.join(which)}: not compared; {reason}." for reason, which in why.items()], "note"))
    margins = dict.fromkeys(
        f"{f.protocol.get('margin_points', 0.25):g} points of accuracy, {f.protocol.get('margin_percent', 5.0):g} % of "
        "a cost"
        for f in folders
    )
    out = [block for block in out if not isinstance(block, Items) or block.items]
    words = (
        "Accuracy is that on the test images. Runs are paired by seed. Margins, below which a difference does not "
        f"matter: {'; '.join(margins)}. p values are corrected for the {count} questions of this report (Holm)."
    )
    if any(folder.protocol.get("name") == "to-target" for folder in folders):
        words += " A run that misses the target counts as infinitely costly; its energy is up to the validation that "
        words += "confirms the target."
    return [*out, Text(words, "note")] if count else out


def _rule_table(folder: report.Folder) -> Table:
    """A row per rule."""
    others = list(dict.fromkeys(n for s in folder.rules for run in s["runs"] for n in run.get("readouts", {})))
    kept = any(run.get("kept_seconds") is not None for s in folder.rules for run in s["runs"])
    target = folder.protocol.get("name") == "to-target"
    header = ["rule", "n", "test %", *(f"{name} test %" for name in others), "passes", *["to target"] * target]
    header += ["train s", "energy J", "memory", "arithmetic", "CO2e g", "net J", "mean W", "validation %"]
    header += ["s to kept state"] * kept + ["compile s"]
    rows = []
    for summary in folder.rules:
        every = summary["runs"]
        runs = [run for run in every if not report.gone(run)]
        of = lambda name, factor=1.0, runs=runs: [factor * run[name] for run in runs if run.get(name) is not None]
        missing = len(folder.planned[summary["rule"]]) - len(every)
        count = [str(len(runs)), *([f"{len(every) - len(runs)} diverged"] if len(runs) < len(every) else [])]
        count += [f"{missing} missing"] if missing else []
        seconds = [report.spread(of("train_seconds"))] if report.alone(summary) else []
        seconds = seconds or [report.number(summary["train_seconds"]), f"of {len(every)} seeds together"]
        readouts = [report.mean_sd([100 * v for r in runs if (v := _readout(r, name)) is not None]) for name in others]
        accuracy, passes = report.mean_sd(of("test_accuracy", 100)), report.mean_sd(of("epochs"), ".1f")
        row = [_name_of(summary), "\n".join(count)]
        row += [_beside(folder, summary, "test_accuracy", accuracy, of("test_accuracy")), *readouts]
        row += [_beside(folder, summary, "epochs", passes, of("epochs"))]
        row += [_reached(every)] if target else []
        row += [_beside(folder, summary, "train_seconds", "\n".join(seconds), [])]
        row += [_beside(folder, summary, "energy_wh", _energy(summary, runs, "energy"), [])]
        row += [_quantities([summary.get("memory")], 1e6, "MB"), _flops([run.get("arithmetic") for run in runs])]
        row += [_energy(summary, runs, name) for name in ("co2e", "net", "mean_power")]
        row += [report.mean_sd(of("val_accuracy", 100)), *([report.spread(of("kept_seconds"))] if kept else [])]
        rows.append([*row, report.number(summary["compile_seconds"])])
    absent = [name for name in folder.planned if name not in {summary["rule"] for summary in folder.rules}]
    rows += [[f"{name.upper()}\nnot trained yet", "0", *["-"] * (len(header) - 2)] for name in absent]
    return Table(header, rows, range(len(rows)))


def _name_of(summary: report.Summary) -> str:
    return "\n".join([report.label(summary), *([summary["network"]] if summary.get("network") else [])])


def _beside(folder: report.Folder, summary: report.Summary, metric: str, measured: str, values: list[Any]) -> str:
    """The measured number, and under it the published one with what the runs say of it.

    Published seconds and energies are of other machines: nothing is tested.
    """
    lines = [measured]
    for own in summary.get("published") or ():
        if own["metric"] != metric:
            continue
        accuracy = metric == "test_accuracy"
        scale = 100 if accuracy and own["unit"] not in ("%", "points") else 1
        mean, sd = scale * own["value"], None if own.get("sd") is None else scale * own["sd"]
        said = f"{mean:.2f}" if accuracy else f"{mean:.4g}"
        said += "" if sd is None else f" ± {sd:.2f}" if accuracy else f" ± {sd:.4g}"
        said += "" if accuracy else f" {own['unit']}"
        said += f" (n = {own['n']})" if own.get("n") else ""
        lines.append(f"published {said}")
        if metric in ("train_seconds", "energy_wh"):
            lines.append("on another machine")
        elif values:
            points = float(folder.protocol.get("margin_points", 0.25))
            margin = points if accuracy else float(folder.protocol.get("margin_percent", 5.0)) / 100 * abs(mean)
            ours = [100.0 * value for value in values] if accuracy else values
            unit = "points" if accuracy else own["unit"]
            found = stats.against_published(ours, mean, sd, own.get("n"), margin=margin or 1.0, unit=unit)
            undecided = "not decided whether reproduced"
            differs = undecided if found.why == "not decided" else f"{found.outcome}: it differs"
            lines += [found.outcome if found.why is None else differs, f"margin {margin:.3g} {unit}"]
    return "\n".join(lines)


def _published_sources(folder: report.Folder) -> list[Block]:
    sources = dict.fromkeys(
        f"{report.label(summary)}, published {METRICS.get(own['metric'], own['metric'])}: {own['source']}"
        for summary in folder.rules
        for own in summary.get("published") or ()
    )
    return [Items([f"{source}." for source in sources], "note")] if sources else []


def _reached(runs: Sequence[dict[str, Any]]) -> str:
    """Runs that reached the target, and medians with misses at infinity."""
    if not runs:
        return "-"
    lines = [f"{sum(run.get('target_epoch') is not None for run in runs)} of {len(runs)} runs"]
    for name, unit in (("target_epoch", "passes"), ("target_seconds", "s")):
        if name == "target_seconds" and any(run.get(name) is None and run.get("target_epoch") for run in runs):
            continue
        median = statistics.median([float("inf") if run.get(name) is None else run[name] for run in runs])
        lines.append(f"median {report.number(median)} {unit}" if median < float("inf") else f"median never ({unit})")
    return "\n".join(lines)


def _energy(summary: report.Summary, runs: Sequence[dict[str, Any]], name: str) -> str:
    """A figure of the readings: of the sweep, or over the runs."""
    if summary.get("energy"):
        together = f"of {len(summary['runs'])} seeds together"
        return _quantities([summary["energy"].get(name)]) + (f"\n{together}" if name != "mean_power" else "")
    return _quantities([(run.get("energy") or {}).get(name) for run in runs])


def _quantities(found: Sequence[Any], per: float = 1.0, unit: str = "") -> str:
    """Mean ± sd of quantities, and under it what they are: measured, estimated or unavailable."""
    there = [quantity for quantity in found if quantity]
    if not there:
        return "-"
    values = [quantity["value"] / per for quantity in there if quantity["value"] is not None]
    status = list(dict.fromkeys(quantity["status"] for quantity in there))
    some = f", {len(values)} of {len(found)} runs" if 0 < len(values) < len(found) else ""
    return f"{report.spread(values)}{f' {unit}' * bool(unit and values)}\n{' and '.join(status)}{some}"


def _flops(found: Sequence[Any]) -> str:
    size, unit = _flop_unit([quantity["value"] for quantity in found if quantity and quantity["value"] is not None])
    return _quantities(found, size, unit)


def _flop_unit(values: Sequence[float | int]) -> tuple[float, str]:
    """Size and name of a unit that suits these numbers of FLOP."""
    sizes = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
    return next(((size, unit) for size, unit in sizes if max(values, default=0) >= size), (1.0, "FLOP"))


def _seed_table(folder: report.Folder) -> Table:
    """A row per rule and seed, also of those that there are not."""
    runs = [run for summary in folder.rules for run in summary["runs"]]
    others = list(dict.fromkeys(name for run in runs for name in run.get("readouts", {})))
    percent = lambda value: "-" if value is None else f"{100 * value:.2f}"
    plain = report.number
    reading = lambda name: lambda run: _single((run.get("energy") or {}).get(name))
    columns = {
        "validation %": lambda run: percent(run["val_accuracy"]),
        "test %": lambda r: percent(r["test_accuracy"]),
    }
    for name in others:
        own = lambda run, name=name: percent(_readout(run, name))
        columns[f"{name} test %"] = own
    columns |= {"passes": lambda run: str(run["epochs"]), "kept at": lambda run: str(run["kept_epoch"] or "-")}
    if any(run.get("target_epoch") for run in runs) or folder.protocol.get("name") == "to-target":
        columns["passes to target"] = lambda run: str(run.get("target_epoch") or "-")
        columns["s to target"] = lambda run: plain(run.get("target_seconds"))
    columns["train s"] = lambda run: (
        f"~{report.number(run['train_seconds_share'])}"
        if run.get("train_seconds") is None
        else plain(run["train_seconds"])
    )
    if any(run.get("kept_seconds") is not None for run in runs):
        columns["s to kept state"] = lambda run: plain(run.get("kept_seconds"))
    if any(run.get("energy") for run in runs):
        columns |= {"energy J": reading("energy"), "net J": reading("net"), "mean W": reading("mean_power")}
        columns |= (
            {"CO2e g, estimated": lambda run: reading("co2e")(run).split("\n")[0]}
            if any((run.get("energy") or {}).get("co2e") for run in runs)
            else {}
        )
    if any(run.get("arithmetic") for run in runs):
        columns["arithmetic"] = lambda run: _flops([run.get("arithmetic")]).split("\n")[0]
    rows, looks, strong = [], [], []
    names = {summary["rule"]: summary for summary in folder.rules}
    for look, (rule, seeds) in enumerate(folder.planned.items()):
        own = {run["seed"]: run for run in names[rule]["runs"]} if rule in names else {}
        name = report.label(names[rule]) if rule in names else rule.upper()
        for seed in seeds:
            run = own.get(seed)
            note = "\nmissing" if run is None else "\ndiverged" if run["diverged"] else ""
            cells = ["-"] * len(columns) if run is None else [show(run) for show in columns.values()]
            rows.append([name, f"{seed}{note}", *cells])
            looks.append(look)
    return Table(["rule", "seed", *columns], rows, looks, strong)


def _readout(run: dict[str, Any], name: str) -> float | None:
    """Test accuracy of a further readout."""
    return run.get("readouts", {}).get(name, {}).get("test_accuracy")


def _single(quantity: dict[str, Any] | None) -> str:
    if not quantity:
        return "-"
    mark = "" if quantity["status"] == "measured" else f"\n{quantity['status']}"
    return ("-" if quantity["value"] is None else report.number(quantity["value"])) + mark


def _pictures(folder: report.Folder) -> list[tuple[str, list[Block]]]:
    """Headings and figures."""
    rules = list(enumerate(folder.rules))
    legend = [(look, report.label(summary)) for look, summary in rules]
    passes, seconds = _learning(folder)
    drawn, words = [], "A thin line is a seed, the thick one the mean of the seeds still training."
    words += " A short upright line: a stage begins." if any(row["stage"] for row in folder.rows) else ""
    for runs, xlabel, caption in (
        (passes, "passes over the training images", words),
        (seconds, "seconds of training", "The same over each run's own clock, without compilation; markers: its end."),
    ):
        if any(any(own.values()) for _, _, own in runs):
            drawn.append((caption, figures.curves_svg(runs, xlabel, "validation accuracy, %", means=runs is passes)))
    out: list[tuple[str, list[Block]]] = [("Learning curves", [Figures(drawn, legend)] if drawn else [])]
    drawn = []
    for name, xlabel in COSTS.items():
        clouds = []
        for look, summary in rules:
            at = {run["seed"]: _place(run, name) for run in summary["runs"] if not report.gone(run)}
            there = {seed: place for seed, place in at.items() if place is not None}
            clouds += [figures.Cloud(look, report.label(summary), there)] if there else []
        if clouds:
            if name == "arithmetic":
                size, unit = _flop_unit([x for cloud in clouds for x, _ in cloud.seeds.values()])
                scaled = [{seed: (x / size, y) for seed, (x, y) in cloud.seeds.items()} for cloud in clouds]
                clouds = [cloud._replace(seeds=own) for cloud, own in zip(clouds, scaled, strict=True)]
                xlabel = f"arithmetic, {unit}"
            absent = [label for look, label in legend if look not in {cloud.look for cloud in clouds}]
            caption = "Small: a seed; large: the mean. Dashed: the front of the means, from which no rule is both "
            caption += "cheaper and more accurate." + (f" Without a value: {', '.join(absent)}." if absent else "")
            drawn.append((caption, figures.scatter_svg(clouds, xlabel, "test accuracy, %")))
    why = "No run has seconds, energy or arithmetic of its own: the seeds of a rule were trained together."
    out.append(("Accuracy against cost", [Figures(drawn, legend)] if drawn else [Text(why, "note")]))
    drawn = []
    gone = [f"{report.label(s)} {r['seed']}" for s in folder.rules for r in s["runs"] if report.gone(r)]
    for name, xlabel in {"test_accuracy": "test accuracy, %", **COSTS}.items():
        values = []
        for look, summary in rules:
            own = {r["seed"]: _value(r, name) for r in summary["runs"] if not report.gone(r)}
            values.append((look, report.label(summary), {seed: v for seed, v in own.items() if v is not None}))
        if name != "arithmetic" and any(own for _, _, own in values):
            caption = "A line joins the runs of one seed; the upright line is the mean."
            caption += f" Not shown, diverged: {', '.join(gone)}." if gone else ""
            drawn.append((caption, figures.dots_svg(values, xlabel)))
    out.append(("Seed by seed", [Figures(drawn, legend)] if drawn else []))
    return out


METRICS = {"test_accuracy": "test accuracy", "epochs": "passes", "train_seconds": "seconds", "energy_wh": "energy"}

COSTS = {"train_seconds": "seconds of training", "energy": "measured energy, J", "arithmetic": "arithmetic, FLOP"}


def _value(run: dict[str, Any], name: str) -> float | None:
    """A number of a run for a figure; energies only where they were measured."""
    if name == "test_accuracy":
        return 100 * run["test_accuracy"]
    if name == "train_seconds":
        return None if run.get(name) is None else float(run[name])
    quantity = (run.get("energy") or {}).get("energy") if name == "energy" else run.get(name)
    usable = quantity and quantity["value"] is not None and (name != "energy" or quantity["status"] == "measured")
    return float(quantity["value"]) if quantity and usable else None


def _place(run: dict[str, Any], name: str) -> figures.Point | None:
    cost = _value(run, name)
    return None if cost is None else (cost, 100 * run["test_accuracy"])


def _learning(folder: report.Folder) -> list[list[tuple[int, str, figures.Runs]]]:
    """The validations of every run, over its own passes and over its own seconds."""
    by_run: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in folder.rows:
        by_run.setdefault((row["rule"], row["seed"]), []).append(row)
    found: list[list[tuple[int, str, figures.Runs]]] = [[], []]
    for look, summary in enumerate(folder.rules):
        both: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
        for run in summary["runs"]:
            rows = sorted(by_run.get((summary["rule"], run["seed"]), []), key=lambda r: (r["stage"], r["epoch"]))
            ends: dict[int, int] = {}
            for row in rows:
                ends[row["stage"]] = row["epoch"]
            points = [[], []]
            for row in rows:
                y = 100 * row["val_accuracy"]
                if y != y:
                    continue
                before = sum(end for stage, end in ends.items() if stage < row["stage"])
                points[0].append((float(before + row["epoch"]), y, row["stage"]))
                if row["seconds"] is not None:
                    points[1].append((row["seconds"], y, row["stage"]))
            for side, own in zip(both, points, strict=True):
                if own:
                    side[run["seed"]] = own
        for side, own in zip(found, both, strict=True):
            side += [(look, report.label(summary), own)] if own else []
    return found


def _facts(folder: report.Folder) -> Facts:
    data, about = folder.summary["data"], dict(folder.summary.get("environment") or {})
    facts = {
        "result folder": _name(folder),
        "data": f"{data['name']}, digest {data['digest']}",
        "images": f"{data['train']:,} training, {data['validation']:,} validation, {data['test']:,} test",
        "data source": folder.config.get("data_source"),
        "command": folder.config.get("command"),
        "git commit": about.pop("git_commit", None),
        "packages": ", ".join(f"{name} {version}" for name, version in (about.pop("packages", None) or {}).items()),
    }
    facts |= {name.replace("_", " "): value for name, value in about.items()}
    where = report.machines(folder.rules)
    if len(where) > 1:
        for number, (machine, runs) in enumerate(where.items(), start=1):
            of = "; ".join(f"{name} seed {', '.join(map(str, seeds))}" for name, seeds in runs.items())
            facts[f"machine {number}"] = f"{machine}: {of}"
    return Facts([(name, "-" if value in (None, "") else str(value)) for name, value in facts.items()])


def _name(folder: report.Folder) -> str:
    return folder.path.resolve().name


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown, without the figures."""
    out = []
    for block in blocks:
        if isinstance(block, Heading):
            out.append(f"{'#' * block.level} {_plain(block.text)}")
        elif isinstance(block, Text):
            out.append(f"**{_plain(block.text)}**" if block.kind == "warning" else _plain(block.text))
        elif isinstance(block, Items):
            out.append("\n".join(f"* {_plain(item)}" for item in block.items))
        elif isinstance(block, Facts):
            out.append("\n".join(f"* {_plain(name)}: {_plain(value)}" for name, value in block.facts))
        elif isinstance(block, Table):
            lines = [block.header, ["---"] * len(block.header), *block.rows]
            out.append("\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines))
    return "\n\n".join(out) + "\n"


def _plain(text: str) -> str:
    """Text for Markdown: no tag of the reader's, and one line."""
    return " ".join(html.escape(text, quote=False).split())


def _cell(text: str) -> str:
    return "<br>".join(_plain(line).replace("|", "\\|") for line in text.split("\n"))


def document(title: str, blocks: Sequence[Block]) -> str:
    """The blocks as a page."""
    body = "\n".join(map(_html, blocks))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    esc = html.escape
    if isinstance(block, Heading):
        return f"<h{block.level}>{esc(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f'<p class="{block.kind}">{esc(block.text)}</p>' if block.kind else f"<p>{esc(block.text)}</p>"
    if isinstance(block, Items):
        kind = f' class="{block.kind}"' if block.kind else ""
        return f"<ul{kind}>" + "".join(f"<li>{esc(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Facts):
        return "<dl>" + "".join(f"<dt>{esc(a)}</dt><dd>{esc(b)}</dd>" for a, b in block.facts) + "</dl>"
    if isinstance(block, Figures):
        key = "".join(f'<span class="c{look % 7}">{_key(look)}{esc(label)}</span>' for look, label in block.legend)
        drawn = "".join(f"<figure>{svg}<figcaption>{esc(said)}</figcaption></figure>" for said, svg in block.figures)
        return f'<div class="legend">{key}</div>\n<div class="figures">{drawn}</div>'
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in block.header)
    rows = []
    for i, row in enumerate(block.rows):
        cells = ["<br>".join(_small(line) if at else esc(line) for at, line in enumerate(c.split("\n"))) for c in row]
        if block.looks:
            cells[0] = f'<span class="c{block.looks[i] % 7}">{_key(block.looks[i])}</span>{cells[0]}'
        strong = ' class="strong"' if i in block.strong else ""
        rest = "".join(f"<td>{cell}</td>" for cell in cells[1:])
        rows.append(f'<tr{strong}><th scope="row">{cells[0]}</th>{rest}</tr>')
    body = "\n".join(rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _small(line: str) -> str:
    return f"<small>{html.escape(line)}</small>"


def _key(look: int) -> str:
    return f'<svg class="key" viewBox="-7 -7 14 14" aria-hidden="true">{figures.marker(look, 0, 0, 5)}</svg>'


STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --page: #fff; --raised: #f5f7f9;
  --warn: #8a4b00; --warn-page: #fff3dd;
  --c0: #0072b2; --c1: #d55e00; --c2: #008a63; --c3: #b3578c; --c4: #b07a00; --c5: #3a96d0; --c6: #555; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #363d46; --page: #14171b; --raised: #1e2329;
    --warn: #ffc46b; --warn-page: #33260e;
    --c0: #4ba6e0; --c1: #f58b45; --c2: #2fc498; --c3: #e096c2; --c4: #eab23a; --c5: #8fd0f7; --c6: #b5b5b5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; -webkit-text-size-adjust: 100%; overflow-wrap: anywhere; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: .5rem 0 .75rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.2rem 0 .6rem;
  padding-top: .5rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.5rem 0 .4rem; }
h4 { font-size: 1rem; margin: 1rem 0 .2rem; }
p { margin: .5rem 0; max-width: 52rem; }
p.note, ul.note { color: var(--soft); font-size: .875rem; }
p.warning { color: var(--warn); background: var(--warn-page); padding: .5rem .75rem; border-radius: .3rem; }
ul { margin: .3rem 0; padding-left: 1.2rem; max-width: 52rem; }
li { margin: .25rem 0; }
.scroll { overflow-x: auto; max-width: 100%; border: 1px solid var(--line); border-radius: .3rem; margin: .75rem 0; }
table { border-collapse: separate; border-spacing: 0; font-size: .875rem; min-width: 100%;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .35rem .6rem; text-align: right; vertical-align: top; white-space: nowrap; }
th { text-align: right; font-weight: 600; }
thead th { background: var(--raised); border-bottom: 1px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
@media (max-width: 40rem) { th:first-child { white-space: normal; min-width: 8rem; max-width: 8.5rem; }
  th, td { padding: .3rem .5rem; } }
thead th:first-child { background: var(--raised); }
tr.strong > * { background: var(--raised); font-weight: 600; }
small { color: var(--soft); font-size: .78rem; font-weight: 400; }
.key { width: .95rem; height: .95rem; margin-right: .35rem; vertical-align: -.12rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .9rem; margin: .5rem 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; max-width: 32rem; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .82rem; line-height: 1.4; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .2rem 1rem;
  font-size: .875rem; margin: .5rem 0; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; }
svg text { fill: var(--ink); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
svg text.row { font-size: 12.5px; paint-order: stroke; stroke: var(--page); stroke-width: 4px; }
.grid { stroke: var(--line); fill: none; }
.axis { stroke: var(--soft); fill: none; }
.front, .join { stroke: var(--soft); fill: none; }
.front { stroke-dasharray: 5 4; stroke-width: 1.5; }
.join { stroke-width: .8; opacity: .75; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); }
polyline.seed { stroke: var(--c); stroke-width: .8; fill: none; opacity: .4; }
circle.seed { fill: var(--c); opacity: .5; }
.mean { stroke: var(--c); stroke-width: 2.2; fill: none; stroke-linejoin: round; }
.stage { stroke: var(--c); stroke-width: 1.2; fill: none; }
.mark { fill: var(--c); stroke: var(--page); stroke-width: 1; }
.dot { fill: var(--c); opacity: .6; }
"""
