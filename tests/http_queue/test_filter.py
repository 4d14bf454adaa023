from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar.config.traffic import Match
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.http_queue.settings import QueueSettings
from support.patience import until
from support.plane import Plane, in_plane
from support.ports import route_of
from support.queueing import OK, POST, ask, away, back, finished, outcomes, post, queued, says


def test_what_cannot_be_delivered_is_stored_and_delivered_when_the_upstream_is_back(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        answer = await post(client, POST + b"X-Request-Id: r1\r\nAuthorization: Bearer t\r\n")
        assert answer.status == 202
        location = answer.fields["location"]
        body = json.loads(answer.body)
        assert body == {"id": location.rpartition("/")[2], "status": "queued", "location": location}
        assert answer.fields["x-request-id"] == "r1"
        status = json.loads((await ask(client, location)).body)
        assert status["status"] in ("queued", "delivering")
        early = await ask(client, location + "/outcome")
        assert (early.status, early.fields["retry-after"]) == (202, "1")
        back(plane)
        upstream = await plane.accepted()
        head = (await upstream.head()).lower()
        assert f"\r\nx-sidecar-queued: {body['id']}\r\n".encode() in head
        assert b"\r\nx-request-id: r1\r\n" in head
        assert b"\r\nauthorization: bearer t\r\n" in head
        assert await upstream.read(5) == b"hello"
        assert json.loads((await ask(client, location)).body)["status"] == "delivering"
        upstream.send(OK)
        status = await finished(client, location)
        assert status["status"] == "done"
        assert status["answer"] == {"status": 201, "whole": True}
        answer = await ask(client, status["outcome"])
        assert (answer.status, answer.body, answer.fields["x-app"]) == (201, b"ok", "yes")
        assert (await ask(client, status["outcome"], "HEAD")).status == 201
        assert outcomes(plane) == {"queued": 1, "tried": outcomes(plane).get("tried", 0), "delivered": 1}
        assert plane.stats.queue is not None
        assert plane.stats.queue.requests == plane.stats.queue.bytes == 0

    in_plane(test, **queued(tmp_path))


def test_what_works_is_not_queued(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(POST + b"\r\nhello")
        await upstream.read_until(b"hello")
        upstream.send(OK)
        assert (await client.answer()).status == 201
        assert outcomes(plane) == {}

    in_plane(test, **queued(tmp_path))


@pytest.mark.parametrize(
    "head",
    [
        b"GET /tasks HTTP/1.1\r\nHost: a\r\n",
        b"POST /tasks HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n",
        b"POST /tasks HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 0\r\n",
    ],
)
def test_what_cannot_be_stored_is_answered_as_ever(tmp_path: Path, head: bytes) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        client.send(head + b"\r\n")
        answer = await client.answer()
        assert (answer.status, answer.fields["x-sidecar-error"]) == (502, "connect_failed")

    in_plane(test, **queued(tmp_path, max_body=100))


def test_a_body_that_comes_slowly_is_stored_whole(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        size = 300_000
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + b"a" * 100_000)
        await until(lambda: plane.stats.bytes_in >= 100_000, "the first part")
        client.send(b"b" * 200_000)
        answer = await client.answer()
        assert answer.status == 202
        back(plane)
        upstream = await plane.accepted()
        await upstream.head()
        assert await upstream.read(size) == b"a" * 100_000 + b"b" * 200_000
        upstream.send(OK)
        assert (await finished(client, answer.fields["location"]))["status"] == "done"

    in_plane(test, **queued(tmp_path))


def test_a_chunked_body_and_a_chunked_answer(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        answer = await post(
            client, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        )
        assert answer.status == 202
        back(plane)
        upstream = await plane.accepted()
        await upstream.head()
        assert await upstream.chunks() == b"abc"
        upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n")
        status = await finished(client, answer.fields["location"])
        outcome = await ask(client, status["outcome"])
        assert (outcome.status, outcome.body) == (200, b"xyz")
        assert outcome.fields["content-length"] == "3"

    in_plane(test, **queued(tmp_path))


def test_a_chunked_body_that_becomes_too_large_is_answered_as_ever(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n" + b"a" * 16 + b"\r\n")
        await until(lambda: plane.stats.bytes_in >= 20, "the first part")
        client.send(b"ffff\r\n" + b"a" * 65535 + b"\r\n0\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.fields["x-sidecar-error"]) == (502, "connect_failed")

    in_plane(test, **queued(tmp_path, max_body=1000))


def test_a_client_that_waits_for_100_is_told_to_go_on(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        client.send(POST + b"Expect: 100-continue\r\n\r\n")
        assert (await client.answer()).status == 100
        client.send(b"hello")
        answer = await client.answer()
        assert answer.status == 202
        back(plane)
        upstream = await plane.accepted()
        assert b"expect" not in (await upstream.head()).lower()
        assert await upstream.read(5) == b"hello"
        upstream.send(OK)
        await finished(client, answer.fields["location"])

    in_plane(test, **queued(tmp_path))


def test_always_stores_what_could_be_delivered(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        answer = await post(client)
        assert answer.status == 202
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(OK)
        assert (await finished(client, answer.fields["location"]))["status"] == "done"

    in_plane(test, **queued(tmp_path, when="always"))


def test_a_repeated_request_with_a_key_is_stored_once(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        head = POST + b"Idempotency-Key: k\r\n"
        first = await post(client, head)
        again = await post(client, head)
        assert (first.status, again.status) == (202, 202)
        assert first.fields["location"] == again.fields["location"]
        reused = await post(client, head, b"other")
        assert (reused.status, reused.fields["x-sidecar-error"]) == (400, "bad_request")
        other = await post(client, POST.replace(b"/tasks", b"/else") + b"Idempotency-Key: k\r\n")
        assert other.fields["location"] != first.fields["location"]
        back(plane)
        for _ in range(2):
            upstream = await plane.accepted()
            await upstream.read_until(b"hello")
            upstream.send(OK + b"" if _ else OK)
            upstream.close()
        await finished(client, first.fields["location"])
        # The upstream is well, and this one was delivered: it must not be twice.
        late = await post(client, head)
        assert (late.status, json.loads(late.body)["status"]) == (202, "done")
        assert late.fields["location"] == first.fields["location"]
        assert outcomes(plane)["queued"] == 2
        assert outcomes(plane)["repeated"] == 2
        await finished(client, other.fields["location"])

    in_plane(test, **queued(tmp_path))


def test_a_peers_sidecar_without_its_app(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        plane.endpoints(sidecars=True)
        client, upstream = await plane.request(POST + b"\r\nhello")
        await upstream.read_until(b"hello")
        upstream.send(b"HTTP/1.1 502 Bad Gateway\r\nX-Sidecar-Error: connect_failed\r\nContent-Length: 2\r\n\r\nno")
        answer = await client.answer()
        assert answer.status == 202
        for _ in range(2):
            await upstream.read_until(b"hello")
            if _:
                upstream.send(OK)
            else:
                upstream.send(b"HTTP/1.1 503 Busy\r\nX-Sidecar-Error: no_endpoints\r\nContent-Length: 2\r\n\r\nno")
        assert (await finished(client, answer.fields["location"]))["status"] == "done"

    in_plane(test, **queued(tmp_path))


def test_an_error_of_the_app_is_its_answer(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(POST + b"\r\nhello")
        await upstream.read_until(b"hello")
        upstream.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno")
        assert (await client.answer()).status == 503
        assert outcomes(plane) == {}

    in_plane(test, **queued(tmp_path))


def test_a_full_queue_refuses_as_if_there_were_none(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        statuses = [(await post(client)).status for _ in range(4)]
        assert statuses == [202, 202, 502, 502]
        assert outcomes(plane)["refused"] == 2
        plane.listener.queue.pause()

    in_plane(test, **queued(tmp_path, max_bytes=1500))


def test_a_disk_that_takes_nothing_makes_no_false_202(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        database = plane.listener.queue._database
        monkeypatch.setattr(database, "put", full)
        answer = await post(client)
        assert (answer.status, answer.fields["x-sidecar-error"]) == (502, "connect_failed")
        monkeypatch.undo()
        await until(lambda: not plane.listener.queue.store.problem, "it works again")
        assert (await post(client)).status == 202
        plane.listener.queue.pause()

    in_plane(test, **queued(tmp_path))


def test_in_order_what_comes_later_queues_behind(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        locations = [(await post(client, body=b"a%d..." % n)).fields["location"] for n in range(3)]
        back(plane)
        upstream = await plane.accepted()
        await upstream.read_until(b"...")
        late = await post(client, body=b"late!")
        assert late.status == 202
        bodies = []
        upstream.send(OK)
        for _ in range(3):
            await upstream.head()
            bodies.append(await upstream.read(5))
            upstream.send(OK)
        assert bodies == [b"a1...", b"a2...", b"late!"]
        for location in (*locations, late.fields["location"]):
            assert (await finished(client, location))["status"] == "done"

    in_plane(test, **queued(tmp_path, in_order=True))


def test_an_answer_to_a_delivery_that_was_lost_is_tried_again_so_often(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        answer = await post(client)
        for _ in range(2):
            upstream = await plane.accepted()
            await upstream.read_until(b"hello")
            upstream.reset()
        status = await finished(client, answer.fields["location"])
        assert (status["status"], status["reason"]) == ("failed", "upstream_reset")
        outcome = await ask(client, answer.fields["location"] + "/outcome")
        assert says(outcome, 502, "upstream_reset")

    in_plane(test, **queued(tmp_path, when="always", attempts=2))


def test_what_could_not_be_delivered_in_time_has_failed(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        answer = await post(client)
        queue = plane.listener.queue
        queue.wall = lambda: 2e9 + 86400
        status = await finished(client, answer.fields["location"])
        assert (status["status"], status["reason"]) == ("failed", "expired")
        assert says(await ask(client, answer.fields["location"] + "/outcome"), 504, "expired")

    in_plane(test, **queued(tmp_path))


@pytest.mark.parametrize("path", ["/.sidecar/queue/", "/.sidecar/queue/x", "/.sidecar/queue/x/outcome"])
def test_the_door(tmp_path: Path, path: str) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        assert says(await ask(client, path), 404, "not_found")
        assert says(await ask(client, path, "DELETE"), 405, "method_not_allowed")

    in_plane(test, **queued(tmp_path))


@pytest.mark.parametrize(
    "request_", [POST + b"Idempotency-Key: k\r\n\r\nhello", b"GET /.sidecar/queue/x HTTP/1.1\r\nHost: a\r\n\r\n"]
)
def test_a_disk_that_does_not_say_what_it_has_holds_up_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        await post(client, POST + b"Idempotency-Key: other\r\n")
        asked: list[object] = []
        monkeypatch.setattr(plane.listener.queue, "find", lambda *what: asked.append(what))
        client.send(request_)
        await until(lambda: asked, "it waits for the disk")
        plane.advance(5.1)
        assert says(await client.answer(), 504, "timeout")

    in_plane(test, **queued(tmp_path), timeout=TimeoutSettings(request=5))


def test_a_client_that_leaves_meanwhile(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        client.send(POST + b"\r\nhe")
        await until(lambda: plane.stats.bytes_in == 2, "a part of the body")
        client.reset()
        await until(lambda: not plane.stats.active, "it is over")
        assert outcomes(plane) == {}

    in_plane(test, **queued(tmp_path))


def test_a_large_answer_is_not_kept(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        answer = await post(client)
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000)
        status = await finished(client, answer.fields["location"])
        assert status["answer"] == {"status": 200, "whole": False}
        assert says(await ask(client, status["outcome"]), 410, "not_kept")

    in_plane(test, **queued(tmp_path, when="always", max_body=1000))


def test_inbound_the_app_hears_once_who_asked(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        answer = await post(client, POST + b"X-Forwarded-For: 10.0.0.9\r\n")
        assert answer.status == 202
        back(plane)
        upstream = await plane.accepted()
        head = await upstream.head()
        assert b"\r\nx-forwarded-for: 10.0.0.9, 127.0.0.1\r\n" in head
        assert head.lower().count(b"x-forwarded-for") == 1
        await upstream.read(5)
        upstream.send(OK)
        assert (await finished(client, answer.fields["location"]))["status"] == "done"

    in_plane(test, inbound=True, queue=QueueSettings(path=str(tmp_path)))


def test_what_is_under_way_may_finish_when_no_more_is_sent(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        first = await post(client)
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        plane.listener.stop_work()
        second = await post(client)
        assert second.status == 202
        upstream.send(OK)
        assert (await finished(client, first.fields["location"]))["status"] == "done"
        assert json.loads((await ask(client, second.fields["location"])).body)["status"] == "queued"
        assert plane.stats.active == 0

    in_plane(test, **queued(tmp_path, when="always"))


def test_what_waits_is_sent_after_a_restart(tmp_path: Path) -> None:
    locations = []

    async def before(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        locations.append((await post(client)).fields["location"])

    async def after(plane: Plane) -> None:
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(OK)
        client = await plane.connect()
        assert (await finished(client, locations[0]))["status"] == "done"

    in_plane(before, **queued(tmp_path))
    in_plane(after, **queued(tmp_path))


def test_no_more_at_once_than_is_allowed_and_slowly_at_first(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        locations = [(await post(client)).fields["location"] for _ in range(6)]
        first = await plane.accepted()
        await first.read_until(b"hello")
        assert len(plane.upstream.peers) == 1
        first.send(OK)
        others = [first, await plane.accepted()]
        for peer in others:
            await peer.read_until(b"hello")
        assert plane.stats.active == 2
        for peer in others:
            peer.send(OK)
        while plane.listener.queue.stats.outcomes["delivered"] != 6:
            for peer in plane.upstream.peers:
                if b"hello" in peer.buffer:
                    peer.buffer.clear()
                    peer.send(OK)
            assert plane.stats.active <= 2
            await client.wait(lambda: True, "a moment")
            assert (await ask(client, locations[0])).status == 200

    in_plane(test, **queued(tmp_path, when="always", concurrency=2))


def test_limits_pace_the_deliveries_and_not_what_is_taken_in(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        answers = [await post(client) for _ in range(2)]
        assert [it.status for it in answers] == [202, 202]
        upstream = await plane.accepted()
        await upstream.read_until(b"hello")
        upstream.send(OK)
        assert (await finished(client, answers[0].fields["location"]))["status"] == "done"
        await until(lambda: plane.stats.rejected["rate_limited"], "the second one has to wait")
        plane.advance(0.2)
        await upstream.read_until(b"hello")
        upstream.send(OK)
        assert (await finished(client, answers[1].fields["location"]))["status"] == "done"
        assert "tried" not in outcomes(plane)

    in_plane(test, **queued(tmp_path, when="always"), rate_limit=RateLimitSettings(rate=10.0, burst=1))


def test_an_app_that_is_busy_gets_it_later_and_others_meanwhile(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        locations = [(await post(client, body=body)).fields["location"] for body in (b"first", b"other")]
        upstream = await plane.accepted()
        bodies = []
        for answer in (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", OK, OK):
            await upstream.head()
            bodies.append(await upstream.read(5))
            upstream.send(answer)
        assert bodies == [b"first", b"other", b"first"]
        status = await finished(client, locations[0])
        assert (status["status"], status["attempts"]) == ("done", 0)

    in_plane(test, **{**queued(tmp_path, when="always", attempts=1), "retry": RetrySettings(max_attempts=1)})


def test_requests_in_a_row_on_one_connection(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        client.send((POST + b"\r\nhello") * 3)
        locations = {(await client.answer()).fields["location"] for _ in range(3)}
        assert len(locations) == 3
        assert client.buffer == b""

    in_plane(test, **queued(tmp_path))


def test_an_old_client(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        client.send(b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello")
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (202, "close")
        await client.gone()

    in_plane(test, **queued(tmp_path))


def test_a_traced_request_keeps_its_trace(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        assert (await post(client, POST + b"traceparent: " + parent + b"\r\n")).status == 202
        back(plane)
        upstream = await plane.accepted()
        assert b"\r\ntraceparent: " + parent + b"\r\n" in await upstream.head()
        await upstream.read(5)
        upstream.send(OK)
        await until(lambda: "delivered" in outcomes(plane), "it is delivered")

    in_plane(test, **queued(tmp_path))


def test_routes_have_queues_and_bodies_of_their_own(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        away(plane)
        client = await plane.connect()
        assert (await post(client)).status == 202
        assert (await post(client, POST.replace(b"/tasks", b"/else"))).status == 502
        lanes = plane.listener.queue.lanes
        assert [json.loads(name)[0] for name, lane in lanes.items() if lane.count] == ["/tasks"]

    route = route_of(match=Match(path="/tasks"), queue=QueueSettings(path=str(tmp_path)))
    in_plane(test, routes=(route,), retry=None, circuit_breaker=None)
