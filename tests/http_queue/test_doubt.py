"""What was refused is not delivered; where that cannot be known, the answer says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.storage.errors import InDoubtError
from support.plane import Plane, in_plane
from support.queueing import OK, POST, ask, away, back, finished, outcomes, post, queued, says


def _in_doubt(plane: Plane, stored: bool) -> None:
    """Let what is stored next be in doubt, and in the file or not."""
    store = plane.listener.queue.store
    submit = store.submit

    def doubtful(work: Any, done: Any, size: int = 0) -> None:
        def failed(found: Any, error: Any) -> None:
            done(None, InDoubtError("nobody knows"))

        submit(work if stored else lambda _: None, failed, size)
        store.submit = submit

    store.submit = doubtful


@pytest.mark.parametrize("key", [b"", b"Idempotency-Key: k\r\n"])
@pytest.mark.parametrize("stored", [True, False])
def test_a_request_of_which_nobody_knows_whether_it_is_stored(tmp_path: Path, key: bytes, stored: bool) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        _in_doubt(plane, stored)
        answer = await post(client, POST + key)
        assert says(answer, 503, "outcome_unknown")
        assert "retry-after" not in answer.fields
        assert outcomes(plane)["unknown"] == 1
        location = answer.fields["location"]
        assert (await ask(client, location)).status == (200 if stored else 404)
        assert plane.lines.records[0].error == "outcome_unknown"
        if key:
            again = await post(client, POST + key)
            assert (again.status, again.fields["location"]) == (202, location)
        if stored or key:
            plane.listener.queue._recount()  # as after a failure
            back(plane)
            upstream = await plane.accepted()
            await upstream.read_until(b"hello")
            upstream.send(OK)
            assert (await finished(client, location))["status"] == "done"

    in_plane(test, **queued(tmp_path))


def test_the_code_of_a_peer_counts_as_a_try(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        plane.endpoints(sidecars=True)
        client = await plane.connect()
        answer = await post(client)
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(b"HTTP/1.1 503 No\r\nX-Sidecar-Error: outcome_unknown\r\nContent-Length: 0\r\n\r\n")
        status = await finished(client, answer.fields["location"])
        assert (status["status"], status["attempts"]) == ("failed", 1)

    in_plane(test, **queued(tmp_path, when="always", attempts=1))


def test_the_answer_is_one_of_the_sidecars_own(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        _in_doubt(plane, False)
        answer = await post(client)
        assert json.loads(answer.body)["error"] == answer.fields["x-sidecar-error"] == "outcome_unknown"
        assert answer.fields["location"] in json.loads(answer.body)["message"]

    in_plane(test, **queued(tmp_path, when="always"))
