"""A task's text as a graph of steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.task_decomposition.graph import MAX_STEPS, MAX_TEXT, Graph, Unreadable, decompose


def after(graph: Graph) -> dict[str, list[int]]:
    return {it.title: it.after for it in graph.steps}


def test_phases_wait_for_one_another_and_the_steps_of_a_phase_do_not() -> None:
    graph = decompose("Collect the logs and the metrics, then find the cause. Mend it; finally tell everybody.")
    assert after(graph) == {
        "Collect the logs": [], "the metrics": [], "find the cause": [1, 2], "Mend it": [3], "tell everybody": [4],
    }  # fmt: skip
    assert [it.level for it in graph.steps] == [0, 0, 1, 2, 3]
    assert graph.document()["levels"] == 4
    assert graph.critical_path == [1, 3, 4, 5], "three words are more than two"


def test_a_step_can_say_what_it_needs() -> None:
    graph = decompose("1. plan\n2. build (needs 1) and document (needs nothing)\n3. ship (needs 2, 1)")
    assert after(graph) == {"plan": [], "build": [1], "document": [], "ship": [1, 2]}


def test_lines_of_a_model_are_steps_as_they_are() -> None:
    graph = decompose("1. plan and think\n2. build, then test (needs 1)", by_line=True)
    assert after(graph) == {"plan and think": [], "build, then test": [1]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("...", "it has no step"),
        ("a (needs 2)", "step 1 needs 2, and there are 1 steps"),
        ("a (needs 0)", "step 1 needs 0, and there are 1 steps"),
        ("a (needs 2) and b (needs 1)", "in a circle"),
        ("x, " * (MAX_STEPS + 1), f"{MAX_STEPS} are taken"),
        ("x" * (MAX_TEXT + 1), f"{MAX_TEXT} are taken"),
    ],
)
def test_what_is_no_graph_is_refused(text: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        decompose(text)


WORDS = ["collect", "and", "then", "while", ",", ";", ".", "\n", "(needs 1)", "(needs nothing)", "- ", "2. ", "\0"]


@given(st.lists(st.sampled_from([*WORDS, "write", "report", "ü"]), max_size=30).map(" ".join), st.booleans())
def test_any_text_is_a_graph_without_circles_and_always_the_same_or_is_refused(text: str, by_line: bool) -> None:
    try:
        graph = decompose(text, by_line=by_line)
    except Unreadable:
        return
    assert graph.document() == decompose(text, by_line=by_line).document()
    assert [it.number for it in graph.steps] == list(range(1, len(graph.steps) + 1))
    level = {it.number: it.level for it in graph.steps}
    for step in graph.steps:
        assert step.title
        assert "needs" not in step.title
        assert all(level[it] < step.level for it in step.after), "each runs in a later round than what it waits for"
    for one, next_one in zip(graph.critical_path, graph.critical_path[1:], strict=False):
        assert one in graph.steps[next_one - 1].after
    assert not graph.steps[graph.critical_path[0] - 1].after
