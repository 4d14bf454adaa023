"""``GET /tap`` and ``sidecar tap``: exchanges as they end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.agent.tap import ALIVE, MAX_TARGET, MOST, QUEUE, Listener, Tap
from sidecar.cli.main import main
from sidecar.cli.tap import text
from sidecar.core.operations import Answer, Call, Stream
from sidecar.core.records import AccessLog, AccessRecord
from support.agents import RunningAgent, ask, upstream
from support.clock import Clock
from support.live import Origin, ok, run
from support.patience import until

RECORD = AccessRecord(
    time=0.0, direction="outbound", upstream="tasks", method="GET", target="/a", status=200, error=None,
    duration=0.0125, bytes_in=0, bytes_out=2, endpoint="10.0.0.1:80", attempts=1,
    client="127.0.0.1", request_id="r1", trace_id=None,
)  # fmt: skip


class Tapped:
    """A tap whose time stands still, and that ends when it is told to."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.log = AccessLog("off", lambda record: None)
        self.over = False
        self.tap = Tap(self.log, "web", lambda: ["tasks", "web"], lambda: self.over, self.clock, self.sleep)
        self.streams: list[Stream] = []

    async def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def ask(self, **query: str) -> Answer | Stream:
        async def read() -> bytes:
            return b""

        return await self.tap.tap(Call({}, tuple(query.items()), "127.0.0.1", "", read))

    async def listen(self, **query: str) -> Any:
        found = await self.ask(**query)
        assert isinstance(found, Stream)
        self.streams.append(found)
        return (piece async for piece in found.pieces if piece)

    def ends(self, **changes: Any) -> None:
        """An exchange has ended, of which whoever listens is told."""
        if self.log.tap is not None:
            self.log.tap(RECORD._replace(**changes))


def lines(piece: bytes) -> list[Any]:
    return [orjson.loads(line) for line in piece.splitlines() if line]


def test_a_listener_is_told_of_exchanges_and_then_nobody_asks_for_them() -> None:
    async def main() -> None:
        it = Tapped()
        assert it.log.tap is None
        pieces = await it.listen(limit="3")
        it.ends()
        it.ends(status=503, error="circuit_open")
        first, second = lines(await anext(pieces))
        assert (first["status"], first["upstream"], first["endpoint"]) == (200, "tasks", "10.0.0.1:80")
        assert first.keys().isdisjoint({"logger", "msg", "level", "service"})
        assert (second["status"], second["error"]) == (503, "circuit_open")
        it.ends(target="/" + "x" * 5000)
        it.ends()
        (last,) = lines(await anext(pieces))
        assert len(last["target"]) == MAX_TARGET + 1
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)
        it.streams[0].close()
        assert it.log.tap is None

    asyncio.run(main())


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, {"a", "b", "c", "d"}),
        ({"upstream": "tasks"}, {"a", "b", "c"}),
        ({"status": "5xx"}, {"b", "d"}),
        ({"status": "503"}, {"b"}),
        ({"status": "2xx", "upstream": "web"}, set()),
        ({"error": "circuit_open"}, {"b"}),
    ],
)
def test_what_is_asked_for(asked: dict[str, str], told: set[str]) -> None:
    listener = Listener(asked.get("upstream", ""), asked.get("status", ""), asked.get("error", ""))
    for record in (
        RECORD._replace(request_id="a"),
        RECORD._replace(request_id="b", status=503, error="circuit_open"),
        RECORD._replace(request_id="c", status=404),
        RECORD._replace(request_id="d", status=500, upstream="web", direction="inbound"),
    ):
        listener.offer(record)
    assert {record.request_id for record in listener.waiting} == told


def test_a_slow_listener_is_told_how_many_it_has_missed() -> None:
    async def main() -> None:
        it = Tapped()
        pieces = await it.listen()
        for _ in range(QUEUE + 7):
            it.ends()
        found = lines(await anext(pieces))
        assert len(found) == QUEUE + 1
        assert found[-1] == {"dropped": 7}
        it.ends()
        assert len(lines(await anext(pieces))) == 1
        before = it.clock.now
        assert await anext(pieces) == b"\n"
        assert it.clock.now - before == pytest.approx(ALIVE, abs=0.3)
        it.over = True
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)

    asyncio.run(main())


def test_listeners_are_bounded() -> None:
    async def main() -> None:
        it = Tapped()
        for _ in range(MOST):
            await it.listen()
        refused = await it.ask()
        assert isinstance(refused, Answer)
        assert refused.status == 503
        it.streams[0].close()
        assert it.log.tap is not None
        await it.listen()

    asyncio.run(main())


@pytest.mark.parametrize(
    "asked",
    [{"status": "6xx"}, {"status": "bad"}, {"limit": "0"}, {"limit": "-1"}, {"limit": "9" * 12}, {"upstream": "x"}],
)
def test_what_cannot_be_asked_for(asked: dict[str, str]) -> None:
    async def main() -> None:
        it = Tapped()
        found = await it.ask(**asked)
        assert isinstance(found, Answer)
        assert (found.status, found.data["error"]) == (400, "bad_request")
        assert it.log.tap is None

    asyncio.run(main())


def test_the_command_shows_requests_without_their_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def answered() -> Any:
        return ok(b"fine")

    async def watched() -> None:
        async with (
            Origin(lambda request: answered()) as app,
            RunningAgent(tmp_path, upstreams={"a": upstream(f"127.0.0.1:{app.port}")}, log={"access": "off"}) as it,
        ):
            url = f"http://{it.agent.admin_address}"
            for more in ((), ("--json",)):
                command = asyncio.create_task(
                    asyncio.to_thread(main, ["tap", "--admin", url, "--upstream", "a", "--limit", "2", *more])
                )
                await until(lambda: it.agent.access_log.tap is not None, "it listens")
                for path in ("/x?token=hush", "/y"):
                    assert (await ask(it.port("a"), path=path, authorization="hush"))[0] == 200
                assert await command == 0
                out = capsys.readouterr().out
                assert "hush" not in out
                assert out.count("\n") == 2
                if more:
                    assert [json.loads(line)["target"] for line in out.splitlines()] == ["/x", "/y"]
                else:
                    assert "200" in out
                    assert f"a  GET /x  → 127.0.0.1:{app.port}" in out
                await until(lambda: it.agent.access_log.tap is None, "nobody listens any more")
            assert await asyncio.to_thread(main, ["tap", "--admin", url, "--upstream", "b"]) == 1
            assert "no such upstream" in capsys.readouterr().err

    run(watched)
    assert main(["tap", "--admin", "127.0.0.1:9"]) == 1


def test_a_listener_that_has_left_leaves_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, with nothing to send to it."""
    monkeypatch.setattr("sidecar.agent.tap.ALIVE", 1e9)

    async def watched() -> None:
        async with RunningAgent(tmp_path) as it:
            address = it.agent.admin_address
            assert address is not None
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(b"GET /tap HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await until(lambda: it.agent.access_log.tap is not None, "it listens")
            writer.close()
            await until(lambda: it.agent.access_log.tap is None, "nobody listens any more")

    run(watched)


def test_a_line() -> None:
    failed = {
        "ts": "2026-01-01T12:00:00.123Z", "status": 502, "duration": 1.5, "direction": "outbound", "upstream": "a\x1b",
        "method": "GET", "target": "/", "error": "connect_failed", "cause": "refused", "attempts": 3,
        "endpoint": "10.0.0.1:80", "request_id": "r1",
    }  # fmt: skip
    assert text(failed) == (
        "12:00:00.123  502     1500.0 ms  out  a\\x1b  GET /  → 10.0.0.1:80  connect_failed (refused)  3 tries  r1"
    )
    assert text(failed, colour=True).startswith("\x1b[31m")
    assert text({"dropped": 3}) == "… 3 more, faster than they could be shown"
