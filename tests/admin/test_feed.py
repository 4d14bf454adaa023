"""``GET /events``, and what it is made of."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson
import pytest

from sidecar.admin.commands import Commands
from sidecar.admin.feed import ALIVE, MOST, Feed, differs
from sidecar.admin.pulse import WINDOW, Pulse
from sidecar.agent import admin as handed
from sidecar.core.events import EVENTS
from sidecar.core.operations import Answer, Call, Stream
from support.admin import Asking, Levels
from support.clock import Clock
from support.running import FakeRunning, FakeUpstream, running

logger = logging.getLogger("sidecar.test")


def commands(of: FakeRunning) -> Commands:
    return handed.commands(of, Levels())  # type: ignore[arg-type]


def call(accept: str = "text/event-stream", last: str = "", **query: str) -> Call:
    async def read() -> bytes:
        return b""

    return Call({}, tuple(query.items()), "127.0.0.1", accept, read, last)


class Listening:
    """A feed whose time stands still, and one that listens to it."""

    def __init__(self, of: FakeRunning) -> None:
        self.clock = Clock()
        self.of = of
        self.feed = Feed(commands(of), self.clock, self.sleep)
        self.before_look: list[Any] = []

    async def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for change in self.before_look:
            change()
        self.before_look.clear()

    async def listen(self, **asked: Any) -> Any:
        found = await self.feed.events(call(**asked))
        assert isinstance(found, Stream)
        return (piece async for piece in found.pieces if piece)


def parsed(piece: bytes) -> list[tuple[str, int | None, Any]]:
    """The events of a piece of a stream: kind, id and data."""
    found = []
    for block in piece.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], int(fields["id"]) if "id" in fields else None, orjson.loads(fields["data"])))
    return found


def told(text: str) -> None:
    EVENTS.tell(logger, logging.INFO, "ejection", text, "tasks", endpoint="10.0.0.1:80")


def test_a_listener_gets_a_snapshot_and_then_what_changes() -> None:
    async def main() -> None:
        told("before")
        it = Listening(running("tasks", "redis"))
        pieces = await it.listen()
        ((kind, number, snapshot),) = parsed(await anext(pieces))
        assert (kind, number, snapshot["service"]) == ("snapshot", EVENTS.newest, "tasks")
        assert snapshot["upstreams"].keys() == {"tasks", "redis"}
        assert snapshot["events"][-1]["text"] == "before"

        it.before_look = [lambda: told("after"), lambda: it.of.upstreams["redis"].breakers[0].force("open")]
        (event, change) = parsed(await anext(pieces))
        assert event[:2] == ("event", EVENTS.newest)
        assert (event[2]["kind"], event[2]["upstream"], event[2]["text"]) == ("ejection", "tasks", "after")
        assert event[2]["details"]["endpoint"] == "10.0.0.1:80"
        assert change[:2] == ("change", None)
        assert change[2]["upstreams"]["redis"]["breaker"] == {"state": "open", "forced": "open", "held": None}
        assert "status" in change[2]

        it.before_look = [lambda: it.of.upstreams.pop("redis")]
        ((_, _, gone),) = parsed(await anext(pieces))
        assert gone["upstreams"]["redis"] is None

        before = it.clock.now
        assert await anext(pieces) == b": still here\n\n"
        assert it.clock.now - before == pytest.approx(ALIVE, abs=1.5)
        it.of.phase = "stopped"
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)

    asyncio.run(main())


def test_a_listener_that_comes_back_gets_what_it_has_missed() -> None:
    async def main() -> None:
        told("seen")
        seen = EVENTS.newest
        told("missed")
        it = Listening(running())
        for asked in ({"last": str(seen)}, {"since": str(seen)}):
            ((_, number, snapshot),) = parsed(await anext(await it.listen(**asked)))
            assert [event["text"] for event in snapshot["events"]] == ["missed"]
            assert number == seen + 1
        ((_, number, snapshot),) = parsed(await anext(await it.listen(last="nonsense")))
        assert number == EVENTS.newest

    asyncio.run(main())


def test_listeners_are_bounded() -> None:
    async def main() -> None:
        it = Listening(running())
        streams = [await it.feed.events(call()) for _ in range(MOST)]
        refused = await it.feed.events(call())
        assert isinstance(refused, Answer)
        assert refused.status == 503
        assert isinstance(streams[0], Stream)
        streams[0].close()
        assert isinstance(await it.feed.events(call()), Stream)

    asyncio.run(main())


def test_rates_are_those_of_the_last_seconds() -> None:
    it = running("tasks")
    clock = Clock()
    pulse = Pulse(commands(it), clock)
    stats = it.upstreams["tasks"].stats
    stats.tally("GET", 200).n = 1000
    assert pulse.now()["upstreams"]["tasks"]["rate"] is None
    for _ in range(30):
        clock.advance(1)
        stats.tally("GET", 200).n += 3
        stats.tally("GET", 503).n += 1
        stats.duration.observe(0.004)
        now = pulse.now()["upstreams"]["tasks"]
        assert (now["rate"], now["error_rate"]) == (4.0, 0.25)
        assert 2.5 <= now["p50_ms"] <= 5
    clock.advance(WINDOW + 1)
    assert pulse.now()["upstreams"]["tasks"]["rate"] is None
    clock.advance(1)
    idle = pulse.now()["upstreams"]["tasks"]
    assert (idle["rate"], idle["error_rate"], idle["p99_ms"]) == (0.0, None, None)


def test_who_asks_together_gets_the_same() -> None:
    it = running("tasks")
    it.upstreams["rabbit"] = FakeUpstream("rabbit", protocol="amqp")
    clock = Clock()
    pulse = Pulse(commands(it), clock)
    first = pulse.now()
    assert pulse.now() is first
    clock.advance(1)
    assert pulse.now() is not first
    assert first["upstreams"]["tasks"]["endpoints"] == {
        "known": 1, "ejected": 0, "unhealthy": 0, "warning": 0,
    }  # fmt: skip
    assert first["upstreams"]["rabbit"]["amqp"] == {"connections": 0, "detached": 0, "held": 0, "spooled": 0}


def test_what_differs() -> None:
    old = {"status": "healthy", "upstreams": {"a": 1, "b": 2}}
    assert differs(old, old) == {}
    assert differs(old, {"status": "warning", "upstreams": {"a": 1, "c": 3}}) == {
        "status": "warning",
        "upstreams": {"b": None, "c": 3},
    }


@pytest.mark.asyncio
async def test_over_http(admin: Asking) -> None:
    told("of late")
    client = await admin(running("tasks"))
    events = (await client.get("/events")).json["events"]
    assert events[-1]["text"] == "of late"
    assert events[-1]["at"].endswith("Z")
    assert (await client.get(f"/events?since={EVENTS.newest}")).json == {"events": []}
    head = await client.ask("HEAD", "/events", Accept="text/event-stream")
    assert head.headers["Content-Type"].startswith("text/event-stream")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("query", "body", "held"),
    [
        ("", b"", {"by": "127.0.0.1", "reason": "", "until": None}),
        ("?by=ops&reason=moving", b"", {"by": "ops", "reason": "moving", "until": None}),
        ("", b'{"by": "ops", "reason": "moving\\u001b[31m", "for": "10m"}', {"by": "ops", "reason": "moving\\x1b[31m"}),
        ("?for=90", b"{}", {"by": "127.0.0.1"}),
    ],
)
async def test_who_holds_a_breaker_and_why(admin: Asking, query: str, body: bytes, held: dict[str, Any]) -> None:
    it = running("tasks")
    client = await admin(it)
    before = EVENTS.newest
    reply = await client.ask("POST", f"/upstreams/tasks/breaker/open{query}", body)
    assert reply.json["breaker"]["held"].items() >= held.items()
    (event,) = EVENTS.since(before)
    assert (event.kind, event.upstream, event.details["by"]) == ("breaker", "tasks", held["by"])
    assert event.text.startswith(f"the breaker of tasks is held open by {held['by']}")
    reply = await client.post("/upstreams/tasks/breaker/auto")
    assert reply.json["breaker"]["held"] is None
    assert "left to itself" in EVENTS.since(before)[-1].text


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("query", "body"),
    [("?for=soon", b""), ("?for=0s", b""), ("?for=9999h", b""), ("?bye=me", b""), ("", b"[1]"), ("", b'{"by": 5}')],
)
async def test_what_cannot_be_wished(admin: Asking, query: str, body: bytes) -> None:
    client = await admin(it := running("tasks"))
    assert (await client.ask("POST", f"/upstreams/tasks/breaker/open{query}", body)).error == (400, "bad_hold")
    assert it.upstreams["tasks"].breakers[0].forced == "auto"


@pytest.mark.parametrize("since", ["abc", "-1", "1.5", "²", "1" * 16])
def test_a_number_that_is_none(since: str) -> None:
    async def main() -> None:
        for accept in ("application/json", "text/event-stream"):
            found = await Listening(running()).feed.events(call(accept, since=since))
            assert isinstance(found, Answer)
            assert (found.status, found.data["error"]) == (400, "bad_since")
            assert "since is the id of an event" in found.data["message"]

    asyncio.run(main())
