"""The glossary (the docstrings of ``sidecar`` and of packages that explain their own words): a line for each module's
name, and none for words that are gone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import sidecar
import sidecar.cache
import sidecar.http
import sidecar.llm
import sidecar.resilience

ROOT = Path(sidecar.__file__).parent

#: What has entries: each in an order of its own.
GLOSSARIES = (sidecar, sidecar.cache, sidecar.http, sidecar.llm, sidecar.resilience)
#: An entry: its terms, two spaces or more, its text. Further lines of the text are indented.
ENTRY = re.compile(r"(?P<terms>\S+(?:,? \S+)*) {2,}(?P<text>\S.*)")
#: The most words of a term.
LONGEST = 3


def test_every_module_name_is_explained() -> None:
    known = terms()
    lacking = [
        f"{name}: no line for {', '.join(sorted(missing))}" for name in names() if (missing := unexplained(name, known))
    ]
    assert not lacking, "\n".join(["the docstring of sidecar/__init__.py explains every module's name", *lacking])


def test_every_word_is_in_use() -> None:
    own = {Path(str(it.__file__)) for it in GLOSSARIES}
    text = " ".join(words(path.read_text("utf-8")) for path in sources() if path not in own)
    stems = " ".join(stem(word) for word in text.split())
    gone = [term for term in terms() if f" {term} " not in f" {stems} "]
    assert not gone, (
        f"nothing else under sidecar/ says this: take it out of the docstring of sidecar/__init__.py: {gone}"
    )


def test_entries_are_in_order_and_once_each() -> None:
    for glossary in GLOSSARIES:
        first = [entry.partition(",")[0].lower() for entry, _ in entries_of(glossary.__doc__)]
        assert first == sorted(first)
    assert len(terms()) == len(list(_split_terms()))


def test_names_are_covered_by_the_longest_terms() -> None:
    known = {"dead letter", "view", "body"}
    assert unexplained("dead_letter_view", known) == set()
    assert unexplained("bodies", known) == set()
    assert unexplained("letter_view", known) == {"letter"}


def unexplained(name: str, known: set[str]) -> set[str]:
    """Return the words of a name that no term covers."""
    missing = set()
    rest = [stem(word) for word in name.split("_")]
    while rest:
        length = next((n for n in range(LONGEST, 0, -1) if " ".join(rest[:n]) in known), 0)
        if not length:
            missing.add(rest[0])
        rest = rest[length or 1 :]
    return missing


def entries() -> Iterator[tuple[str, str]]:
    """Each entry's terms, as written, and the first line of its text."""
    for glossary in GLOSSARIES:
        yield from entries_of(glossary.__doc__)


def entries_of(docstring: str | None) -> Iterator[tuple[str, str]]:
    """The same of one docstring, whose fourth line and those behind it are entries."""
    for line in (docstring or "").splitlines()[3:]:
        if line and not line.startswith(" "):
            found = ENTRY.fullmatch(line)
            assert found, f"neither an entry nor more of one: {line!r}"
            yield found["terms"], found["text"]


def _split_terms() -> Iterator[str]:
    for written, _ in entries():
        for term in written.split(", "):
            yield " ".join(stem(word) for word in words(term).split())


def terms() -> set[str]:
    """The terms, in lower case and in the singular."""
    return set(_split_terms())


def names() -> list[str]:
    """The names of all modules and packages."""
    return sorted(
        {part for path in sources() for part in path.relative_to(ROOT).with_suffix("").parts if part[0] != "_"}
    )


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def words(text: str) -> str:
    """The words of a text in lower case, those of identifiers one by one: ``BrokerStub`` is ``broker stub``."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", text)
    return " ".join(re.findall(r"[a-z0-9]+", apart.lower()))


def stem(word: str) -> str:
    """The singular of a word, roughly: what is done to both sides of a comparison need not be English."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
