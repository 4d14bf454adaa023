"""The reference names every key; the examples that are in this project are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.cli.main import main
from sidecar.config.containers import ListOf, MapOf, Section
from sidecar.config.kinds import Kind
from sidecar.config.load import check
from sidecar.config.policy import Policy, Short
from sidecar.config.reference import markdown, reference
from sidecar.config.schema import CONFIG

ROOT = Path(__file__).parents[2]
EXAMPLES = [*(ROOT / "examples").rglob("*.yaml"), *(ROOT / "deploy").glob("*.yaml")]


def keys(kind: Kind) -> set[str]:
    match kind:
        case Section():
            return set(kind.keys).union(*(keys(key.kind) for key in kind.keys.values()))
        case Policy() | Short():
            return keys(kind.section)
        case ListOf():
            return keys(kind.item)
        case MapOf():
            return keys(kind.value)
        case _:
            return set()


def test_every_key_is_told_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--text"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    for key in keys(CONFIG):
        assert {f"  {key}", f"  {key} (required)"} & set(lines), key
    assert max(map(len, lines)) <= 120
    at = lines.index("  max_attempts")
    assert lines[at + 1 : at + 4] == [
        "      Most tries, the first included.",
        "      allowed: a whole number from 1 to 20",
        "      default: 3",
    ]
    assert "upstreams.<name>.retry (or off)" in lines


def test_defaults_have_their_units() -> None:
    found = dict(re.findall(r"^  (\w+)\n(?:      (?!default).*\n)+      default: (.*)$", reference(), re.MULTILINE))
    assert (found["watch_interval"], found["keep"], found["min_ttl"]) == ("250ms", "7d", "1s")
    assert (found["window"], found["max_message_size"]) == ("256", "16MiB")
    for name, default in found.items():
        assert name == "records" or not re.fullmatch(r"[0-9.]{6,}", default), name


def test_what_stands_in_several_places_is_told_once() -> None:
    assert reference().count("Most tries, the first included.") == 1


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_the_examples_are_right(file: Path) -> None:
    assert check(file, offline=True).service


def test_the_page_is_what_is_declared() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert page == markdown(), "sidecar schema --markdown > docs/configuration.md"


def test_the_page_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown()
