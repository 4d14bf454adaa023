"""The table that grows by a line a commit."""

from __future__ import annotations

from bench.history import HEAD, section


def _line(commit: str, count: int) -> list[str]:
    return [commit, "2026-01-02", "3.11.7", *(f"{count:,}" for _ in HEAD[3:])]


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if row.startswith("|")]


def test_it_begins_with_one_line() -> None:
    assert _rows(section("", _line("abc", 1000)))[2:] == [_line("abc", 1000)]


def test_a_line_comes_behind_those_that_are_there() -> None:
    text = section(section("", _line("abc", 1000)), _line("def", 12_345_678))
    assert _rows(text)[2:] == [_line("abc", 1000), _line("def", 12_345_678)]


def test_a_commit_that_is_counted_again_keeps_one_line() -> None:
    text = section(section(section("", _line("abc", 1000)), _line("def", 2000)), _line("abc", 3000))
    assert _rows(text)[2:] == [_line("def", 2000), _line("abc", 3000)]
