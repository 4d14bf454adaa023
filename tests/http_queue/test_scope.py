"""An Idempotency-Key is one client's: the same key of another is a request of its own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.identity import IDENTITY
from sidecar.http_queue.filter import Scope
from sidecar.http_queue.record import id_for_key
from sidecar.http_queue.settings import QueueSettings
from support.configs import config_of, problem_of
from support.plane import Plane, in_plane
from support.queueing import POST, ask, away, post, queued, says

KEYED = POST + b"Idempotency-Key: k\r\n"


def _id(fields: bytes, *, method: str = "POST", target: bytes = b"/tasks", scope: frozenset[str] = IDENTITY) -> str:
    raw = b"POST /tasks HTTP/1.1\r\n" + fields + b"\r\n"
    return id_for_key(b"secret", Scope(scope).of(method, target, raw))


BASE = b"Host: a\r\nIdempotency-Key: k\r\n"


@pytest.mark.parametrize("name", sorted(IDENTITY))
def test_whoever_sends_something_else_there_is_somebody_else(name: str) -> None:
    field = name.title().encode()
    ids = {
        _id(BASE),
        _id(BASE + field + b": \r\n"),
        _id(BASE + field + b": one\r\n"),
        _id(BASE + field + b": two\r\n"),
        _id(BASE + field + b": one\r\n" + field + b": two\r\n"),
        _id(BASE + field + b": one, two\r\n"),
    }
    assert len(ids) == 6
    assert _id(BASE + field + b": one\r\n") == _id(name.encode() + b":one\t\r\nX-Other: 1\r\n" + BASE)
    others = IDENTITY - {name}
    assert _id(BASE + field + b": one\r\n", scope=others) == _id(BASE, scope=others)


def test_a_name_with_underscores_is_the_same_field_to_many_apps() -> None:
    ids = {_id(BASE), _id(BASE + b"X_API_Key: a\r\n"), _id(BASE + b"X_API-Key: b\r\n"), _id(BASE + b"X-API-Key: c\r\n")}
    assert len(ids) == 4


def test_what_it_is_for_counts_too() -> None:
    ids = {
        _id(BASE),
        _id(BASE, method="PUT"),
        _id(BASE, target=b"/else"),
        _id(BASE.replace(b"Host: a", b"Host: b")),
        _id(BASE.replace(b"Key: k", b"Key: l")),
        _id(BASE + b"Idempotency-Key: l\r\n"),
        _id(BASE + b"Cookie: a\r\nX-Api-Key: b\r\n"),
        _id(BASE + b"Cookie: b\r\nX-Api-Key: a\r\n"),
    }
    assert len(ids) == 8


_OWN = [b"Authorization: Bearer %b\r\n", b"Cookie: theme=dark; session=%b\r\n", b"X-API-Key: %b\r\n"]


@pytest.mark.parametrize("identity", [*_OWN, b"Cookie: theme=dark\r\nCookie: session=%b\r\n"])
@pytest.mark.parametrize("inbound", [False, True])
def test_the_same_key_of_somebody_else_is_a_request_of_its_own(tmp_path: Path, identity: bytes, inbound: bool) -> None:
    settings = queued(tmp_path)
    if inbound:
        settings = {"queue": settings["queue"]}

    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        alice = await post(client, KEYED + identity % b"alice", b"alice")
        bob = await post(client, KEYED + identity % b"bob", b"bobby")
        nobody = await post(client, KEYED)
        assert [it.status for it in (alice, bob, nobody)] == [202] * 3
        assert len({it.fields["location"] for it in (alice, bob, nobody)}) == 3
        again = await post(client, KEYED + identity % b"alice", b"alice")
        assert again.fields["location"] == alice.fields["location"]
        assert says(await post(client, KEYED + identity % b"alice", b"other"), 400, "bad_request")
        plane.listener.queue.pause()

    in_plane(test, inbound=inbound, **settings)


def test_the_scope_can_be_set(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        heads = [
            KEYED + b"X-User: %b\r\nCookie: %b\r\n" % (user, cookie)
            for user, cookie in ((b"a", b"1"), (b"a", b"2"), (b"b", b"1"))
        ]
        one, same, other = [(await post(client, head)).fields["location"] for head in heads]
        assert one == same != other
        plane.listener.queue.pause()

    in_plane(test, **queued(tmp_path, scope=frozenset({"x-user"})))


def test_the_scope_in_the_configuration() -> None:
    text = "service: {name: a}\nupstreams: {a: {bind: 127.0.0.1:1, endpoints: [h:1], queue: {scope: %s}}}"
    queue = config_of(text % "[X-User, cookie]").upstreams["a"].policies["queue"]
    assert isinstance(queue, QueueSettings)
    assert queue.scope == {"x-user", "cookie"}
    assert problem_of(text % "[a b]").path == "upstreams.a.queue.scope[0]"


def test_neither_identity_nor_location_is_kept_or_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        answer = await post(client, KEYED + b"Authorization: very-secret\r\n", b"body!")
        location = answer.fields["location"]
        id = json.loads(answer.body)["id"]
        queue = plane.listener.queue
        queue.wall = lambda: 9e9
        status: dict[str, Any] = {}
        while status.get("status") != "failed":
            status = json.loads((await ask(client, location)).body)
        assert (await ask(client, location + "/outcome")).status == 504
        logged = " ".join([str(vars(record)) for record in caplog.records] + [str(it) for it in plane.lines.records])
        assert "queued request has failed" in logged or "queued requests have expired" in logged
        assert f"/.sidecar/queue/{id[:8]}.../outcome" in logged
        assert id not in logged
        assert "very-secret" not in logged

        def left(database: Any) -> list[Any]:
            return [
                row for table in ("request", "outcome") for row in database.file.sql.execute(f"SELECT * FROM {table}")
            ]

        rows: list[Any] = []
        queue.store.submit(left, lambda found, error: rows.append(found))
        while not rows:
            await ask(client, location)
        assert rows[0]
        assert b"very-secret" not in str(rows).encode()

    in_plane(test, **queued(tmp_path))
