"""What `mkdocs build` calls: pages that the code says, formulas without scripts, titles of the navigation."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from fwdonly.cli.main import COMMANDS  # noqa: E402
from scripts.pages import reference, rules  # noqa: E402

FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$`\w])\$([^$\n`]+?)\$(?!\w)", re.S)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.S)


def on_config(config: Any) -> Any:
    """Put the generated pages into the navigation, in the place of their folders."""
    lists = {
        "rules/": [{"All rules": "rules/index.md"}, *({name: path} for name, path in rules.titles().items())],
        "reference/api/": [
            {title: f"reference/api/{reference.place(name)}.md"} for name, title in reference.modules().items()
        ],
        "reference/cli/": [
            {"All commands": "reference/cli/index.md"},
            *({f"fwdonly {name}": f"reference/cli/{name}.md"} for name in COMMANDS),
        ],
    }
    config["nav"] = _with_lists(config["nav"], lists)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages. MkDocs is in the extra ``docs`` alone, so that nobody else needs it."""
    file = importlib.import_module("mkdocs.structure.files").File
    for place, text in {**rules.pages(), **reference.pages()}.items():
        files.append(file.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Formulas in TeX, between dollars, become MathML, which browsers draw by themselves."""
    if "$" not in markdown or page.file.src_uri.startswith(("rules/", "reference/")):
        return markdown
    parts = CODE.split(markdown)
    return "".join(part if part.startswith("`") else FORMULA.sub(_mathml, part) for part in parts)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The theme fetches one script of its offline search from another host; the site brings it along."""
    up = "../" * page.url.count("/")
    return output.replace("https://unpkg.com/iframe-worker/shim", f"{up}assets/iframe-worker.js")


def on_post_template(output_content: str, template_name: str, **_: Any) -> str:
    """The same for the page of unknown addresses, which may be shown at any depth."""
    return output_content.replace("https://unpkg.com/iframe-worker/shim", "/assets/iframe-worker.js")


def _mathml(match: re.Match[str]) -> str:
    convert = importlib.import_module("latex2mathml.converter").convert
    return convert(match[1] or match[2], display="block" if match[1] else "inline")


def _with_lists(nav: Any, lists: dict[str, Any]) -> Any:
    if isinstance(nav, list):
        return [_with_lists(entry, lists) for entry in nav]
    if isinstance(nav, dict):
        return {title: _with_lists(entry, lists) for title, entry in nav.items()}
    return lists.get(nav, nav)
