"""How soon it is known that a client has left that looks as if it had only finished sending."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from support.http import Client, Stage


class _Socket:
    """Of a client whose host answers with a reset, ``away`` seconds after it was sent something; None: it is there."""

    def __init__(self, stage: Stage, client: Client, away: float | None) -> None:
        self._stage, self._client, self._away = stage, client, away
        self._since: float | None = None
        client.transport.get_extra_info = self._told  # type: ignore[method-assign]

    def _told(self, what: str) -> Any:
        return self if what == "socket" else None

    def getsockopt(self, *_: int) -> int:
        now = self._stage.loop.now
        if self._away is None or not self._client.transport.sent:
            return 0
        if self._since is None:
            self._since = now
        return errno.ECONNRESET if self._away == 0 or now - self._since >= self._away else 0

    def setsockopt(self, *_: int) -> None:
        pass


def _asked(away: float | None) -> tuple[Stage, Client, Any]:
    stage = Stage()
    client = stage.client()
    client.asks("GET /x")
    upstream = stage.upstream()
    upstream.hears()
    _Socket(stage, client, away)
    client.leaves()
    return stage, client, upstream


def _passes(stage: Stage, seconds: float) -> None:
    stage.loop.run_until(stage.loop.now + seconds)


def test_one_that_has_left_is_noticed_within_a_fifth_of_a_second() -> None:
    stage, _, upstream = _asked(0)
    _passes(stage, 0.19)
    assert upstream.closed or upstream.aborted
    stage.over()


def test_one_that_is_far_away_is_noticed_with_the_next_looks() -> None:
    stage, _, upstream = _asked(0.2)
    _passes(stage, 0.19)
    assert upstream.connected
    _passes(stage, 0.4)
    assert upstream.closed or upstream.aborted
    stage.over()


def test_one_that_waits_is_asked_more_and_more_rarely_and_is_answered() -> None:
    stage, client, upstream = _asked(None)
    _passes(stage, 10.0)
    probes = client.heard().count(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert 5 <= probes <= 7
    upstream.answers(200, b"hello")
    assert client.gets().body == b"hello"
    stage.over()


@pytest.mark.parametrize("sent", [b"", b"hel"], ids=["an answer", "a part of one"])
def test_nothing_is_asked_once_the_answer_has_begun(sent: bytes) -> None:
    stage, client, upstream = _asked(None)
    upstream.says(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n" + sent)
    client.heard()
    _passes(stage, 5.0)
    assert b"100" not in client.heard()
    upstream.says(b"hello"[len(sent) :])
    stage.over()
