"""What was acknowledged is delivered, whatever a reload changes; or the reload is refused; or the log says so."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.errors import ConfigError
from sidecar.config.traffic import Match, Route
from sidecar.core.limits import Limits
from support.agents import RunningAgent, ask, upstream
from support.live import run
from support.patience import until
from support.plane import Plane, in_plane
from support.ports import route_of, upstream_of
from support.processes import free_port
from support.queueing import OK, POST, away, back, finished, post, queued

_TASKS = Match(path="/tasks")


def reload(plane: Plane, **settings: Any) -> None:
    """Give the listener these policies, and no other."""
    config = upstream_of(name="up", bind=plane.listener.bind, **settings)
    plane.listener.assembly.apply(plane.listener, config)


def _route(path: Path, **more: Any) -> Route:
    return route_of(match=_TASKS, **queued(path, **more))


@pytest.mark.parametrize("before", ["listener", "route"])
@pytest.mark.parametrize("after", ["off", "another route", "lower limits", "lower bounds"])
def test_what_was_acknowledged_is_delivered_after_a_reload(tmp_path: Path, before: str, after: str) -> None:
    plain: dict[str, Any] = {"retry": None, "circuit_breaker": None}
    settings = queued(tmp_path) if before == "listener" else {**plain, "routes": (_route(tmp_path),)}
    changed: dict[str, dict[str, Any]] = {
        "off": plain,
        "another route": {**plain, "routes": (route_of(match=Match(path="/other"), **queued(tmp_path)),)},
        "lower limits": {**settings, "limits": Limits(head=128, headers=2, target=64, body=2, connections=1)},
        "lower bounds": queued(tmp_path, max_body=1, max_bytes=1, attempts=1, keep=60.0),
    }

    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        answer = await post(
            client, POST.replace(b"/tasks", b"/tasks?" + b"q" * 100) + b"X-Filler: %b\r\n" % (b"f" * 500)
        )
        assert answer.status == 202
        reload(plane, **changed[after])
        assert plane.stats.queue is not None
        assert plane.stats.queue.requests == 1
        back(plane)
        upstream = await plane.accepted()
        await upstream.head()
        assert await upstream.read(5) == b"hello"
        upstream.send(OK)
        status = await finished(client, answer.fields["location"])
        assert (status["status"], status["answer"]["status"]) == ("done", 201)

    in_plane(test, **settings)


def test_a_delivery_that_is_under_way_may_finish(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        answer = await post(client)
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        reload(plane, retry=None, circuit_breaker=None)
        upstream.send(OK)
        assert (await finished(client, answer.fields["location"]))["status"] == "done"

    in_plane(test, **queued(tmp_path, when="always"))


@pytest.mark.parametrize("fields", [98, 99, 100])
@pytest.mark.parametrize("inbound", [False, True])
def test_a_request_that_is_just_within_the_limits_is_delivered(tmp_path: Path, fields: int, inbound: bool) -> None:
    limits = Limits(head=16384)
    settings = queued(tmp_path)
    if inbound:
        settings = {"queue": settings["queue"]}

    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        head = POST + b"".join(b"f%d: x\r\n" % n for n in range(fields - 2))
        head += b"f0: %b\r\n" % (b"y" * (limits.head - len(head) - 8)) if fields < 100 else b""
        assert len(head) + 2 <= limits.head
        answer = await post(client, head)
        assert answer.status == 202
        back(plane)
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(OK)
        assert (await finished(client, answer.fields["location"]))["status"] == "done"

    in_plane(test, inbound=inbound, limits=limits, **settings)


def test_deliveries_need_no_place_among_the_clients(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        answer = await post(client)
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(OK)
        assert (await finished(client, answer.fields["location"]))["status"] == "done"

    in_plane(test, limits=Limits(connections=1), **queued(tmp_path, when="always"))


def _config(folder: Path, app: int, **more: Any) -> dict[str, Any]:
    queue = {"path": str(folder / "q"), "when": "always"}
    return upstream(f"127.0.0.1:{app}", retry="off", circuit_breaker="off", queue=queue, **more)


async def _refused(it: RunningAgent, **upstreams: Any) -> str:
    it.write(upstreams=upstreams)
    with pytest.raises(ConfigError) as error:
        await it.agent.reload()
    (problem,) = error.value.problems
    return problem.text("")


def test_an_upstream_for_which_requests_are_stored_cannot_be_taken_out(tmp_path: Path) -> None:
    async def main() -> None:
        config = _config(tmp_path, free_port())
        plain = {key: value for key, value in config.items() if key != "queue"}
        async with RunningAgent(tmp_path, upstreams={"a": config, "b": plain}) as it:
            status, _, body = await ask(it.port("a"), "POST", "/", b"x")
            assert (status, json.loads(body)["status"]) == (202, "queued")
            assert "1 requests are stored" in await _refused(it, b=plain)
            it.write(upstreams={"a": plain, "b": plain})
            await it.agent.reload()
            moved = {**plain, "bind": f"127.0.0.1:{free_port()}"}
            assert "1 requests are stored" in await _refused(it, a=moved, b=plain)
            elsewhere = {**config, "queue": {"path": str(tmp_path / "other")}}
            assert str(tmp_path / "q") in await _refused(it, a=elsewhere, b=plain)
            # Where it was it may be again, as that was never closed.
            it.write(upstreams={"a": config, "b": plain})
            assert await it.agent.reload() == ["upstreams.a: changed"]
            # Once nothing is stored there, it may go.
            queue = it.agent.upstreams["a"].listener.queue  # type: ignore[attr-defined]
            queue.wall = lambda: 9e9
            queue._sweep()
            await until(lambda: not queue.waiting, "it has expired")
            it.write(upstreams={"b": plain})
            assert await it.agent.reload() == ["upstreams.a: removed"]

    run(main)


def test_the_log_says_what_is_left_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = _config(tmp_path, free_port())
    plain = {key: value for key, value in config.items() if key != "queue"}
    other = {**_config(tmp_path, free_port()), "bind": "127.0.0.1:0"}

    def said(words: str) -> list[dict[str, Any]]:
        return [vars(record) for record in caplog.records if words in record.getMessage()]

    async def main() -> None:
        with caplog.at_level(logging.INFO, "sidecar"):
            async with RunningAgent(tmp_path, upstreams={"a": config}) as it:
                assert (await ask(it.port("a"), "POST", "/", b"x"))[0] == 202
                it.write(upstreams={"a": plain})
                await it.agent.reload()
                (line,) = said("taken out of the configuration")
                assert line["requests"] == 1
            (line,) = said("left behind")
            file = str(tmp_path / "q" / "a~queue.db")
            assert (line["requests"], line["file"]) == (1, file)
            assert not said("delivered by nobody")
            # A start that still has a queue there finds what has none any more.
            async with RunningAgent(tmp_path, upstreams={"a": plain, "b": other}):
                (line,) = said("delivered by nobody")
                assert (line["requests"], line["file"]) == (1, file)
            caplog.clear()
            async with RunningAgent(tmp_path, upstreams={"a": config}) as it:
                assert said("stored requests are waiting")
                assert it.agent.upstreams["a"].listener.queue.waiting == 1  # type: ignore[attr-defined]
            assert said("wait for the next start")
            assert not said("delivered by nobody")

    run(main)
