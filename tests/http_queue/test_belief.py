"""Only a sidecar is believed that its app did not get a request; an app that says so has got it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.core.replies import STATUS
from sidecar.http_queue.lane import UNDELIVERED
from support.plane import Plane, in_plane
from support.queueing import POST, finished, outcomes, post, queued


def _says(code: str) -> bytes:
    return b"HTTP/1.1 %d No\r\nX-Sidecar-Error: %b\r\nContent-Length: 2\r\n\r\nno" % (STATUS[code], code.encode())


def _inbound(path: Path, **more: Any) -> dict[str, Any]:
    return {"inbound": True, "queue": queued(path, **more)["queue"]}


@pytest.mark.parametrize("code", sorted(UNDELIVERED))
def test_an_app_that_speaks_as_a_sidecar_is_not_queued_for(tmp_path: Path, code: str) -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(POST + b"\r\nhello")
        await upstream.read_until(b"hello")
        upstream.send(_says(code))
        answer = await client.answer()
        assert (answer.status, answer.body) == (STATUS[code], b"no")
        assert "x-sidecar-error" not in answer.fields
        assert outcomes(plane) == {}

    in_plane(test, **_inbound(tmp_path))


@pytest.mark.parametrize("code", sorted({*UNDELIVERED, "rate_limited"}))
def test_a_delivery_that_it_answers_so_counts_as_one_that_reached_it(tmp_path: Path, code: str) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        answer = await post(client)
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(_says(code).replace(b" %d " % STATUS[code], b" 502 "))
        status = await finished(client, answer.fields["location"])
        assert (status["status"], status["attempts"], status["reason"]) == ("failed", 1, "502")

    in_plane(test, **_inbound(tmp_path, when="always", attempts=1))
