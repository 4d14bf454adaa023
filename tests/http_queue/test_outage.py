"""The queue beside wait and fallback: it stores what they leave, and what it delivers is not for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sidecar.config.fallback import AnswerSettings, StepSettings
from sidecar.filters.wait import WaitSettings
from support.patience import until
from support.plane import Plane, in_plane
from support.queueing import OK, POST, away, back, finished, outcomes, post, queued


def step(*on: str) -> tuple[StepSettings, ...]:
    return (StepSettings(on=frozenset(on), answer=AnswerSettings(body="simple")),)


def test_a_fallback_comes_first_and_the_queue_has_what_it_leaves(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        answer = await post(client)
        assert (answer.status, answer.fields["x-sidecar-fallback"]) == (200, "1")
        plane.listener.cluster.update([])
        assert (await post(client)).status == 202
        assert outcomes(plane)["queued"] == 1

    in_plane(test, fallback=step("connect_failed"), **queued(tmp_path))


def test_what_is_to_be_stored_at_once_is_no_failure(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        location = (await post(client)).fields["location"]
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(OK)
        await finished(client, location)

    in_plane(test, fallback=step("overloaded"), **queued(tmp_path, when="always"))


def test_what_is_delivered_reaches_the_upstream_itself(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        location = (await post(client)).fields["location"]
        await until(lambda: outcomes(plane).get("tried", 0) > 0, "it was tried")
        assert plane.stats.fallbacks == {}
        assert plane.stats.waiting == 0
        back(plane)
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(OK)
        status: dict[str, Any] = await finished(client, location)
        assert status["answer"]["status"] == 201

    in_plane(
        test, fallback=step("connect_failed", "no_endpoints"), wait=WaitSettings(), **queued(tmp_path, when="always")
    )


def test_a_request_waits_before_it_is_stored(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        plane.listener.cluster.update([])
        client = await plane.connect()
        client.send(POST + b"\r\nhello")
        await until(lambda: plane.stats.waiting == 1, "it waits")
        plane.advance(1.1)
        answer = await client.answer()
        assert answer.status == 202
        assert json.loads(answer.body)["status"] == "queued"
        assert plane.stats.filters["wait"].counts["timed_out"] == 1

    in_plane(test, wait=WaitSettings(timeout=1.0), **queued(tmp_path))
