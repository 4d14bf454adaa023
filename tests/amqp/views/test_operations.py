"""The routes about spools and dead letters, over real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from sidecar.amqp.spool.dead_letters import DeadLetter
from sidecar.amqp.spool.store import DeadLetters, Spool
from sidecar.amqp.views import operations
from sidecar.amqp.views.operations import EXPORTS, MAX_PAGE, PAGE, STEP
from sidecar.config.agent import Admin
from sidecar.core.address import Address
from sidecar.core.secret import Secret
from support.admin import Asking, Client, serving
from support.fake_spool import FakeLetters, FakeSpool, damaged, letter, message
from support.patience import until
from support.running import FakeRunning, FakeUpstream, running

pytestmark = pytest.mark.asyncio

HERE = "/amqp/rabbitmq/dead-letters"


def broker(*letters: DeadLetter) -> tuple[FakeRunning, FakeLetters]:
    it = running("ollama")
    it.upstreams["rabbitmq"] = upstream = FakeUpstream("rabbitmq", protocol="amqp")
    it.upstreams["plain"] = FakeUpstream("plain", protocol="amqp")
    assert upstream.amqp is not None
    upstream.amqp.spool = kept = FakeSpool()
    kept.dead_letters.add(*letters)
    return it, kept.dead_letters


def many(count: int, **more: Any) -> list[DeadLetter]:
    return [letter(number, **more) for number in range(1, count + 1)]


def ids(reply: Any) -> list[int]:
    return [found["id"] for found in reply.json["dead_letters"]]


# -- reading -----------------------------------------------------------------------------------------------------------


async def test_the_spool_and_those_who_have_none(admin: Asking) -> None:
    it, _ = broker(*many(2))
    client = await admin(it)
    reply = await client.get("/amqp/rabbitmq/spool")
    assert reply.json["dead_letters"]["messages"] == 2
    ports = {port["name"]: port["spool"] for port in (await client.get("/amqp")).json["upstreams"]}
    assert ports["plain"] is None
    assert ports["rabbitmq"] == reply.json
    for name in ("plain", "ollama", "nobody"):
        for path in ("spool", "dead-letters", "dead-letters/1", "dead-letters/export"):
            reply = await client.get(f"/amqp/{name}/{path}")
            assert reply.error == (404, "not_found")
            assert "there are: rabbitmq" in reply.json["message"]
        assert (await client.post(f"/amqp/{name}/dead-letters/drop")).status == 404


async def test_pages(admin: Asking) -> None:
    it, _ = broker(*many(PAGE + 5))
    client = await admin(it)
    first = await client.get(HERE)
    assert ids(first) == list(range(1, PAGE + 1))
    assert first.json["next"] == PAGE
    second = await client.get(f"{HERE}?after={PAGE}")
    assert ids(second) == list(range(PAGE + 1, PAGE + 6))
    assert second.json["next"] is None
    small = await client.get(f"{HERE}?after=3&limit=2")
    assert (ids(small), small.json["next"]) == ([4, 5], 5)
    assert ids(await client.get(f"{HERE}?after=9999")) == []


async def test_filters(admin: Asking) -> None:
    it, _ = broker(
        letter(1, reason="expired"),
        letter(2, message(exchange="")),
        letter(3, message(exchange=""), reason="expired"),
        letter(4),
    )
    client = await admin(it)
    assert ids(await client.get(f"{HERE}?reason=expired")) == [1, 3]
    assert ids(await client.get(f"{HERE}?exchange=")) == [2, 3]
    assert ids(await client.get(f"{HERE}?exchange=&reason=expired")) == [3]
    assert ids(await client.get(f"{HERE}?exchange=ai.tasks")) == [1, 4]


@pytest.mark.parametrize(
    "query",
    ["limit=0", f"limit={MAX_PAGE + 1}", "limit=many", "after=-1", f"after={1 << 63}", "after=x", "reasons=expired",
     "before=1", "reason=a&reason=b", "limit="],
)  # fmt: skip
async def test_what_cannot_be_asked(query: str, admin: Asking) -> None:
    it, found = broker(*many(2))
    client = await admin(it)
    for path in (HERE, f"{HERE}/export"):
        assert (await client.get(f"{path}?{query}")).error == (400, "bad_request")
    assert found.lists == 0


@pytest.mark.parametrize("number", ["7", "x", "-1", "1.0", "99999999999999999999", "²"])
async def test_a_dead_letter_that_there_is_not(number: str, admin: Asking) -> None:
    it, _ = broker(letter(1))
    client = await admin(it)
    assert (await client.get(f"{HERE}/{number}")).error == (404, "not_found")
    assert (await client.post(f"{HERE}/{number}/replay")).error == (404, "not_found")
    assert (await client.post(f"{HERE}/{number}/drop")).error == (404, "not_found")


async def test_one_with_the_beginning_of_its_body(admin: Asking) -> None:
    it, _ = broker(letter(1, message(b"x" * 100_000)))
    client = await admin(it)
    body = (await client.get(f"{HERE}/1")).json["body"]
    assert (body["size"], body["cut"], body["encoding"], len(body["content"])) == (100_000, True, "text", 65536)


async def test_what_clients_have_published_needs_the_token(admin: Asking) -> None:
    it, _ = broker(letter(1))
    it.config = replace(it.config, admin=Admin(bind=Address("127.0.0.1", 0), token=Secret("sesame")))
    client = await admin(it)
    for path in (HERE, f"{HERE}/1", f"{HERE}/export", "/amqp/rabbitmq/dead%2Dletters/1"):
        assert (await client.get(path)).error == (401, "token_needed")
        assert (await client.get(path, X_Sidecar_Token="sesame")).status == 200
    for path in ("1/drop", "1/replay", "drop", "replay"):
        assert (await client.post(f"{HERE}/{path}")).error == (401, "token_needed")
    assert (await client.get("/amqp/rabbitmq/spool")).status == 200


# -- exporting ---------------------------------------------------------------------------------------------------------


async def test_an_export_is_a_line_for_each_with_everything(admin: Asking) -> None:
    it, _ = broker(*many(50), letter(51, message(b"x" * 300_000)), letter(52, message(b"\xff")), damaged(53))
    client = await admin(it)
    reply = await client.get(f"{HERE}/export")
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    found = [orjson.loads(line) for line in reply.body.splitlines()]
    assert [it["id"] for it in found] == list(range(1, 54))
    assert found[50]["body"] == {"size": 300_000, "cut": False, "encoding": "text", "content": "x" * 300_000}
    assert found[51]["body"] == {"size": 1, "cut": False, "encoding": "base64", "content": "/w=="}
    some = await client.get(f"{HERE}/export?after=10&limit=2&reason=nacked")
    assert [orjson.loads(line)["id"] for line in some.body.splitlines()] == [11, 12]
    none = await client.get(f"{HERE}/export?reason=none")
    assert (none.status, none.body) == (200, b"")


class Stopping(FakeLetters):
    """Stops before the second step, until it is let go on; then fails, if it is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.stopped = 0

    async def list(
        self, limit: int, after: int = 0, reason: str = "", exchange: str | None = None
    ) -> Sequence[DeadLetter]:
        if after:
            self.stopped += 1
            await self.go_on.wait()
        return await super().list(limit, after, reason, exchange)


async def test_an_export_that_fails_is_not_taken_for_a_whole_one(admin: Asking) -> None:
    it, _ = broker()
    letters = Stopping()
    letters.add(*many(2 * STEP))
    it.upstreams["rabbitmq"].amqp.spool.dead_letters = letters  # type: ignore[union-attr]
    client = await admin(it)
    asked = asyncio.ensure_future(client.get(f"{HERE}/export"))
    await until(lambda: letters.stopped == 1)
    letters.broken = "disk I/O error"
    letters.go_on.set()
    with pytest.raises(aiohttp.ClientError):
        await asked
    letters.broken = ""
    assert (await client.get(f"{HERE}/export")).status == 200


async def test_who_has_seen_enough_of_an_export_may_go(caplog: pytest.LogCaptureFixture, admin: Asking) -> None:
    it, _ = broker()
    letters = Stopping()
    letters.add(*many(2 * STEP, of=message(b"\xff" * 1000)))
    it.upstreams["rabbitmq"].amqp.spool.dead_letters = letters  # type: ignore[union-attr]
    client = await admin(it)
    _, writer = await asyncio.open_connection(*client.address)
    writer.write(f"GET {HERE}/export HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await until(lambda: letters.stopped == 1)
    writer.transport.abort()
    await asyncio.sleep(0)
    letters.go_on.set()
    await client.get("/health")
    assert await answered(client, 200) == ""
    assert not caplog.records


async def answered(client: Client, status: int) -> str:
    """An export's error, as soon as it is answered so."""
    async with asyncio.timeout(180):
        for _ in range(1000):
            reply = await client.get(f"{HERE}/export")
            if reply.status == status:
                break
            await asyncio.sleep(0.01)
    return str(reply.error[1]) if status >= 400 else ""


async def test_few_export_at_once(monkeypatch: pytest.MonkeyPatch, admin: Asking) -> None:
    it, _ = broker(letter(1, message(b"\xff" * 8_000_000)))
    monkeypatch.setattr("sidecar.admin.streams.STREAM_SECONDS", 0.3)
    client = await admin(it)
    readers = [await asyncio.open_connection(*client.address, limit=1024) for _ in range(EXPORTS)]
    for _, writer in readers:
        writer.write(f"GET {HERE}/export HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert await answered(client, 429) == "busy"
    assert await answered(client, 200) == ""
    for _, writer in readers:
        writer.close()


# -- changing ----------------------------------------------------------------------------------------------------------


async def test_one_is_replayed_or_dropped(admin: Asking) -> None:
    it, found = broker(*many(3), damaged(4))
    client = await admin(it)
    reply = await client.post(f"{HERE}/2/replay")
    assert (reply.status, reply.json["messages"], reply.json["next"]) == (200, 1, None)
    assert (await client.post(f"{HERE}/2/replay")).status == 404
    assert (await client.post(f"{HERE}/4/replay")).error == (409, "not_readable")
    assert (await client.post(f"{HERE}/3/drop")).json["messages"] == 1
    assert (await client.post(f"{HERE}/4/drop")).json["messages"] == 1
    assert found.replayed == [2]
    assert list(found.letters) == [1]


async def test_many_are_replayed_or_dropped(admin: Asking) -> None:
    it, found = broker(*many(50), *(letter(number, reason="expired") for number in range(51, 91)), damaged(91))
    client = await admin(it)
    reply = await client.post(f"{HERE}/replay?reason=expired")
    assert (reply.json["messages"], reply.json["next"]) == (40, None)
    assert (await client.post(f"{HERE}/replay?exchange=")).json["messages"] == 0
    assert (await client.post(f"{HERE}/replay")).json["messages"] == 50
    assert (await client.post(f"{HERE}/drop")).json["messages"] == 1
    assert found.replayed == [*range(51, 91), *range(1, 51)]
    assert found.letters == {}


async def test_a_mistyped_filter_changes_nothing(admin: Asking) -> None:
    it, found = broker(*many(3))
    client = await admin(it)
    for query in ("resaon=expired", "limit=1", "before=soon", "after=x"):
        assert (await client.post(f"{HERE}/drop?{query}")).error == (400, "bad_request")
        assert (await client.post(f"{HERE}/replay?{query}")).error == (400, "bad_request")
    assert len(found.letters) == 3


async def test_what_dies_again_at_once_is_replayed_once(admin: Asking) -> None:
    it, found = broker(*many(40, died=time.time() - 60))
    found.immortal = time.time() + 60
    client = await admin(it)
    assert (await client.post(f"{HERE}/replay")).json["messages"] == 40
    assert len(found.letters) == 40


async def test_a_long_change_is_done_in_parts(monkeypatch: pytest.MonkeyPatch, admin: Asking) -> None:
    it, found = broker(*many(50))
    found.add(damaged(1))  # which stays, and is in nobody's way
    monkeypatch.setattr(operations, "CHANGE_SECONDS", -1.0)
    client = await admin(it)
    first = (await client.post(f"{HERE}/replay")).json
    assert (first["messages"], first["next"]) == (STEP - 1, STEP)
    found.add(letter(99, died=first["before"] + 1))
    total, following, asked = STEP - 1, first["next"], 1
    while following is not None:
        reply = (await client.post(f"{HERE}/replay?after={following}&before={first['before']}")).json
        total += reply["messages"]
        following = reply["next"]
        asked += 1
    assert (total, asked) == (49, 4)
    assert list(found.letters) == [1, 99]


async def test_a_spool_that_does_not_work_says_why(admin: Asking) -> None:
    it, found = broker(*many(3))
    found.broken = "/var/lib/spool/rabbitmq.db: disk I/O error"
    client = await admin(it)
    for path in ("", "/1", "/export"):
        reply = await client.get(HERE + path)
        assert reply.error == (503, "spool")
        assert reply.json["message"] == found.broken
    for path in ("/1/drop", "/1/replay", "/drop", "/replay"):
        assert (await client.post(HERE + path)).error == (503, "spool")


async def test_a_real_spool(tmp_path: Path) -> None:
    it, _ = broker()
    spool = Spool(tmp_path, "rabbitmq", 1 << 20, asyncio.get_running_loop())
    spool.open()
    try:
        kept = it.upstreams["rabbitmq"].amqp.spool  # type: ignore[union-attr]
        letters: DeadLetters = spool.dead_letters
        kept.dead_letters = letters  # type: ignore[union-attr]
        for number in range(60):
            of = message(b"%d" % number, exchange="" if number % 2 else "ai.tasks")
            spool.dead(of, "expired" if number % 3 else "nacked", 0)
        async with asyncio.timeout(180), serving(it) as client:
            await until(lambda: spool.dead_letters.count == 60)
            listed = (await client.get(f"{HERE}?limit=1000&reason=expired&exchange=")).json["dead_letters"]
            assert len(listed) == 20
            one = (await client.get(f"{HERE}/{listed[3]['id']}")).json
            assert one.items() >= {**listed[3], "age": one["age"]}.items()
            assert len((await client.get(f"{HERE}/export")).body.splitlines()) == 60
            assert (await client.post(f"{HERE}/replay?reason=nacked")).json["messages"] == 20
            assert spool.messages == 20
            assert (await client.post(f"{HERE}/{listed[0]['id']}/drop")).json["messages"] == 1
            assert (await client.post(f"{HERE}/drop")).json["messages"] == 39
            assert spool.dead_letters.count == 0
    finally:
        await spool.close()
