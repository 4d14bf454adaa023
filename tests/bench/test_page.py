"""One page, two parts that are measured apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import bench.page
from bench.early import behind, section
from bench.page import AMQP, HTTP, Goal, goal_lines, page, split


def test_a_part_that_was_not_measured_keeps_its_section_word_for_word() -> None:
    old = page("", {HTTP: "### Figures\n\n1\n\n### Notes\n\n- a", AMQP: "### Figures\n\n2"})
    new = page(old, {AMQP: "### Figures\n\n3"})
    assert new == old.replace("2", "3")
    assert split(new) == {HTTP: "### Figures\n\n1\n\n### Notes\n\n- a", AMQP: "### Figures\n\n3"}


def test_sections_have_their_order_whichever_came_first() -> None:
    assert page(page("", {AMQP: "b"}), {HTTP: "a"}) == page("", {HTTP: "a", AMQP: "b"})


def test_the_page_of_this_project_is_one_that_can_be_kept() -> None:
    text = Path(bench.page.__file__).parents[1].joinpath("docs", "benchmarks.md").read_text()
    assert page(text, {}) == text


def test_goals_may_be_a_least_or_a_most() -> None:
    assert goal_lines([Goal("ratio", 0.97, 0.98, at_least=True), Goal("added ms", 0.3, 0.4)]).splitlines() == [
        "- ratio: **0.98** (goal: at least 0.97) — met",
        "- added ms: **0.40** (goal: at most 0.3) — **missed**",
    ]


def test_early_answers_are_a_table_of_what_was_measured() -> None:
    seen = {"direct": Counter({"413": 3}), "haproxy": Counter({"413": 2}), "sidecar": Counter({"413": 1, "502": 2})}
    text = section({"node": seen}, 3, 1000, "| machine |")
    assert "| node | 3      | -     | 2       | 1       |" in text
    assert "| machine |" in text
    assert behind(seen)
    assert not behind({"nginx": Counter({"413": 1}), "sidecar": Counter({"413": 1})})
