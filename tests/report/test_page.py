"""The report page: made from a recorded folder alone, with every number of it, and nothing from outside."""

import contextlib
import dataclasses
import html.parser
import json
import random
import re
import shutil
import statistics
import sys
from pathlib import Path

import pytest

from fwdonly import UsageError, report, results
from fwdonly.report.blocks import Heading, Text
from fwdonly.report.markdown import markdown_document

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

OWN = {
    "name": "own-convergence",
    "reference": "bp",
    "words": "One stopping rule for all.",
    "target": None,
    "passes": None,
    "margin_points": 0.25,
    "margin_percent": 5.0,
}

TARGET = OWN | {"name": "to-target", "words": "Until 90 % on validation.", "target": 0.9}


def quantity(value, unit, status="measured", source="nvml_counter", reason=None):
    return {"value": value, "unit": unit, "status": status, "source": source, "reason": reason, "derived": False}


def reading(joules, seconds, status="measured", device="GPU-a"):
    """As `fwdonly.measure.Reading.as_json` gives it, of a board that idles at 60 W."""
    missing = quantity(None, "J", "unavailable", "none", "no sensor")
    source = "nvml_counter" if status == "measured" else "cpu_load_x_tdp"
    energy = missing if status == "unavailable" else quantity(joules, "J", status, source)
    net = missing if status == "unavailable" else quantity(joules - 60 * seconds, "J", status, source)
    part = {
        "name": device,
        "kind": "gpu",
        "energy": energy,
        "net": net,
        "idle": quantity(60.0, "W"),
        "utilisation": 0.9,
        "about": {"power_limit_w": 400.0},
        "notes": [],
    }
    return {
        "name": "train",
        "seconds": quantity(seconds, "s", source="perf_counter"),
        "energy": energy,
        "net": net,
        "mean_power": quantity(joules / seconds, "W", "measured", source),
        "parts": [part],
        "opinions": {},
        "marks": [],
        "repeats": 1,
        "notes": [],
        "co2e": quantity(joules * 0.0001, "g", "estimated", "nvml_counter x 360 g/kWh"),
    }


def run_of(seed, base, rng, stages=1, alone=True, energy="measured", diverged=False):
    """A run with numbers that are nobody else's."""
    epochs = 3 * stages + rng.randrange(3)
    accuracy, seconds = base + rng.gauss(0, 0.002), 40 * stages + 4 * rng.random()
    return {
        "seed": seed,
        "val_accuracy": None if diverged else accuracy + 0.003 * (1 + seed % 3 * stages),
        "val_loss": None if diverged else 0.1 + rng.random() / 10,
        "test_accuracy": None if diverged else accuracy,
        "test_loss": None if diverged else 0.1 + rng.random() / 10,
        "epochs": epochs,
        "kept_epoch": 0 if diverged else 2,
        "target_epoch": None,
        "train_seconds_share": seconds,
        "train_seconds": seconds if alone else None,
        "kept_seconds": 0.7 * seconds if alone and not diverged else None,
        "target_seconds": None,
        "diverged": diverged,
        "readouts": {},
        "energy": reading(seconds * (150 + 5 * rng.random()), seconds, energy) if alone and energy else None,
        "arithmetic": quantity(epochs * 1.2345e12, "FLOP", "estimated", "xla") if alone else None,
    }


def make(path, rules=("mf", "bp"), seeds=10, protocol=OWN, alone=True, energy="measured", finished=True, edit=None):
    """Write a result folder; ``edit`` changes the summary before it is written."""
    rng, summaries, rows = random.Random(7), [], []
    for at, rule in enumerate(rules):
        stages = 2 if rule == "mf" else 1
        runs = [run_of(seed, 0.95 - 0.01 * at, rng, stages, alone, energy) for seed in range(seeds)]
        summaries.append(
            {
                "rule": rule,
                "label": f"{rule.upper()}, greedy" if rule == "mf" else rule.upper(),
                "network": "MLP 32-32",
                "finished": finished,
                "compile_seconds": 3.21 + at,
                "train_seconds": sum(run["train_seconds_share"] for run in runs),
                "energy": None,
                "memory": quantity(12_345_678 + at * 1e6, "B", "measured", "xla"),
                "runs": runs,
            }
        )
        for run in runs:
            for epoch in range(1, run["epochs"] + 1):
                stage = int(epoch > 3 and stages == 2)
                share = epoch / run["epochs"]
                rows.append(
                    {
                        "rule": rule,
                        "seed": run["seed"],
                        "stage": stage,
                        "epoch": epoch - 3 * stage,
                        "train_loss": 1 - share / 2,
                        "val_loss": 1 - share / 2,
                        "val_accuracy": run["val_accuracy"] - 0.2 * (1 - share),
                        "layer_loss": "",
                        **({"seconds": share * run["train_seconds"]} if alone else {}),
                    }
                )
    summaries[0]["published"] = [
        {"metric": "test_accuracy", "value": 94.87, "sd": 0.13, "n": 3, "unit": "%", "source": "arXiv 0000.00000"},
        {"metric": "energy_wh", "value": 1.75, "sd": None, "n": 3, "unit": "Wh", "source": "arXiv 0000.00000"},
    ]
    summary = {
        "finished": finished,
        "title": "MLP 32-32 on digits",
        "data": {"name": "digits", "digest": "abc123", "train": 1295, "validation": 143, "test": 359},
        **({"protocol": protocol} if protocol else {}),
        "rules": summaries,
        "statistics": {},
        "environment": {"python": "3.11.9", "packages": {"jax": "0.10.2"}, "git_commit": "f00dfeed", "cores": 2},
    }
    if edit:
        edit(summary)
    path.mkdir(parents=True)
    settings = {s["rule"]: {"seeds": seeds, "first_seed": 0} for s in summary["rules"]}
    config = {"configuration": {"rules": settings}, "command": "python compare.py --alone", "data_source": "embedded"}
    results.write_json(path / "config.json", config)
    results.write_json(path / "summary.json", summary)
    results.write_metrics(path / "metrics.csv", rows)
    return path


class Parsed(html.parser.HTMLParser):
    """Checks that tags are balanced and collects text, attributes and ids."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.attributes, self.tags = [], [], [], set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def number(value):
    """Four digits or more, by decimal arithmetic rather than by the logarithm that `report.number` takes."""
    whole = len(str(int(value))) if value >= 1 else -len(re.match(r"0*", f"{value:.9f}"[2:])[0])
    return f"{value:,.{max(4 - whole, 0)}f}"


def shown(folder):
    """What the report promises of a summary, as it is printed."""
    summary = json.loads((folder / "summary.json").read_text())
    for rule in summary["rules"]:
        yield rule["label"]
        yield number(rule["compile_seconds"])
        yield f"{number(rule['memory']['value'] / 1e6)} MB"
        for own in rule.get("published", ()):
            yield f"published {own['value']}"
            yield own["source"]
        for name, factor, form in (("test_accuracy", 100, ".2f"), ("val_accuracy", 100, ".2f"), ("epochs", 1, ".1f")):
            yield report.mean_sd([factor * run[name] for run in rule["runs"]], form)
        for name in ("train_seconds", "kept_seconds"):
            yield number(statistics.fmean(run[name] for run in rule["runs"]))
        for name in ("energy", "net", "mean_power", "co2e"):
            yield number(statistics.fmean(run["energy"][name]["value"] for run in rule["runs"]))
        for run in rule["runs"]:
            yield from (f"{100 * run[name]:.2f}" for name in ("test_accuracy", "val_accuracy"))
            yield from (number(run[name]) for name in ("train_seconds", "kept_seconds"))
            yield from (number(run["energy"][name]["value"]) for name in ("energy", "net", "mean_power", "co2e"))
            yield f"{number(run['arithmetic']['value'] / 1e12)} TFLOP"
    data, about = summary["data"], summary["environment"]
    yield from (data["digest"], "1,295", "143", "359", about["python"], about["git_commit"], "jax 0.10.2")
    yield from ("python compare.py --alone", "embedded", summary["title"], summary["protocol"]["words"])


def test_every_number_of_the_folder_is_on_the_page_and_in_the_markdown(tmp_path):
    folder = make(tmp_path / "a")
    parsed = Parsed(report.html_report([folder]))
    on_page, in_markdown = "\n".join(parsed.text), report.markdown_report([folder])
    wanted = list(shown(folder))
    assert len(wanted) > 200
    for words in wanted:
        assert words in on_page, words
        assert words in in_markdown, words
    assert "measured" in on_page and "estimated" in on_page


def test_a_number_that_changes_in_the_folder_changes_on_the_page(tmp_path):
    """The control of the test above, for one seed's accuracy and energy."""
    before = report.html_report([make(tmp_path / "a")])

    def edit(summary):
        summary["rules"][0]["runs"][3]["test_accuracy"] = 0.7654
        summary["rules"][1]["runs"][2]["energy"]["energy"]["value"] = 98765.0

    after = report.html_report([make(tmp_path / "b", edit=edit)])
    assert "76.54" not in before and "76.54" in after
    assert "98,765" not in before and "98,765" in after


def test_the_page_stands_alone_and_is_the_same_every_time(tmp_path):
    folder = make(tmp_path / "a")
    text = report.html_report([folder])
    parsed = Parsed(text)
    assert text == report.html_report([folder]) and report.markdown_report([folder]) == report.markdown_report([folder])
    assert not parsed.tags & {"script", "link", "img", "iframe", "object", "use"}
    assert not any(name in ("src", "href", "xlink:href", "id") for name, _ in parsed.attributes)
    assert not re.search(r"https?://|url\(|@import", text)
    assert dict(parsed.attributes)["viewbox"]
    assert text.count("<figure>") == 2 + 3 + 3


def test_ten_rules_of_ten_seeds_stay_small(tmp_path):
    """Also where training is long: curves are thinned."""
    points = [(float(n), 50.0 + n % 7, 0) for n in range(2000)]
    curve = report.curves_svg([(0, "a", {0: points})], "passes", "%")
    assert curve.count(",") < 2.2 * report.svg.THINNED
    runs = [(look, str(look), dict.fromkeys(range(10), points)) for look in range(10)]
    assert 2 * len(report.curves_svg(runs, "passes", "%")) < 1_000_000
    folder = make(tmp_path / "a", rules=["mf", "bp", *(f"r{n}" for n in range(8))])
    text = report.html_report([folder])
    assert len(text.encode()) < 500_000
    looks = {report.svg.marker(look, 0, 0, 5) for look in range(report.svg.LOOKS)}
    assert len(looks) == report.svg.LOOKS


def test_names_are_text_wherever_they_stand(tmp_path):
    def edit(summary):
        summary["rules"][0]["label"] = "<script>alert(1)</script>|x"
        summary["rules"][0]["published"][0]["source"] = '"><b>'
        summary["rules"][1]["network"] = "<b>MLP</b>"
        summary["title"] = "<i>title</i>"

    folder = make(tmp_path / "a", edit=edit)
    text = report.html_report([folder])
    assert not Parsed(text).tags & {"script", "b", "i"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|x" in text
    in_markdown = report.markdown_report([folder])
    assert "<script" not in in_markdown and "<b>" not in in_markdown and "&lt;/script&gt;\\|x" in in_markdown


def test_questions_are_answered_where_runs_have_their_own_numbers(tmp_path):
    own = report.answers([report.load(make(tmp_path / "a"))])[0]
    assert [q.quantity for q in own] == ["accuracy", "passes", "time", "energy"]
    accuracy, _, time, energy = own
    assert accuracy.answer.n == 10 and accuracy.answer.p_holm > accuracy.answer.p
    ours, theirs = ([run["test_accuracy"] for run in rule["runs"]] for rule in report.load(tmp_path / "a").rules)
    assert accuracy.answer.mean == pytest.approx(100 * (statistics.fmean(ours) - statistics.fmean(theirs)))
    assert time.answer.mean == pytest.approx(100, abs=10) and energy.answer.mean == pytest.approx(100, abs=10)
    assert "MF, greedy is" in accuracy.sentence and "more accurate than BP" in accuracy.sentence
    page_text = report.html_report([tmp_path / "a"])
    assert all(q.sentence in page_text for q in own)
    assert page_text.index(energy.sentence) < page_text.index("<table>")  # verdicts first


def test_times_that_are_too_short_do_not_help_the_other_questions(tmp_path):
    def edit(summary):
        """Times 2 % apart, which is sure and within 5 %: both tests of the question are passed early."""
        for rule, seconds in zip(summary["rules"], (2.04, 2.0), strict=True):
            for run in rule["runs"]:
                run["train_seconds"] = seconds * (1 + 0.0001 * (run["seed"] % 3))
        for run, luck in zip(summary["rules"][0]["runs"], (0.0, -0.1) * 5, strict=True):
            run["test_accuracy"] += luck

    own = report.answers([report.load(make(tmp_path / "a", edit=edit))])[0]
    answers = [q.answer for q in own if q.answer is not None]
    asked = [dataclasses.replace(q.answer, p=None, equivalence_p=None) if q.notes else q.answer for q in own]
    assert [q.quantity for q in own if q.notes] == ["time"] and "no claim" in own[2].sentence
    levels = lambda family: [family[at].p_holm for at in (0, 1, 3)]
    assert levels([q.answer for q in own]) == levels(report.stats.holm(asked))
    assert levels(report.stats.holm(asked)) > levels(report.stats.holm(answers)), "control: the time would help"
    assert own[2].answer.p_holm >= own[2].answer.p, "it is corrected itself"


def not_measured(name, value=None):
    def edit(summary):
        reading = summary["rules"][0]["runs"][1]["energy"]
        if name == "device":
            reading["parts"][0]["name"] = "GPU-b"
        else:
            reading[name] = quantity(
                value, "J", *(("measured",) if value else ("unavailable", "none", "no idle power"))
            )

    return edit


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"energy": "estimated"}, "estimated (cpu_load_x_tdp; an estimate decides nothing)"),
        ({"energy": "unavailable"}, "unavailable (no sensor)"),
        ({"energy": None}, "not every run was trained with --energy"),
        ({"edit": not_measured("seconds", 29.0)}, "a window took 29 s, and under 30 s decide nothing"),
        ({"edit": not_measured("net")}, "idle power was not measured"),
        ({"edit": not_measured("device")}, "different devices"),
        ({"protocol": None}, "no protocol was recorded"),
    ],
)
def test_an_energy_that_decides_nothing_is_not_compared(tmp_path, arguments, why):
    question = report.questions(report.load(make(tmp_path / "a", **arguments)))[-1]
    assert question.quantity == "energy" and question.answer is None
    assert why in question.sentence
    text = "".join(Parsed(report.html_report([tmp_path / "a"])).text)
    assert why in text
    assert ("measured energy, J" in text) == (arguments.get("energy", "measured") == "measured")  # the axis of figures


def test_seeds_trained_together_have_no_seconds_and_equal_passes_are_no_question(tmp_path):
    def edit(summary):
        for rule in summary["rules"]:
            for run in rule["runs"]:
                run["epochs"] = 6

    folder = make(tmp_path / "a", alone=False, energy=None, edit=edit)
    _, passes, time, _ = report.questions(report.load(folder))
    assert passes.answer is None and "6 in every run" in passes.reason
    assert time.answer is None and "trained together" in time.reason
    text = "".join(Parsed(report.html_report([folder])).text)
    assert "of 10 seeds together" in text and "No run has seconds, energy or arithmetic of its own" in text


def test_misses_of_a_target_are_counted_and_never_dropped(tmp_path):
    def edit(summary):
        for rule in summary["rules"]:
            for run in rule["runs"]:
                missed = rule["rule"] == "mf" and run["seed"] < 3
                run["target_epoch"] = None if missed else 2
                run["target_seconds"] = None if missed else 0.5 * run["train_seconds"]

    folder = make(tmp_path / "a", protocol=TARGET, edit=edit)
    own = {q.quantity: q.answer for q in report.questions(report.load(folder))}
    assert own["time"].reached == (7, 10) and own["energy"].reached == (7, 10) and own["time"].n == 10
    text = "".join(Parsed(report.html_report([folder])).text)
    assert "7 of 10 runs" in text and "10 of 10 runs" in text and "Target: 90 %" in text


def test_one_seed_is_undecided_and_a_folder_of_one_rule_compares_nothing(tmp_path):
    folder = make(tmp_path / "a", seeds=1)
    assert all("not decided" in q.sentence for q in report.questions(report.load(folder)) if q.answer)
    Parsed(report.html_report([folder]))
    alone = make(tmp_path / "b", rules=["mf"], protocol=None)
    assert report.questions(report.load(alone)) == []
    assert "Nothing is compared: there is no reference rule (BP) in it." in report.html_report([alone])


def test_a_reference_that_is_planned_and_not_yet_trained_is_said(tmp_path):
    """As `compare` has it in an experiment that was stopped before the reference's first run ended."""
    folder = make(tmp_path / "a", finished=False)
    rewrite(lambda s: s["rules"].pop())(folder)
    assert report.questions(report.load(folder)) == []
    assert "Nothing is compared: there is no reference rule (BP) in it." in report.html_report([folder])
    settings = json.loads((folder / "config.json").read_text())
    del settings["configuration"]["rules"]["bp"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UsageError, match="reference, bp, is no rule of it"):  # the control
        report.load(folder)


def on_machines(*names, rule=0):
    """An edit that gives the runs of a rule these machines in turn, and all others the first one."""

    def edit(summary):
        for at, own in enumerate(summary["rules"]):
            for run in own["runs"]:
                run["machine"] = names[run["seed"] % len(names)] if at == rule else names[0]
                if run["machine"] is None:
                    del run["machine"]

    return edit


@pytest.mark.parametrize("names", [("A, jax 1", "B, jax 1"), ("A, jax 1", None), (None, "B, jax 1")])
@pytest.mark.parametrize("protocol", [OWN, TARGET], ids=["own", "target"])
def test_seconds_and_energies_of_several_machines_are_not_compared(tmp_path, names, protocol):
    folder = make(tmp_path / "a", protocol=protocol, edit=on_machines(*names))
    own = {q.quantity: q for q in report.questions(report.load(folder))}
    for quantity in ("time", "energy"):
        assert own[quantity].answer is None and own[quantity].reason == "the runs were made on different machines"
    assert own["accuracy"].answer is not None and own["passes"].answer is not None
    text = "\n".join(Parsed(report.html_report([folder])).text)
    assert "time, energy: not compared; the runs were made on different machines." in text
    for name, seeds in zip(names, ("0, 2, 4, 6, 8", "1, 3, 5, 7, 9"), strict=True):
        assert f"{name or 'unknown'}: MF, greedy seed {seeds}" in text
    assert "machine 2" in text and "Seconds and energies are of different machines (" in text


@pytest.mark.parametrize("name", ["A, jax 1", None])
def test_runs_of_one_machine_or_of_before_it_was_recorded_are_compared(tmp_path, name):
    folder = make(tmp_path / "a", edit=on_machines(name))
    assert all(q.answer is not None for q in report.questions(report.load(folder)))
    assert "different machines" not in report.html_report([folder]) and "machine 1" not in report.html_report([folder])


def test_the_machine_of_a_run_that_is_in_no_pair_does_not_count(tmp_path):
    def edit(summary):
        on_machines("A")(summary)
        summary["rules"][0]["runs"][3]["machine"] = "B"
        summary["rules"][1]["runs"][3] |= {"test_accuracy": None, "diverged": True}

    own = {q.quantity: q for q in report.questions(report.load(make(tmp_path / "a", edit=edit)))}
    assert own["time"].answer.n == own["energy"].answer.n == 9


def test_notes_of_the_protocol_stand_before_the_verdicts(tmp_path):
    notes = ["FOTON uses <its> own optimizer.", "FF was searched with 3 trials."]
    folder = make(tmp_path / "a", protocol=OWN | {"notes": notes})
    text, in_markdown = "\n".join(Parsed(report.html_report([folder])).text), report.markdown_report([folder])
    for note, escaped in zip(notes, ("FOTON uses &lt;its&gt; own optimizer.", notes[1]), strict=True):
        assert text.index(OWN["words"]) < text.index(note) < text.index("Verdicts")
        assert in_markdown.index(OWN["words"]) < in_markdown.index(f"* {escaped}") < in_markdown.index("# Verdicts")
    assert report.html_report([make(tmp_path / "b", protocol=OWN | {"notes": []})]) == report.html_report(
        [make(tmp_path / "c" / "b")]
    )


def test_nothing_is_claimed_of_a_rule_that_was_not_tuned_nor_against_it(tmp_path):
    def edit(*tuned):
        def f(summary):
            for rule, own in zip(summary["rules"], tuned, strict=True):
                rule |= {} if own is None else {"tuned": own}

        return f

    def sentences(name, *tuned):
        folder = make(tmp_path / name, edit=edit(*tuned))
        page_text, found = report.html_report([folder]), report.answers([report.load(folder)])[0]
        assert all(q.sentence + "." in page_text for q in found)
        return [q.sentence for q in found]

    plain = sentences("a", None, None)
    assert sentences("b", True, True) == plain and not any("no claim" in words for words in plain)
    ours, theirs = "; no claim: MF, greedy was not tuned", "; no claim: BP was not tuned"
    assert sentences("c", False, True) == [words + ours for words in plain]
    assert sentences("d", None, False) == [words + theirs for words in plain]
    assert sentences("e", False, False) == [words + ours + theirs for words in plain]


def test_several_reasons_for_no_claim_are_joined_and_none_is_said_where_nothing_is_compared(tmp_path):
    def edit(summary):
        summary["rules"][0]["tuned"] = False
        summary["rules"][1]["runs"][2]["train_seconds"] = 29.0
        summary["rules"][1]["runs"][2]["energy"]["seconds"]["value"] = 29.0

    accuracy, _, time, energy = report.questions(report.load(make(tmp_path / "a", edit=edit)))
    short = "; no claim: a run took 29 s, and times under 30 s vary with what else the machine does"
    assert time.sentence.endswith(short + "; no claim: MF, greedy was not tuned")
    assert accuracy.sentence.endswith("; no claim: MF, greedy was not tuned") and short not in accuracy.sentence
    assert energy.answer is None and "no claim" not in energy.sentence


def test_partial_diverged_and_missing_are_said(tmp_path):
    def edit(summary):
        summary["finished"] = summary["rules"][1]["finished"] = False
        summary["rules"][0]["runs"][4] = run_of(4, 0.9, random.Random(0), diverged=True)
        del summary["rules"][1]["runs"][8:]

    folder = make(tmp_path / "a", edit=edit)
    parsed = Parsed(report.html_report([folder]))
    text = "\n".join(parsed.text)
    assert "Partial: this experiment was interrupted" in text
    assert "MF, greedy diverged with seed 4." in text and "1 diverged" in text and "2 missing" in text
    assert parsed.text.count("missing") == 2 and parsed.text.count("diverged") == 1
    accuracy = report.questions(report.load(folder))[0].answer
    assert accuracy.n == 7 and len(accuracy.left_out) == 3
    in_markdown = report.markdown_report([folder])
    assert "**Partial" in in_markdown and "8<br>missing" in in_markdown


def test_old_folders_are_read(tmp_path):
    """Of before runs had their own seconds, memory or arithmetic."""

    def edit(summary):
        del summary["protocol"]
        for rule in summary["rules"]:
            for name in ("label", "network", "memory", "published"):
                rule.pop(name, None)
            for run in rule["runs"]:
                for name in ("target_epoch", "train_seconds", "kept_seconds", "target_seconds", "energy", "arithmetic"):
                    del run[name]

    folder = make(tmp_path / "a", edit=edit)
    text = "".join(Parsed(report.html_report([folder])).text)
    assert "No protocol was recorded" in text and "MF against BP" in text and ">0<" not in text


def test_several_folders_are_one_family_and_must_be_of_one_data_set(tmp_path):
    folders = [make(tmp_path / "a"), make(tmp_path / "b", protocol=TARGET)]
    text = report.html_report(folders)
    Parsed(text)
    both, single = report.answers([report.load(f) for f in folders]), report.answers([report.load(folders[0])])
    assert both[0][0].answer.p_holm > single[0][0].answer.p_holm
    assert text.count("Protocol ") == 2 and "for the 8 questions" in text

    def edit(summary):
        summary["data"]["digest"] = "other"

    other = make(tmp_path / "c", edit=edit)
    with pytest.raises(UsageError, match=r"^mixed data sets: digits \(abc123\), digits \(other\); make one report per"):
        report.html_report([*folders, other])
    with pytest.raises(UsageError, match="given twice"):
        report.html_report([folders[0], folders[0]])
    with pytest.raises(UsageError, match="at least one"):
        report.html_report([])


def cut(name, keep):
    return lambda folder: (folder / name).write_text((folder / name).read_text()[:keep])


def rewrite(change):
    def f(folder):
        summary = json.loads((folder / "summary.json").read_text())
        change(summary)
        (folder / "summary.json").write_text(json.dumps(summary))

    return f


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: shutil.rmtree(folder), "has no config.json"),
        (lambda folder: (folder / "summary.json").unlink(), "has no summary.json"),
        (lambda folder: (folder / "metrics.csv").unlink(), "has no metrics.csv"),
        (cut("summary.json", 500), "summary.json is damaged"),
        (cut("config.json", 10), "config.json is damaged"),
        (cut("metrics.csv", 900), "metrics.csv is damaged"),
        (cut("metrics.csv", -12), "metrics.csv is damaged (its last line is cut off)"),
        (lambda folder: results.write_metrics(folder / "metrics.csv", []), "damaged (no line of mf with seed 0)"),
        (rewrite(lambda s: s.pop("data")), "summary.json is damaged (it has no 'data')"),
        (rewrite(lambda s: s["rules"][0]["runs"][0].pop("test_accuracy")), "it has no 'test_accuracy'"),
        (rewrite(lambda s: s["rules"][0]["runs"][0].update(epochs="x")), "summary.json is damaged"),
        (rewrite(lambda s: s.update(rules=7)), "summary.json is damaged"),
        (lambda folder: (folder / "summary.json").write_text("[]"), "it holds no list of rules"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json is damaged"),
        (rewrite(lambda s: s.update(rules=[])), "holds no finished run"),
        (rewrite(lambda s: s["rules"][0]["runs"][1].update(seed=0)), "holds seed 0 of MF, greedy twice"),
        (rewrite(lambda s: s["rules"][1].update(rule="mf")), "holds a rule twice"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(tmp_path, spoil, why):
    folder = make(tmp_path / "a", seeds=2)
    spoil(folder)
    with pytest.raises(UsageError) as raised:
        report.load(folder)
    assert why in str(raised.value) and "\n" not in str(raised.value) and str(folder) in str(raised.value)


def at(value, *path):
    """Put a value into the summary."""

    def change(summary):
        for name in path[:-1]:
            summary = summary[name]
        summary[path[-1]] = value

    return change


RUN, PROTOCOL = ("rules", 0, "runs", 1), ("protocol",)


@pytest.mark.parametrize(
    ("value", "path", "why"),
    [
        (["own"], PROTOCOL, "protocol of the summary is not an object"),
        ("own", PROTOCOL, "protocol of the summary is not an object"),
        ([], PROTOCOL, "protocol of the summary is not an object"),
        ("foton", (*PROTOCOL, "reference"), "the protocol's reference, foton, is no rule of it"),
        (["bp"], (*PROTOCOL, "reference"), "reference of the protocol is not text"),
        ("0.25", (*PROTOCOL, "margin_points"), "margin_points of the protocol is not a finite number above 0"),
        (None, (*PROTOCOL, "margin_points"), "margin_points of the protocol is not a finite number above 0"),
        (0, (*PROTOCOL, "margin_points"), "margin_points of the protocol is not a finite number above 0"),
        (True, (*PROTOCOL, "margin_percent"), "margin_percent of the protocol is not a finite number above 0"),
        (-5.0, (*PROTOCOL, "margin_percent"), "margin_percent of the protocol is not a finite number above 0"),
        (float("nan"), (*PROTOCOL, "margin_percent"), "margin_percent of the protocol is not a finite number above 0"),
        (float("inf"), (*PROTOCOL, "margin_percent"), "margin_percent of the protocol is not a finite number above 0"),
        (10**400, (*PROTOCOL, "margin_percent"), "summary.json is damaged"),
        ("0.9", (*PROTOCOL, "target"), "target of the protocol is not a finite number above 0"),
        ("one sentence", (*PROTOCOL, "notes"), "notes of the protocol is not a list of sentences"),
        ([1], (*PROTOCOL, "notes"), "notes of the protocol is not a list of sentences"),
        (7, ("rules", 0, "label"), "label of rule 1 is not text"),
        (["MLP"], ("rules", 1, "network"), "network of rule 2 is not text"),
        ("no", ("rules", 0, "tuned"), "tuned of rule 1 is not true or false"),
        (12.5, ("rules", 0, "memory"), "memory of rule 1 is not an object with value, unit and status"),
        ({"value": 1.0, "unit": "B"}, ("rules", 0, "memory"), "memory of rule 1 is not an object with value, unit"),
        (1e12, (*RUN, "arithmetic"), "arithmetic of run 2 of rule 1 is not an object with value, unit and status"),
        ("1e12", (*RUN, "arithmetic", "value"), "arithmetic of run 2 of rule 1 is not an object with value, unit"),
        (None, (*RUN, "arithmetic", "status"), "arithmetic of run 2 of rule 1 is not an object with value, unit"),
        (3.0, (*RUN, "epochs"), "epochs of run 2 of rule 1 is not an integer"),
        (True, (*RUN, "epochs"), "epochs of run 2 of rule 1 is not an integer"),
        (10**400, (*RUN, "epochs"), "summary.json is damaged"),
        ("1", (*RUN, "seed"), "seed of run 2 of rule 1 is not an integer"),
        ([1], (*RUN, "seed"), "seed of run 2 of rule 1 is not an integer"),
        (["A"], (*RUN, "machine"), "machine of run 2 of rule 1 is not text"),
        ("0.9", (*RUN, "test_accuracy"), "test_accuracy of run 2 of rule 1 is not a finite number"),
        (1e308, (*RUN, "test_accuracy"), "test_accuracy of run 2 of rule 1 is not a finite number"),
        (-1e100, (*RUN, "train_seconds"), "train_seconds of run 2 of rule 1 is not a finite number"),
        (50.0, (*RUN, "energy"), "energy of run 2 of rule 1 is not an object"),
        ("9", (*RUN, "energy", "net"), "net of the energy of run 2 of rule 1 is not an object with value, unit"),
        ("94", ("rules", 0, "published", 0, "value"), "value of a published number of rule 1 is not a finite number"),
        (5, ("title",), "title of the summary is not text"),
        ("many", ("data", "train"), "train of the data is not an integer"),
        ("jax", ("environment", "packages"), "packages of the environment is not an object"),
    ],
)
def test_a_value_of_a_wrong_type_is_one_clear_line(tmp_path, value, path, why):
    folder = make(tmp_path / "a", seeds=2)
    report.load(folder)  # the control
    rewrite(at(value, *path))(folder)
    with pytest.raises(UsageError) as raised:
        report.load(folder)
    assert why in str(raised.value) and "\n" not in str(raised.value) and str(folder) in str(raised.value)


@pytest.mark.parametrize("number", ["1e308", "-1e100", "much"])
def test_a_number_that_no_training_gives_is_refused_in_the_metrics_too(tmp_path, number):
    folder = make(tmp_path / "a", seeds=2)
    path = folder / "metrics.csv"
    lines = path.read_text().splitlines()
    place = lines[0].split(",").index("train_loss")
    for value, expectation in (("3.4e38", contextlib.nullcontext()), (number, pytest.raises(UsageError, match=number))):
        row = lines[1].split(",")
        row[place] = value
        path.write_text("\n".join([lines[0], ",".join(row), *lines[2:], ""]))
        with expectation:  # the first one, float32's largest number, is the control
            report.html_report([folder])


def test_a_rule_without_a_run_is_a_dash_also_under_a_target(tmp_path):
    folder = make(tmp_path / "a", seeds=2, protocol=TARGET, edit=lambda s: s["rules"][0].update(runs=[]))
    header, rows = report.rule_tables.rule_table(report.load(folder))[:2]
    assert [row[header.index("to target")].split("\n")[0] for row in rows] == ["-", "0 of 2 runs"]
    Parsed(report.html_report([folder]))


def test_a_readout_without_an_accuracy_is_a_dash(tmp_path):
    """As `study.summarise` writes it where the loss of that readout alone became infinite."""

    def edit(summary):
        for run in summary["rules"][0]["runs"]:
            run["readouts"] = {"softmax": {"val_accuracy": None, "test_accuracy": 0.625 if run["seed"] else None}}

    text = "\n".join(Parsed(report.html_report([make(tmp_path / "a", seeds=2, edit=edit)])).text)
    assert "softmax test %" in text and text.count("62.50") == 2


def test_the_script_writes_both_files_and_says_where(tmp_path, monkeypatch, capsys):
    import runpy

    monkeypatch.syspath_prepend(str(EXPERIMENTS))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["experiments/report.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(EXPERIMENTS / "report.py"), run_name="__main__")
        return stopped.value.code, capsys.readouterr()

    folder = make(tmp_path / "a", seeds=2)
    code, out = call(folder)
    assert code == 0 and str(folder / "report.html") in out.out
    assert (folder / "report.html").read_text() == report.html_report([folder])
    assert (folder / "report.md").read_text() == report.markdown_report([folder])
    assert call(folder, "--output", tmp_path / "x.html")[0] == 0 and (tmp_path / "x.html").exists()
    for arguments in (
        [tmp_path / "no"],
        [folder, "--output", tmp_path / "x.txt"],
        [folder, "--output", tmp_path / "n/x.html"],
    ):
        code, out = call(*arguments)
        assert code == 2 and out.err.startswith("error: ") and out.err.count("\n") == 1


def test_numbers_have_four_digits_and_a_spread_the_decimals_of_its_mean():
    values = (0.0, 0.012345, 1.23456, 98.7654, 1234.5, 12345678, 5e-7, None)
    assert [report.number(v) for v in values] == [
        "0", "0.01235", "1.235", "98.77", "1,234", "12,345,678", "5.000e-07", "-",
    ]  # fmt: skip
    assert report.spread([100.0, 104.0, 102.0]) == "102.0 ± 2.0" and report.spread([7.5]) == "7.500"
    assert report.spread([]) == "-"


def test_ticks_are_round_numbers_within_the_axis():
    for low, high in ((0.0, 1.0), (97.1, 98.3), (0.0, 1234.0), (-3.0, 4.0)):
        ticks = report.svg.Scale(low, high, 0.0, 1.0).ticks()
        assert 3 <= len(ticks) <= 7 and low <= ticks[0] and ticks[-1] <= high
    assert report.svg.Scale(0.9, 110.0, 0.0, 1.0, log=True).ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert (
        report.markdown.markdown_document([report.blocks.Table(["a"], [["1\nb|c"]])])
        == "| a |\n| --- |\n| 1<br>b\\|c |\n"
    )


def test_the_front_passes_by_a_rule_that_another_one_beats_in_both():
    clouds = [
        report.Cloud(look, str(look), {0: (cost, accuracy - 1.0), 1: (cost, accuracy + 1.0)})
        for look, (cost, accuracy) in enumerate([(1.0, 90.0), (2.0, 80.0), (3.0, 95.0)])
    ]
    drawn = report.scatter_svg(clouds, "s", "%")
    front = re.search(r'class="front" d="([^"]*)"', drawn)[1]
    assert len(re.findall("[MHV]", front)) == 3  # from the first rule to the third one
    far = [clouds[0], clouds[2]._replace(seeds={0: (100.0, 95.0)})]
    ticks = [
        re.findall(r'text-anchor="middle">([\d.,]+)<', report.scatter_svg(some, "s", "%")) for some in (clouds, far)
    ]
    assert ticks == [["1", "1.5", "2", "2.5", "3"], ["1", "2", "5", "10", "20", "50", "100"]]  # the second: logarithmic


def test_a_mean_curve_is_not_drawn_where_seeds_are_in_different_stages():
    def means(second):
        runs = {0: [(1.0, 50.0, 0), (2.0, 60.0, 0), (3.0, 40.0, 1), (4.0, 50.0, 1)], 1: second}
        drawn = report.curves_svg([(0, "mf", runs)], "passes", "%")
        return [len(line.split()) for line in re.findall(r'<polyline class="mean" points="([^"]*)"', drawn)]

    assert means([(1.0, 52.0, 0), (2.0, 62.0, 0), (3.0, 42.0, 1), (4.0, 52.0, 1)]) == [2, 2]
    assert means([(1.0, 52.0, 0), (2.0, 62.0, 0), (3.0, 63.0, 0), (4.0, 52.0, 1)]) == [2]  # and a point at pass 4


def test_markdown_has_no_heading_without_anything_below_it():
    heads = {name: Heading(level, name) for name, level in (("a", 1), ("b", 2), ("c", 3), ("d", 2), ("e", 2), ("f", 3))}
    shown = [heads["a"], heads["b"], heads["c"], Text("words"), heads["d"], heads["e"], heads["f"]]
    lines = markdown_document(shown).split("\n\n")
    assert [line.strip() for line in lines] == ["# a", "## b", "### c", "words"]
