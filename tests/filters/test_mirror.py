"""Copies of requests go to another upstream: a share of them, after the original, and whatever becomes of them."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.fallback import StepSettings
from sidecar.config.traffic import Match
from sidecar.core.limits import Limits
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.mirror import Mirror, MirrorSettings
from sidecar.http.mirror import MOST_ANSWER
from sidecar.http_queue.settings import QueueSettings
from support.configs import config_of, problem_of
from support.http import Message, Server, Stage
from support.ports import route_of


class Mirrored(Stage):
    """An upstream that is mirrored to another one, ``shadow``."""

    def __init__(self, *, shadow: dict[str, Any] | None = None, routes: Any = (), **more: Any) -> None:
        config = MirrorSettings(**{"upstream": "shadow", **more})
        super().__init__(mirror=config, retry=None, circuit_breaker=None, routes=routes, why=True)
        self.shadow = self.other("shadow", **{"retry": None, "circuit_breaker": None, **(shadow or {})})

    def serves(self, line: str = "GET /x", *fields: str, body: bytes = b"") -> Message:
        """What the upstream hears of a request, which it answers."""
        client = self.asks(line, *fields, body=body)
        heard = self.answers()
        assert client.gets().status == 200
        return heard

    def answers(self, status: int = 200) -> Message:
        upstream = self.upstream()
        heard = upstream.hears()
        upstream.answers(status)
        return heard

    def copy(self) -> Server | None:
        """Where a copy was sent, that nobody has looked at."""
        found = self.asked()
        assert len(found) < 2
        return found[0] if found else None

    @property
    def counted(self) -> dict[str, int]:
        return dict(self.stats.mirrored)


def test_a_copy_is_sent_when_the_original_has_its_answer() -> None:
    it = Mirrored()
    client = it.asks("POST /a?b=1", "x-tenant: 7", body=b"hello")
    upstream = it.upstream()
    original = upstream.hears()
    assert it.copy() is None, "not before"
    upstream.answers(200, b"good")
    assert client.gets().body == b"good"
    shadow = it.upstream()
    copy = shadow.hears()
    assert (copy.method, copy.target, copy.body) == ("POST", "/a?b=1", b"hello")
    assert copy.fields["x-tenant"] == "7"
    assert copy.fields["x-sidecar-mirrored"] == original.fields["x-request-id"]
    assert copy.fields["x-request-id"] != original.fields["x-request-id"]
    assert copy.fields["traceparent"][:35] == original.fields["traceparent"][:35], "it is in the same trace"
    assert it.filter(Mirror).view() == {"upstream": "shadow", "under_way": 1}
    shadow.answers(200, b"thrown away")
    assert client.gets_nothing()
    assert it.filter(Mirror).view() == {"upstream": "shadow", "under_way": 0, "answered": 1}
    assert it.shadow.stats.requests == {("POST", 200): 1}
    assert (it.shadow.stats.active, it.stats.requests) == (0, {("POST", 200): 1})
    it.serves()
    assert it.answers()
    assert it.accepted == [upstream, shadow], "its connection is kept"
    it.over()


def test_an_app_behind_a_sidecar_knows_a_copy_by_its_trace_alone() -> None:
    it = Mirrored()
    original = it.serves()
    copy = it.upstream().hears()
    assert b"x-sidecar-mirrored" in copy.head
    behind = Stage(inbound=True)
    behind.client().says(copy.head)
    heard = behind.upstream().hears()
    assert "x-sidecar-mirrored" not in heard.fields, "any client could have sent it"
    assert heard.fields["traceparent"][:35] == original.fields["traceparent"][:35]
    assert heard.fields["x-request-id"] == copy.fields["x-request-id"]


@pytest.mark.parametrize("share", [0.1, 0.25, 1.0])
def test_the_share_is_exact(share: float) -> None:
    it = Mirrored(share=share)
    found = 0
    for _ in range(40):
        assert "x-sidecar-mirrored" not in it.serves().fields
        shadow = it.copy()
        if shadow is not None:
            shadow.hears()
            shadow.answers()
            found += 1
    assert found == 40 * share
    assert it.counted == {"answered": found}
    it.over()


def test_a_share_of_nothing_copies_nothing() -> None:
    it = Mirrored(share=0.0)
    it.serves()
    assert (it.copy(), it.counted) == (None, {})
    it.over()


@pytest.mark.parametrize("how", ["500", "503", "reset", "refused", "malformed", "gone"])
def test_what_becomes_of_a_copy_is_nothing_to_the_original(how: str) -> None:
    it = Mirrored()
    if how == "refused":
        it.loop.dialled = lambda host, port: "refuse" if host == "10.0.0.2" else "accept"
    if how == "gone":
        it.shadow.draining = True
    client = it.asks()
    it.answers()
    assert client.gets().status == 200
    shadow = it.copy()
    if shadow is not None:
        shadow.hears()
        if how == "reset":
            shadow.breaks()
        elif how == "malformed":
            shadow.says(b"nonsense\r\n\r\n")
        else:
            shadow.answers(int(how))
    it.loop.settle()
    assert it.counted == {"failed": 1}
    del it.others["shadow"]
    client.asks()
    it.answers()
    assert client.gets().status == 200
    assert {(story["status"], story["error"]) for story in it.stories if story["upstream"] == "up"} <= {(200, "")}
    it.over()


def test_a_shadow_that_is_silent_holds_up_nobody() -> None:
    it = Mirrored(max_requests=2)
    client = it.client()
    for _ in range(5):
        client.asks()
        heard = [server for server in it.asked() if "x-sidecar-mirrored" not in (message := server.hears()).fields]
        assert message
        heard[0].answers()
        assert client.gets().status == 200
    assert it.counted == {"dropped": 3}
    assert it.filter(Mirror).view()["under_way"] == 2
    it.advance(60)
    assert it.counted == {"dropped": 3, "failed": 2}, "it has had its time"
    it.over()


def test_what_is_not_at_hand_is_not_copied() -> None:
    it = Mirrored(max_body=4)
    it.serves("POST /a", body=b"1234")
    shadow = it.upstream()
    assert shadow.hears().body == b"1234"
    shadow.answers()
    it.serves("POST /a", body=b"12345")
    assert it.counted == {"answered": 1, "too_large": 1}
    client = it.client()
    client.says(b"POST /a HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\n12")
    upstream = it.asked()[0]
    upstream.heard()
    upstream.answers(200)
    assert it.counted == {"answered": 1, "too_large": 1, "incomplete": 1}
    assert it.copy() is None
    it.over()


def test_more_is_kept_of_a_body_where_more_is_to_be_copied() -> None:
    body = b"x" * 100_000
    for most, outcome in ((65536, {"too_large": 1}), (200_000, {"answered": 1})):
        it = Mirrored(max_body=most)
        client = it.asks("POST /a", body=body)
        it.answers()
        assert client.gets().status == 200
        shadow = it.copy()
        if shadow is not None:
            assert shadow.hears().body == body
            shadow.answers()
        assert it.counted == outcome
        it.over()


def test_a_chunked_body_is_copied_as_it_came() -> None:
    it = Mirrored()
    client = it.client()
    client.says(b"POST /a HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    upstream = it.upstream()
    upstream.hears()
    upstream._unread = b""
    upstream.answers()
    assert client.gets().status == 200
    shadow = it.upstream()
    assert shadow.hears().fields["transfer-encoding"] == "chunked"
    assert shadow._unread == b"3\r\nabc\r\n0\r\n\r\n"
    shadow.answers()
    assert it.counted == {"answered": 1}
    it.over()


def test_a_body_that_is_too_large_for_the_shadow_is_not_sent() -> None:
    it = Mirrored(shadow={"limits": Limits(body=3)})
    it.serves("POST /a", body=b"1234")
    assert (it.copy(), it.counted) == (None, {"failed": 1})
    it.over()


def test_what_never_went_to_the_upstream_is_not_copied() -> None:
    it = Mirrored()
    it.endpoints(0)
    assert it.asks().gets().error == "no_endpoints"
    assert (it.copy(), it.counted) == (None, {})
    it.endpoints(1)
    client = it.asks("GET /a", "connection: upgrade", "upgrade: websocket")
    it.upstream().hears()
    client.transport.lose(ConnectionResetError())
    assert (it.copy(), it.counted) == (None, {})
    it.over()


def test_a_failure_of_the_original_is_copied_as_well() -> None:
    it = Mirrored()
    client = it.asks()
    it.answers(503)
    assert client.gets().status == 503
    assert it.copy() is not None
    it.over()


def test_copies_of_copies_there_are_none() -> None:
    it = Mirrored(shadow={"mirror": MirrorSettings(upstream="up")})
    it.others["up"] = it.listener
    it.serves()
    shadow = it.upstream()
    shadow.hears()
    shadow.answers()
    assert it.copy() is None
    assert (it.counted, dict(it.shadow.stats.mirrored)) == ({"answered": 1}, {})
    it.over()


def leads_to(upstream: str) -> dict[str, Any]:
    """Policies of an upstream that has another one answer when it cannot be reached."""
    return {"fallback": (StepSettings(on=frozenset({"connect_failed"}), upstream=upstream),)}


def test_a_copy_takes_no_fallback_to_another_upstream() -> None:
    it = Mirrored(shadow=leads_to("up"))
    it.others["up"] = it.listener
    it.loop.dialled = lambda host, port: "refuse" if host == "10.0.0.2" else "accept"
    client = it.asks("POST /pay", body=b"7")
    it.answers()
    assert client.gets().status == 200
    assert it.copy() is None, "what has been done is done again there"
    assert (it.counted, dict(it.shadow.stats.fallbacks)) == ({"failed": 1}, {})
    assert (it.stats.active, it.shadow.stats.active) == (0, 0), "a drain waits for nothing"
    it.over()


def test_what_a_fallback_sends_to_a_mirrored_upstream_is_copied_once() -> None:
    it = Stage(**leads_to("shadow"), retry=None, circuit_breaker=None)
    shadow = it.other("shadow", mirror=MirrorSettings(upstream="up"), retry=None, circuit_breaker=None)
    it.others["up"] = it.listener
    it.loop.dialled = lambda host, port: "refuse" if host == "10.0.0.1" else "accept"
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    upstream.answers()
    assert client.gets().status == 200
    assert it.asked() == [], "its copy fails, and that is all"
    assert dict(shadow.stats.mirrored) == {"failed": 1}
    assert (it.stats.active, shadow.stats.active) == (0, 0)
    it.over()


def test_an_answer_is_taken_so_that_its_connection_can_be_kept_but_not_for_ever() -> None:
    it = Mirrored()
    it.serves()
    shadow = it.upstream()
    shadow.hears()
    shadow.says(b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n" + b"x" * (MOST_ANSWER - 1000))
    assert (shadow.connected, it.counted) == (True, {})
    shadow.says(b"x" * 2000)
    assert (shadow.connected, it.counted) == (False, {"answered": 1})
    it.over()


def test_a_drain_waits_for_no_copy_and_none_begins() -> None:
    it = Mirrored()
    it.serves()
    it.upstream().hears()
    assert it.shadow.stats.active == 0
    it.shadow.drain()
    it.serves()
    assert it.copy() is None
    assert it.counted == {"failed": 1}
    it.over()


def test_a_route_has_a_mirror_of_its_own_or_none() -> None:
    it = Mirrored(routes=(route_of(match=Match(path="/no"), mirror=None),))
    it.serves("GET /no")
    assert it.copy() is None
    it.serves("GET /yes")
    assert it.copy() is not None
    it.over()


def test_a_reload_changes_the_settings_of_what_runs() -> None:
    it = Mirrored(share=0.0)
    kept = it.filter(Mirror)
    it.reload(mirror=MirrorSettings(upstream="shadow", share=1.0))
    assert it.filter(Mirror) is kept
    it.serves()
    it.upstream().hears()
    it.reload(mirror=None)
    it.serves()
    assert it.copy() is None
    it.over()


def test_stored_requests_are_not_copied() -> None:
    it = Stage(mirror=MirrorSettings(upstream="shadow"), queue=QueueSettings(path="/nowhere"))
    delivery = it.listener.chain.delivery
    assert delivery is not None
    assert "mirror" not in [each.name for each in delivery.filters]
    assert "mirror" in [each.name for each in it.listener.chain.filters]


def test_the_shadows_own_limits_are_for_copies_too() -> None:
    it = Mirrored(shadow={"bulkhead": BulkheadSettings(max_requests=1, max_pending=0)})
    it.serves()
    it.upstream().hears()
    it.serves()
    assert it.counted == {"failed": 1}
    it.over()


HEAD = "service: {name: tasks}\nregistry: none\nupstreams:\n  shadow: {bind: 127.0.0.1:2, endpoints: ['10.0.0.2:1']}\n"


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("mirror: {upstream: shadw}", "mirror.upstream", "is no upstream of this sidecar"),
        ("mirror: {upstream: a}", "mirror.upstream", "is the upstream itself"),
        ("mirror: {share: 10%}", "mirror.upstream", "is missing"),
        ("mirror: {upstream: shadow, share: 2}", "mirror.share", "is out of range"),
        ("mirror: {upstream: shadow, max_body: 1GiB}", "mirror.max_body", "is out of range"),
        ("mirror: {upstream: shadow}, protocol: tcp", "mirror", "is not for protocol tcp"),
        ("routes: [{match: {path: /a}, mirror: {upstream: b}}]", "routes[0].mirror.upstream", "is no upstream"),
    ],
)
def test_what_does_not_fit(text: str, path: str, message: str) -> None:
    found = problem_of(f"{HEAD}  a: {{bind: 127.0.0.1:1, endpoints: ['10.0.0.1:1'], {text}}}\n")
    assert found.path == f"upstreams.a.{path}"
    assert found.message.startswith(message), found


def test_what_is_read() -> None:
    text = "mirror: {upstream: shadow, share: 10%, max_body: 64KiB}"
    config = config_of(f"{HEAD}  a: {{bind: 127.0.0.1:1, endpoints: ['10.0.0.1:1'], {text}}}\n")
    found = config.upstreams["a"].policies["mirror"]
    assert found == MirrorSettings(upstream="shadow", share=0.1, max_body=65536, max_requests=100)
    assert config.upstreams["shadow"].policies["mirror"] is None
