"""What a client, an app or a clock can do to a queue stays within bounds and hurts nobody else."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.config.traffic import Match
from sidecar.filters.timeout import TimeoutSettings
from sidecar.http_queue import lane as lanes
from sidecar.http_queue import outcomes as outcomes_
from sidecar.http_queue import queue as queues
from sidecar.http_queue.lane import Lane
from sidecar.resilience.backoff import Backoff
from support.patience import until
from support.plane import Peer, Plane, in_plane
from support.ports import route_of
from support.queueing import OK, POST, ask, away, back, finished, outcomes, post, queued, says


def impatient(plane: Plane) -> Lane:
    """The lane, with pauses of no length."""
    lane: Lane = plane.listener.queue.lane("")
    lane._pause = lane._delay = Backoff(0.001, 0.001, random.Random(1), jitter=False)
    return lane


async def _answers(upstream: Peer, answer: bytes) -> bytes:
    """The body of the next request, which gets that answer."""
    await upstream.head()
    body = await upstream.read(5)
    upstream.send(answer)
    return body


BUSY = b"HTTP/1.1 429 Slow down\r\nRetry-After: 200\r\nContent-Length: 0\r\n\r\n"


def test_requests_that_the_app_puts_off_keep_no_others_back(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        for number in range(80):
            assert (await post(client, body=b"%05d" % number)).status == 202
        good = await post(client, body=b"good!")
        lane = impatient(plane)
        lane._blocked = 0.0
        back(plane)
        lane.pump()
        upstream = await plane.accepted()
        for number in range(80):
            assert await _answers(upstream, BUSY) == b"%05d" % number
        assert await _answers(upstream, OK) == b"good!"
        assert (await finished(client, good.fields["location"]))["status"] == "done"
        # Of those that wait there are only the numbers in memory, and they are fetched again when it is time.
        assert len(lane._apart) == 80
        assert not lane._ready
        lane._apart = [(0.0, number, tries) for _, number, tries in lane._apart]
        lane.pump()
        assert await _answers(upstream, OK) == b"00000"
        queue = plane.stats.queue
        assert queue is not None
        for _ in range(79):
            await _answers(upstream, OK)
        await until(lambda: not queue.requests, "all are delivered")

    in_plane(test, **queued(tmp_path, concurrency=1))


def test_with_too_many_put_off_the_first_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "APART", 2)

    async def test(plane: Plane) -> None:
        client = await plane.connect()
        lane = impatient(plane)
        for number in range(20):
            await post(client, body=b"%05d" % number)
        upstream = await plane.accepted()
        busy = BUSY.replace(b"Retry-After: 200\r\n", b"")
        seen = {await _answers(upstream, busy if number < 10 else OK) for number in range(30)}
        assert len(seen) == 20
        await until(lambda: not lane.count, "all are delivered")

    in_plane(test, **queued(tmp_path, concurrency=1, when="always"))


def test_nothing_is_skipped_when_the_file_changes_while_something_is_fetched(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        for number in range(20):
            await post(client, body=b"%05d" % number)
        lane = impatient(plane)
        await until(lambda: not lane.active and not lane._fetching, "nothing is under way")
        lane._ready.clear()
        lane._cursor = 16
        lane._more = True
        lane._fetch(0.0)
        plane.listener.queue._recount()
        back(plane)
        upstream = await plane.accepted()
        assert {await _answers(upstream, OK) for _ in range(20)} == {b"%05d" % number for number in range(20)}
        await until(lambda: not lane.count, "all are delivered")
        assert outcomes(plane)["delivered"] == 20

    in_plane(test, **queued(tmp_path, concurrency=1))


def test_an_answer_without_an_end_does_not_hold_its_place_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LONGEST", 0.05)

    async def test(plane: Plane) -> None:
        lane = impatient(plane)
        lane.settings = replace(lane.settings, expires=0.05)
        client = await plane.connect()
        answer = await post(client)
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        status = await finished(client, answer.fields["location"])
        assert (status["status"], status["answer"]) == ("done", {"status": 200, "whole": False})
        await upstream.gone()

    in_plane(test, **queued(tmp_path, when="always"))


def test_clients_that_do_not_read_their_outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes_, "UNREAD", 1)
    size = 12 << 20

    async def test(plane: Plane) -> None:
        client = await plane.connect()
        location = (await post(client)).fields["location"]
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        await finished(client, location)
        lazy = await plane.connect()
        lazy.transport.pause_reading()
        lazy.send(f"GET {location}/outcome HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await until(lambda: plane.listener.queue.outcomes.crowded, "it does not read")
        answer = await ask(client, location + "/outcome")
        assert says(answer, 503, "overloaded")
        assert answer.fields["retry-after"] == "1"
        assert (await ask(client, location)).status == 200
        lazy.transport.resume_reading()
        assert len((await lazy.answer()).body) == size
        assert len((await ask(client, location + "/outcome")).body) == size

    in_plane(test, **queued(tmp_path, when="always", max_body=size))


def test_only_so_many_outcomes_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes_, "READING", 1)

    async def test(plane: Plane) -> None:
        client = await plane.connect()
        location = (await post(client)).fields["location"]
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(OK)
        await finished(client, location)
        clients = [await plane.connect() for _ in range(4)]
        for one in clients:
            one.send(f"GET {location}/outcome HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        clients[1].reset()
        for one in (clients[0], *clients[2:]):
            assert (await one.answer()).status == 201

    in_plane(test, **queued(tmp_path, when="always"))


def test_bodies_that_are_being_received_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "RECEIVING", 1000)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 700\r\n\r\n"

    async def test(plane: Plane) -> None:
        away(plane)
        queue = plane.listener.queue
        one, other, third = [await plane.connect() for _ in range(3)]
        one.send(head + b"a" * 600)
        await until(lambda: queue.receiving == 600, "a part of the first")
        other.send(head + b"b" * 600)
        answer = await other.answer()
        assert (answer.status, answer.fields["x-sidecar-error"]) == (502, "connect_failed")
        third.send(head + b"c" * 300)
        await until(lambda: queue.receiving == 900, "a part of the third")
        third.reset()
        await until(lambda: queue.receiving == 600, "the third is gone")
        one.send(b"a" * 100)
        assert (await one.answer()).status == 202
        assert queue.receiving == 0
        assert outcomes(plane)["refused"] == 1
        queue.pause()

    in_plane(test, **queued(tmp_path))


@pytest.mark.parametrize(
    "path", ["../../../../etc/passwd", "..%2f..%2fetc", "x/../y", "%00", "a" * 7000, "'; DROP TABLE request; --", "?x"]
)
def test_whatever_is_asked_for_is_an_id_and_nothing_else(tmp_path: Path, path: str) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        for end in ("", "/outcome"):
            target = f"/.sidecar/queue/{path}{end}".replace(" ", "%20")
            assert says(await ask(client, target), 404, "not_found")
            assert (await ask(client, target, "HEAD")).status == 404

    in_plane(test, **queued(tmp_path))


def test_a_clock_that_goes_back_loses_nothing(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        queue = plane.listener.queue
        queue.wall = lambda: 1e9
        away(plane)
        client = await plane.connect()
        answer = await post(client, POST + b"Idempotency-Key: k\r\n")
        queue.wall = lambda: 1e8
        queue._sweep()
        back(plane)
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(OK)
        assert (await finished(client, answer.fields["location"]))["status"] == "done"
        again = await post(client, POST + b"Idempotency-Key: k\r\n")
        assert (again.status, json.loads(again.body)["status"]) == (202, "done")

    in_plane(test, **queued(tmp_path))


def test_what_came_by_a_route_that_is_no_more_is_sent_after_a_restart(tmp_path: Path) -> None:
    async def store(plane: Plane) -> None:
        away(plane)
        assert (await post(await plane.connect())).status == 202

    async def deliver(plane: Plane) -> None:
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(OK)
        await until(lambda: plane.stats.queue is not None and not plane.stats.queue.requests, "it is delivered")

    route = route_of(match=Match(path="/tasks"), **queued(tmp_path))
    in_plane(store, routes=(route,))
    in_plane(deliver, **queued(tmp_path))


def test_an_answer_that_stops_in_the_middle_is_a_try_that_failed(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        answer = await post(client)
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        queue = plane.stats.queue
        assert queue is not None
        await until(lambda: plane.stats.bytes_out >= 3, "a part of the answer")
        for _ in range(4):
            plane.advance(6)
        await upstream.gone()
        status = await finished(await plane.connect(), answer.fields["location"])
        assert (status["status"], status["reason"], status["attempts"]) == ("failed", "timeout", 1)

    in_plane(test, timeout=TimeoutSettings(idle=5, request=5), **queued(tmp_path, when="always", attempts=1))


def test_a_body_that_drips_is_not_waited_for_to_be_stored(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        client.send(POST.replace(b"5", b"2000") + b"\r\nx")
        await until(lambda: plane.stats.bytes_in == 1, "a byte")
        for size in (2, 3):
            plane.advance(1.5)
            client.send(b"x")
            await until(lambda size=size: plane.stats.bytes_in == size, "a byte")  # type: ignore[misc]
        plane.advance(1.5)
        assert says(await client.answer(), 504, "timeout")
        assert not plane.upstream.peers

    in_plane(test, timeout=TimeoutSettings(request=4), **queued(tmp_path, when="always"))
