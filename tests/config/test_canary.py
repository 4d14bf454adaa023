"""The keys of a canary: what they mean, and what does not fit together."""

from __future__ import annotations

import pytest

from sidecar.config.canary import CanarySettings, GuardSettings
from sidecar.config.show import effective
from support.configs import config_of, problem_of

TWO = "subsets: {stable: {tag: v1}, next: {tag: v2}}"
SPLIT = f"{TWO}, split: {{stable: 100}}"


def upstream(text: str) -> str:
    return (
        "service: {name: tasks, app: 127.0.0.1:8080}\nregistry: directory:///run/mesh\n"
        f"upstreams: {{a: {{bind: 127.0.0.1:1000, {text}}}}}\n"
    )


def test_what_is_read() -> None:
    text = (
        "canary: {subset: next, steps: [5, 50], each: 1h, promote: manual, "
        "guard: {error_rate: 2%, p99: 50ms, min_requests: 30, window: 10s}}"
    )
    config = config_of(upstream(f"{SPLIT}, {text}"))
    guard = GuardSettings(error_rate=0.02, p99=0.05, min_requests=30, window=10.0)
    expected = CanarySettings(subset="next", steps=(5, 50), each=3600.0, promote="manual", guard=guard)
    assert config.upstreams["a"].canary == expected
    assert effective(config)["upstreams"]["a"]["canary"]["steps"] == [5, 50]


def test_what_is_left_out() -> None:
    assert config_of(upstream(TWO)).upstreams["a"].canary is None
    found = config_of(upstream(f"{SPLIT}, canary: {{subset: next}}")).upstreams["a"].canary
    assert found == CanarySettings(subset="next", steps=(10, 25, 100), each=600.0)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (f"{SPLIT}, canary: {{subset: nxt}}", "canary.subset", "is no subset of this upstream"),
        ("canary: {subset: next}", "canary.subset", "is no subset of this upstream"),
        (f"{SPLIT}, canary: {{}}", "canary.subset", "is missing"),
        (f"{TWO}, canary: {{subset: next}}", "canary", "needs a split beside it"),
        (f"{TWO}, split: {{next: 1}}, canary: {{subset: next}}", "canary", "needs a split beside it"),
        (f"{TWO}, split: off, canary: {{subset: next}}", "canary", "needs a split beside it"),
        (f"{SPLIT}, canary: {{subset: next, steps: [25, 10]}}", "canary.steps", "do not go up"),
        (f"{SPLIT}, canary: {{subset: next, steps: [10, 10]}}", "canary.steps", "do not go up"),
        (f"{SPLIT}, canary: {{subset: next, steps: [0, 10]}}", "canary.steps[0]", "is out of range"),
        (f"{SPLIT}, canary: {{subset: next, steps: []}}", "canary.steps", "has too few or too many items"),
        (f"{SPLIT}, canary: {{subset: next, promote: maybe}}", "canary.promote", "is not one of the known words"),
        (f"{SPLIT}, canary: {{subset: next, guard: {{error_rate: 0%}}}}", "canary.guard.error_rate", "cannot be told"),
    ],
)  # fmt: skip
def test_what_does_not_fit(text: str, path: str, message: str) -> None:
    problem = problem_of(upstream(text))
    assert problem.path == f"upstreams.a.{path}"
    assert message in problem.message


def test_it_is_not_for_amqp() -> None:
    text = "protocol: amqp, endpoints: ['127.0.0.1:5672'], canary: {subset: next}"
    assert "is not for protocol amqp" in problem_of(upstream(text)).message
