"""The arithmetic of ``bench.llm``, without processes."""

from __future__ import annotations

import json
import time

import pytest

from bench.llm import leaving, memory, passing
from bench.llm.__main__ import options_of
from bench.llm.agents import share
from bench.llm.client import Answer, head, prompt
from bench.llm.models import Seen, after


def _line(at: float) -> bytes:
    made = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{round(at % 1 * 1e6):06}+00:00"
    return b'{"model": "m", "created_at": "%b"}\n' % made.encode()


def _answer(*pieces: tuple[float, bytes], status: int = 200, whole: bool = True) -> Answer:
    return Answer(status, 0.0, list(pieces), whole)


def test_share() -> None:
    assert share({"a": 13, "b": 10}) == 1.3
    assert share({"a": 13, "b": 0}) == 13


def test_lines_that_come_one_by_one_are_as_many_pieces() -> None:
    apart = _answer((1000.002, _line(1000.0)), (1000.5, _line(1000.25)))
    assert passing.pieces(apart) == 2
    assert passing.delays(apart) == pytest.approx([0.002, 0.25])
    together = _answer((1000.5, _line(1000.0) + _line(1000.25)))
    assert passing.pieces(together) == 1
    assert passing._counted("it", together, 2).met is True  # the last one comes with no pause
    three = _answer((1000.5, _line(1000.0) + _line(1000.25) + _line(1000.5)))
    assert passing._counted("it", three, 3).met is False
    assert passing._counted("it", three, 1).met is True  # direct, they came so, too
    assert passing._counted("direct", three, None).met is None
    assert passing._counted("it", _answer(), 0).met is False


def test_what_is_added() -> None:
    direct, through = [0.001] * 99 + [0.003], [0.002] * 99 + [0.010]
    median, p99 = passing.compared("first byte", direct, through)
    assert (median.found, median.met) == ("+1.00 ms (1.00 → 2.00 ms)", True)
    assert (p99.found, p99.met) == ("+7.00 ms (3.00 → 10.00 ms)", False)


def test_the_slowest_departure_counts() -> None:
    assert leaving.told("the queue", [0.01, 0.02, 0.19]).met
    late = leaving.told("the queue", [0.01, 0.02, 0.21])
    assert (late.found, late.met) == ("20 ms, at most 210 ms (3 times)", False)


def test_memory() -> None:
    assert memory.row(40 << 20, 43 << 20, 8.0).met
    grown = memory.row(40 << 20, 91 << 20, 8.0)
    assert (grown.found, grown.met) == ("40.0 MiB, at most 91.0 MiB meanwhile: 51.0 MiB more", False)


def test_what_a_killed_instance_costs() -> None:
    piece = (0.0, b"x")
    seen = [
        Seen("one", 90.0, 91.0, _answer(piece)),  # over before
        Seen("one", 99.9, 100.0, _answer(piece, whole=False)),  # cut
        Seen("one", 99.9, 100.0, _answer(status=0, whole=False)),  # nothing of it came
        Seen("one", 100.1, 102.5, _answer(piece)),
        Seen("one", 103.0, 103.1, _answer(piece, status=503)),
        Seen("two", 100.1, 100.2, _answer(status=0, whole=False)),
    ]
    assert after(seen, 100.0, "one") == (1, 2, 1, 2.5)


def test_requests() -> None:
    assert json.loads(prompt(3, "m")) == {"model": "m", "prompt": "go, go, go"}
    assert b"x-agent-id: agent-1\r\n" in head(5, "agent-1")
    assert b"x-agent-id" not in head(5)


def test_options() -> None:
    assert options_of([]).load == 60.0
    assert options_of(["--short"]).load == 10.0
    assert options_of(["--short", "--load", "3"]).load == 3.0
