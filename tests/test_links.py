"""Links between pages lead somewhere: the file is there, and so is the heading."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent

#: ``[text](target)`` and ``![text](target)``, without a title.
LINK = re.compile(r"\]\((?P<target>[^()\s]+(?:\([^()\s]*\)[^()\s]*)*)\)")
ELSEWHERE = ("http://", "https://", "mailto:")
HEADING = re.compile(r"#{1,6} +(?P<text>.+?) *#*")
#: Blocks of code, and code within a line: what looks like a link there is none.
CODE = re.compile(r"^(?P<fence>```+)[^\n]*\n.*?^(?P=fence)$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^(?P<fence>```+)[^\n]*\n.*?^(?P=fence)$", re.MULTILINE | re.DOTALL)


def test_no_link_is_dead() -> None:
    dead = [f"{page.relative_to(ROOT)}: {target}" for page in pages() for target in dead_ones(page)]
    assert not dead, "\n".join(["these links lead nowhere:", *dead])


def test_every_page_of_the_documentation_is_found_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    unknown = [
        name
        for page in pages()
        if (name := str(page.relative_to(ROOT))).startswith("docs/") and f"]({name}" not in text
    ]
    assert not unknown, f"README.md does not lead to {unknown}"


def test_anchors_are_made_as_the_usual_renderers_do() -> None:
    text = "# What is `there`, *really*?\n## A\n```\n# none\n```\n## A\n## peak_ewma\n## [A link](x.md) & more\n"
    assert anchors(text) == {"what-is-there-really", "a", "a-1", "peak_ewma", "a-link--more"}


def pages() -> list[Path]:
    """All pages that people read."""
    return sorted(
        [
            *ROOT.glob("*.md"),
            *(ROOT / "docs").rglob("*.md"),
            *(ROOT / "deploy").rglob("*.md"),
            *(ROOT / "examples").rglob("*.md"),
        ]
    )


def dead_ones(page: Path) -> Iterator[str]:
    """The targets in a page that are not there."""
    for link in LINK.finditer(CODE.sub("", page.read_text("utf-8"))):
        target = link["target"]
        if target.startswith(ELSEWHERE):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / unquote(path)).resolve() if path else page
        found = file.exists() and file.is_relative_to(ROOT)
        if found and anchor and file.suffix == ".md":
            found = anchor in anchors(file.read_text("utf-8"))
        if not found:
            yield target


def anchors(text: str) -> set[str]:
    """What the headings of a page can be reached by: lower case, hyphens for spaces, no punctuation; a number behind
    one that was there before."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for line in FENCED.sub("", text).splitlines():
        if heading := HEADING.fullmatch(line):
            words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading["text"])
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found
