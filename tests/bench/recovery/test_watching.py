"""What a client says, and what is made of it."""

from __future__ import annotations

import time
from pathlib import Path

from bench.recovery.watching import Watched
from support.processes import wait_for


def watched(script: str, folder: Path) -> Watched:
    return Watched("pika", "port", ["sh", "-c", script, "sh"], 1, "queue", folder)


def test_working_is_publishing_and_consuming_since_then(tmp_path: Path) -> None:
    soon = time.time() + 60
    with watched(f"echo ok 1.5; echo got 1.5; echo ok {soon}; echo fails later; exec sleep 60", tmp_path) as client:
        wait_for(lambda: client.failed(0), "all was read")
        begun = client.consumed(0)
        assert begun is not None
        assert client.published(0) is not None
        assert client.working(1.0) == max(begun, client.published(1.0) or 0)
        # What was published before is no proof, even where its confirm comes later.
        assert (client.published(2.0) or 0) >= (client.published(1.0) or 0)
        assert client.published(soon + 1) is None
        assert client.working(soon - 1) is None
        assert client.gone == ""
    assert client.ended


def test_each_text_once(tmp_path: Path) -> None:
    with watched(
        "echo fails port 1 is closed; echo fails port 2 is closed; echo unsent x; echo fails no", tmp_path
    ) as it:
        wait_for(lambda: it.gone, "it is over")
        assert it.failed(0) == ["port 2 is closed", "no"]
        assert it.failed(0, 1.0) == []
        assert it.gone == "its process ended"


def test_giving_up(tmp_path: Path) -> None:
    with watched("echo gone wrong password; exec sleep 60", tmp_path) as client:
        wait_for(lambda: client.gone, "it has said so")
        assert client.gone == "wrong password"
        assert client.ended
