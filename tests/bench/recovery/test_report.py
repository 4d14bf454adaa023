"""What the figures become."""

from __future__ import annotations

import pytest

from bench.recovery.report import as_json, cell, from_json, late, missed, page, told_table
from bench.recovery.scenarios import Outcome, Outcomes


def outcome(published: float | None, consumed: float | None, **more: object) -> Outcome:
    return Outcome(published, consumed, **{"told": [], "told_after": [], **more})  # type: ignore[arg-type]


RESULTS: dict[str, Outcomes] = {
    "newcomer": {
        ("pika", "direct"): outcome(0.4, 0.2, told=["refused", "refused | again"]),
        ("pika", "port"): outcome(9.0, 8.0, told_after=["not now"]),
        ("kombu", "port"): outcome(9.0, 8.0),
        ("bunny", "port"): outcome(None, None, gone="wrong password"),
    }
}


@pytest.mark.parametrize(
    ("kind", "found", "text"),
    [
        ("pika", outcome(0.4, 1.2), "1.2"),
        ("pika", outcome(4.9, 5.1), "**5.1**"),
        ("go", outcome(6.1, 5.0), "6.1 (own pause)"),
        ("go", outcome(7.1, 5.0), "**7.1**"),
        ("bunny", outcome(None, 5.0), "**not in 75 s**, consumes"),
        ("bunny", outcome(None, 5.0, gone="no"), "**gave up**"),
        ("bunny", outcome(None, None, started=False), "did not start"),
        ("bunny", None, "-"),
    ],
)
def test_cell(kind: str, found: Outcome | None, text: str) -> None:
    assert cell(kind, found) == text
    assert found is None or not found.started or late(kind, found) == ("**" in text)


def test_json_and_back() -> None:
    assert from_json(as_json(RESULTS)) == RESULTS


def test_who_was_late_and_why() -> None:
    assert missed(RESULTS) == [
        "newcomer, pika, port: **9.0** (not now)",
        "newcomer, bunny, port: **gave up** (wrong password)",
    ]


def test_page() -> None:
    text = page(RESULTS, {"pika": "pika 1", "kombu": "kombu 2", "bunny": "ruby-bunny 3"}, "On a machine.")
    assert "## The client starts while the broker is away" in text
    assert "| kombu  | -      | 9.0 (own pause) |" in text
    assert "refused \\| again" in told_table(RESULTS["newcomer"])
    assert text.endswith("On a machine.\n")
