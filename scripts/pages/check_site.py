"""Check a built site: every link arrives, nothing is fetched from another host, the start page is light."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LIMIT = 2**20
"""Bytes of the start page with everything that it loads."""


class Page(HTMLParser):
    """Identifiers, links and loaded files of one page."""

    def __init__(self, text: str):
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember what matters of one tag."""
        values = {name: value or "" for name, value in attrs}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loaded.append(values.get("href", ""))


def faults(site: Path) -> list[str]:
    """One line for each fault."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    lines = [] if pages else [f"{site} has no pages"]
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        lines += [f"{name} loads {url} from another host" for url in page.loaded if urlsplit(url).netloc]
        for link in [] if name.name == "404.html" else [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                lines.append(f"{name} links {link}, which is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                lines.append(f"{name} links {link}, whose place is not there")
    return lines


def weight(page: Path) -> int:
    """Bytes of a page and of what it loads."""
    loaded = [urlsplit(url).path for url in Page(page.read_text(encoding="utf-8")).loaded]
    return page.stat().st_size + sum((page.parent / unquote(path)).stat().st_size for path in {*loaded} if path)


def main() -> int:
    """Print the faults; the exit code."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "site")
    lines = faults(site)
    if not lines and weight(site / "index.html") > LIMIT:
        lines = [f"the start page weighs {weight(site / 'index.html')} bytes, more than {LIMIT}"]
    print("\n".join(lines) or f"links arrive; the start page weighs {weight(site / 'index.html') / 1024:.0f} KiB")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
