"""The documentation site: what it says of rules is the code's, equations lose no symbol, faults of pages are seen."""

import re
import sys
from pathlib import Path

import pytest

from fwdonly.cli import main
from fwdonly.cli.main import COMMANDS
from fwdonly.study import inventory, rules

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.pages import check_site, equations, reference
from scripts.pages import rules as rule_pages


def text_of(html):
    return re.sub(r"<[^>]+>", "", html)


def test_an_equation_has_its_indices_below_and_its_powers_above():
    shown = equations.line("dW_i = a_{i-1}^T dZ <= sum_b")
    assert "<i>dW</i><sub><i>i</i></sub>" in shown and "<sup><i>T</i></sup>" in shown
    assert text_of(shown) == "dWi = ai\u22121T dZ ≤ Σb"


@pytest.mark.parametrize("module", rules.MODULES, ids=lambda module: module.__name__)
def test_a_rules_page_has_every_form_option_and_deviation(module):
    page = rule_pages.page(module)
    for name in module.CARD.variants:
        rule = rules.load(name)
        assert f"`{name}`" in page or len(module.CARD.variants) == 1
        assert all(f"`{field.flag}`" in page for field in rule.fields)
    deviations = rule_pages._docstring(module.grads).partition("Deviations:")[2].count("\n    * ")
    section = page.partition("## Traps and deviations")[2].partition("\n## ")[0]
    assert section.count("\n- ") == deviations > 0
    assert page.partition("## Equations")[2].count('class="equations"') >= 1


def test_every_command_has_a_page_with_its_options():
    for name in COMMANDS:
        asked, page = reference.ask(name), reference.command(name)
        assert page.startswith(f"# fwdonly {name}")
        if not isinstance(asked, str):
            flags = [field.flag for group in asked.groups if group.name not in rules.NAMES for field in group.fields]
            assert flags and all(f"`{flag}`" in page for flag in flags)


def site(folder, body, head=""):
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(f"<html><head>{head}</head><body><h1 id='top'>x</h1>{body}</body></html>")
    return folder


def test_a_site_without_faults_has_none(tmp_path):
    assert check_site.faults(site(tmp_path, "<a href='#top'>a</a><a href='index.html#top'>b</a>")) == []


@pytest.mark.parametrize(
    ("body", "head", "fault"),
    [
        ("<a href='gone.html'>a</a>", "", "not there"),
        ("<a href='#gone'>a</a>", "", "place is not there"),
        ("<img src='https://other.example/a.png'>", "", "another host"),
        ("", "<link rel='stylesheet' href='https://fonts.example/a.css'>", "another host"),
        ("", "<script src='//other.example/a.js'></script>", "another host"),
    ],
)
def test_a_fault_of_a_page_is_seen(tmp_path, body, head, fault):
    assert any(fault in line for line in check_site.faults(site(tmp_path, body, head)))


def test_info_says_what_is_there_and_how_to_get_the_rest(capsys, monkeypatch):
    monkeypatch.delenv("FWDONLY_OFFLINE", raising=False)
    monkeypatch.setattr(inventory, "sets", lambda: [inventory.Item("cifar10", False, "put cifar10.npz there")])
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"packages +fwdonly ", printed) and "- cifar10" in printed
    assert main(["info", "--all"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    lines = [
        'numpy>=2; extra == "there"',
        'no_such_package>=1; extra == "gone"',
        "numpy>=2.2",
        'fwdonly[a]; extra == "a"',
    ]
    there = {item.name: item for item in inventory.extras(lines)}
    assert set(there) == {"there", "gone"} and there["there"].there and not there["gone"].there
    assert there["gone"].words == "without no_such_package: pip install 'fwdonly[gone]'"


def test_data_are_looked_for_without_a_download(monkeypatch):
    monkeypatch.setattr("fwdonly.data.places.download", lambda *_: pytest.fail("downloads"))
    digits, mnist = inventory.sets(["digits", "mnist"])
    assert digits.there and "scikit-learn" in digits.words
    assert mnist.there or "mnist.npz" in mnist.words
