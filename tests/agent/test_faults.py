"""Which faults are on: of the file, put for a while, ended; and that it is told."""

from __future__ import annotations

import logging
from typing import Any

import orjson
import pytest

from sidecar.agent.fault_operations import FaultOperations
from sidecar.agent.faults import FaultBoard
from sidecar.config.faults import FaultSettings
from sidecar.config.traffic import Match
from sidecar.core.operations import Answer, Call
from sidecar.filters.faults import Faults
from support.http import Stage
from support.loop import FakeLoop
from support.ports import route_of

#: Unix time when a test begins.
BEGAN = 1_800_000_000.0
#: What the loop says then.
START = FakeLoop().now


class Bench:
    """A port with what the admin API can do to it; its wall clock goes with its loop."""

    def __init__(self, **policies: Any) -> None:
        self._loop: FakeLoop | None = None
        self.board = FaultBoard(self._wall, lambda seconds, do: self.stage.loop.call_later(seconds, do))
        self.stage = Stage(**{"retry": None, "board": self.board, **policies})
        self._loop = self.stage.loop
        self.api = FaultOperations(self.board, lambda: [self.stage.listener], self._wall)
        self.board.watch(lambda: [self.stage.listener])

    def _wall(self) -> float:
        return BEGAN + (self._loop.now - START if self._loop is not None else 0.0)

    async def asks(self, method: str, body: object = None) -> dict[str, Any]:
        data = body if isinstance(body, bytes) else orjson.dumps(body)

        async def read() -> bytes:
            return data

        handler = next(it.handler for it in self.api.contribution().operations if it.method == method)
        answer = await handler(Call({}, [], "10.9.9.9", "", read))
        assert isinstance(answer, Answer)
        self.status = answer.status
        found: dict[str, Any] = answer.data
        return found

    async def put(self, *faults: dict[str, Any], **more: Any) -> dict[str, Any]:
        return await self.asks("PUT", {"upstream": "up", "faults": list(faults), **more})

    def status_of(self, line: str = "GET /") -> int:
        client = self.stage.asks(line)
        if asked := self.stage.asked():
            asked[0].answers()
        return client.gets().status

    @property
    def filters(self) -> int:
        return sum(isinstance(it, Faults) for it in self.stage.listener.chain.filters)


pytestmark = pytest.mark.asyncio


async def test_nothing_is_on_by_default() -> None:
    it = Bench()
    assert await it.asks("GET") == {"faults": [], "injected": {}}
    assert it.filters == 0
    assert not it.stage.loop.armed(), "nothing is looked after"


async def test_a_fault_is_put_for_five_minutes_unless_it_is_said() -> None:
    it = Bench()
    (shown,) = (await it.put({"abort": 418, "share": "100%"}))["faults"]
    assert it.status == 200
    assert shown | {"text": ""} == {
        "where": "upstreams.up", "direction": "outbound", "upstream": "up", "by": "10.9.9.9", "text": "",
        "match": {"path": "*", "methods": [], "headers": {}}, "share": 1, "abort": 418,
        "until": "2027-01-15T08:05:00.000Z",
    } | {key: shown[key] for key in ("match",)}  # fmt: skip
    assert it.status_of() == 418
    assert (await it.asks("GET"))["injected"] == {"upstreams.up": {"abort": 1}}
    it.stage.advance(299.0)
    assert it.status_of() == 418
    it.stage.advance(1.1)
    assert it.status_of() == 200
    assert it.filters == 0, "nothing of it is left in the chain"
    assert (await it.asks("GET"))["faults"] == []


async def test_each_has_its_time() -> None:
    it = Bench()
    await it.put({"match": {"path": "/a"}, "abort": 400, "for": "1m"}, {"abort": 401, "for": "2m"})
    assert [it.status_of("GET /a"), it.status_of("GET /b")] == [400, 401]
    it.stage.advance(61.0)
    assert [it.status_of("GET /a"), it.status_of("GET /b")] == [401, 401]
    it.stage.advance(60.0)
    assert it.status_of("GET /a") == 200


async def test_until_is_a_time_within_the_hour() -> None:
    it = Bench()
    (shown,) = (await it.put({"reset": True, "until": "2027-01-15T08:59:00Z"}))["faults"]
    assert shown["until"] == "2027-01-15T08:59:00.000Z"
    for until in ("2027-01-15T09:30:00Z", "2027-01-15T07:59:00Z"):
        assert "within an hour" in (await it.put({"reset": True, "until": until}))["message"]


async def test_put_replaces_what_was_put_and_stands_before_the_file() -> None:
    it = Bench(faults=(FaultSettings(abort=500),))
    await it.put({"match": {"path": "/a"}, "abort": 418})
    assert [it.status_of("GET /a"), it.status_of("GET /b")] == [418, 500]
    await it.put({"match": {"path": "/b"}, "abort": 418})
    assert [it.status_of("GET /a"), it.status_of("GET /b")] == [500, 418]
    await it.put()
    assert [it.status_of("GET /a"), it.status_of("GET /b")] == [500, 500]


async def test_delete_ends_all_until_the_file_is_read_again() -> None:
    it = Bench(faults=(FaultSettings(abort=500),))
    await it.put({"abort": 418})
    assert (await it.asks("DELETE"))["faults"] == []
    assert it.status_of() == 200
    assert it.filters == 0
    it.board.reloaded()
    assert it.status_of() == 500


async def test_a_reload_leaves_what_was_put() -> None:
    it = Bench()
    await it.put({"abort": 418})
    it.stage.reload(faults=(FaultSettings(abort=500),))
    it.board.reloaded()
    assert it.status_of() == 418
    it.stage.advance(301.0)
    assert it.status_of() == 500


async def test_what_is_put_goes_for_routes_too_and_is_shown_once() -> None:
    routes = (route_of(match=Match(path="/own"), faults=(FaultSettings(abort=500),)), route_of(match=Match(path="/x")))
    it = Bench(routes=routes)
    found = (await it.put({"abort": 418}))["faults"]
    assert [fault["where"] for fault in found] == ["upstreams.up", "upstreams.up.routes[0]"]
    assert [it.status_of(f"GET /{path}") for path in ("own", "x", "y")] == [418, 418, 418]


async def test_the_app_s_port() -> None:
    it = Bench(inbound=True)
    assert "no such upstream" in (await it.put({"abort": 503}))["message"]
    (shown,) = (await it.put({"direction": "inbound", "abort": 503}))["faults"]
    assert (shown["where"], shown["direction"], shown["upstream"]) == ("inbound", "inbound", "")
    assert it.status_of() == 503


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "no JSON"),
        ([], "wrong type"),
        ({"faults": []} | {"fro": "5m"}, "fro is not a known key"),
        ({"faults": [{"abort": 503}]}, "faults[0].upstream is missing; there are: up"),
        ({"faults": [{"upstream": "upp", "abort": 503}]}, "no such upstream: 'upp'; there are: up; nearest: up"),
        ({"upstream": "up", "faults": [{"abort": 200}]}, "faults[0].abort is out of range; found: 200; allowed:"),
        ({"upstream": "up", "faults": [{"share": "10%"}]}, "faults[0] does not say what it does"),
        ({"upstream": "up", "faults": [{"abort": 503, "reset": True}]}, "faults[0] does more than one thing"),
        ({"upstream": "up", "faults": [{"abort": 503}], "for": "2h"}, "for is out of range"),
        ({"upstream": "up", "faults": [{"abort": 503, "for": "1m", "until": "2027-01-15T08:01:00Z"}]}, "says twice"),
        ({"upstream": "up", "faults": [{"throttle": "10KiB"}]}, "nearest: 10KiB/s"),
        ({"faults": [{"direction": "inbound", "reset": True}]}, "no inbound port"),
    ],
)
async def test_what_cannot_be_put_changes_nothing(body: object, said: str) -> None:
    it = Bench()
    await it.put({"abort": 418})
    answer = await it.asks("PUT", body)
    assert (it.status, answer["error"]) == (400, "bad_faults")
    assert said in answer["message"]
    assert it.status_of() == 418


async def test_connections_have_no_path_and_no_status() -> None:
    it = Bench(protocol="tcp")
    for fault in ({"abort": 503}, {"throttle": "1KiB/s"}, {"reset": True, "match": {"path": "/a"}}):
        assert "protocol tcp" in (await it.put(fault))["message"]
    await it.put({"reset": True})
    assert it.status == 200
    assert it.stage.client().transport.aborted


async def test_it_is_told_when_one_begins_and_ends_and_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidecar.faults")
    it = Bench()
    await it.put({"abort": 418, "for": "150s"})
    it.stage.advance(400.0)
    told = [record.getMessage().partition(" on purpose")[0] for record in caplog.records]
    assert told == [
        "a fault is injected at upstreams.up: 100 % of all are answered 418, until 2027-01-15T08:02:30.000Z "
        "(by 10.9.9.9)",
        "faults are injected",
        "faults are injected",
        "1 of the faults injected at up are over; none are left",
    ]
    assert not it.stage.loop.armed(), "nothing is looked after any more"


async def test_those_of_the_file_are_told_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    it = Bench(faults=(FaultSettings(delay=2.0, share=0.1),))
    assert [record.getMessage() for record in caplog.records] == [
        "a fault is injected at upstreams.up: 10 % of all are delayed by 2 s (by the configuration)"
    ]
    it.board.close()
    it.stage.advance(120.0)
    assert len(caplog.records) == 1


async def test_those_of_the_file_end_at_their_time() -> None:
    it = Bench(faults=(FaultSettings(abort=500, until=BEGAN + 30.0),))
    assert it.status_of() == 500
    it.stage.advance(30.1)
    assert it.filters == 0
    assert it.status_of() == 200
