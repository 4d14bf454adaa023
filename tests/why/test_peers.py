"""Asking other sidecars: whatever stands there, the answer is short, soon, and plain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli.why import Paint, story
from sidecar.core.operations import Call
from sidecar.core.secret import NO_SECRET, Secret
from sidecar.why.operations import Api
from sidecar.why.peer_answer import BadAnswer, read
from sidecar.why.peers import BUSY, MOST_BYTES, Peers
from sidecar.why.ring import Ring
from sidecar.why.told import MOST_EVENTS, as_one, next_sidecars
from support.processes import free_port

STORY = {"hops": [{"service": "shop", "failed": True, "cause": "c", "setting": "s"}], "events": []}


def where(server: asyncio.Server) -> str:
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answering(answer: bytes, token: Secret = NO_SECRET) -> tuple[Any, bytes]:
    """What is said by a peer that answers that, and what it was asked."""
    asked = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    async def main() -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = where(server)
        said = await Peers(lambda: token, lambda: 5.0).ask([address], "an id", 4)
        server.close()
        return said[address]

    return asyncio.run(main()), bytes(asked)


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def test_a_story() -> None:
    said, asked = answering(http(200, json.dumps(STORY).encode()))
    assert said == STORY
    assert asked.startswith(b"GET /why/an%20id?hops=3 HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"authorization" not in asked


def test_the_token_is_proven_and_not_sent() -> None:
    _, asked = answering(http(404, b"{}"), Secret("XsecretX"))
    assert b"XsecretX" not in asked
    assert b"\r\nauthorization: Sidecar 5:" in asked


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(404, b"{}"), "its sidecar remembers nothing of this request"),
        (http(401, b"{}"), "its sidecar has another admin token"),
        (http(302, b""), "its sidecar answered 302"),
        (http(200, b"[]"), "what it answered is no story"),
        (http(200, b"[" * 5000), "what it answered is no story"),
        (http(200, b" " * MOST_BYTES), "its sidecar could not be asked: ValueError"),
        (b"SSH-2.0\r\n", "its sidecar could not be asked: ValueError"),
        (b"", "its sidecar could not be asked: ValueError"),
    ],
)
def test_what_is_no_story(answer: bytes, said: str) -> None:
    assert answering(answer)[0] == said


def test_nobody_is_there() -> None:
    address = f"127.0.0.1:{free_port()}"
    said = asyncio.run(Peers(lambda: NO_SECRET, lambda: 0.0).ask([address], "a", 4))
    assert "could not be asked" in str(said[address])


def test_who_is_silent_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.why.peers.SECONDS", 0.01)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other side has had enough
        writer.close()

    async def main() -> Mapping[str, Any]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        said = await Peers(lambda: NO_SECRET, lambda: 0.0).ask([where(server)], "a", 2)
        server.close()
        return said

    assert list(asyncio.run(main()).values()) == ["its sidecar did not answer within 0.005 s"]


def test_a_story_that_leads_back_here_ends() -> None:
    """The second time that the same id is asked for meanwhile, nobody is asked."""
    peers = Peers(lambda: NO_SECRET, lambda: 0.0)
    inner: list[Mapping[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        inner.append(await peers.ask(["127.0.0.1:1"], "a", 4))
        writer.write(http(200, json.dumps(STORY).encode()))
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = where(server)
        assert (await peers.ask([address], "a", 4))[address] == STORY
        server.close()

    asyncio.run(main())
    assert inner == [{"127.0.0.1:1": BUSY}]


def test_a_sidecar_that_a_story_leads_back_to_tells_it_once() -> None:
    ring = Ring(10)
    attempt = {"at_ms": 1.0, "what": "attempt", "endpoint": "10.0.0.7:80"}
    ring.put({"request_id": "a", "began": 1.0, "direction": "outbound", "upstream": "shop", "error": "", "status": 503,
              "events": [attempt]})  # fmt: skip
    peers = Peers(lambda: NO_SECRET, lambda: 0.0)
    api = Api(ring, "front", peers)

    async def read_() -> bytes:
        return b""

    def asked(*query: tuple[str, str]) -> Any:
        answer = asyncio.run(api.why(Call({"request_id": "a"}, query, None, "", read_)))
        return len(answer.data["hops"]), len(answer.data["events"])

    assert asked() == asked(("hops", "3")) == (1, 1)
    peers._asking.add("a")
    assert asked(("hops", "3")) == (0, 0)
    assert asked() == (1, 1)


def test_two_who_ask_for_one_id_at_a_time() -> None:
    peers = Peers(lambda: NO_SECRET, lambda: 0.0)
    peers._asking.add("a")
    said = asyncio.run(peers.ask(["127.0.0.1:1"], "a", 4))
    assert said == {"127.0.0.1:1": BUSY}


def test_no_more_hops() -> None:
    ask: Callable[..., Awaitable[Mapping[str, Any]]] = Peers(lambda: NO_SECRET, lambda: 0.0).ask
    assert asyncio.run(ask(["127.0.0.1:1"], "a", 0)) == {}  # type: ignore[arg-type]


def test_of_what_a_peer_says_only_what_has_its_form_is_taken_over() -> None:
    said = {
        "hops": [{"service": "shop", "status": True, "cause": 7}, {"service": None}, []],
        "events": [
            {"at_ms": 1.5, "what": "attempt", "error": [], "candidates": [{"address": "a", "deep": {}}, "text"]},
            {"at_ms": True, "what": "attempt"},
            {"at_ms": 1, "what": None},
            "attempt",
        ],
    }
    assert read(json.dumps(said).encode()) == {
        "hops": [{"service": "shop"}],
        "events": [{"at_ms": 1.5, "what": "attempt", "candidates": [{"address": "a"}, {}]}],
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda it: st.lists(it) | st.dictionaries(st.text(), it),
)


@given(st.fixed_dictionaries({"hops": st.lists(JSON), "events": st.lists(JSON)}) | JSON)
def test_whatever_a_peer_says_can_be_told(said: Any) -> None:
    attempt = {"at_ms": 1.0, "what": "attempt", "endpoint": "10.0.0.7:80", "admin": "10.0.0.7:15000"}
    story = {"request_id": "a", "began": 1.0, "direction": "outbound", "upstream": "shop", "error": "", "status": 503,
             "events": [attempt]}  # fmt: skip
    assert next_sidecars([story]) == ["10.0.0.7:15000"]
    try:
        answer: Any = read(json.dumps(said).encode())
    except BadAnswer as error:
        answer = str(error)
    told = as_one("a", "front", [story], {"10.0.0.7:15000": answer})
    assert json.dumps(told)
    assert told["cause"]


@pytest.mark.parametrize(
    "said",
    [
        {"hops": [{"service": "front", "failed": True, "cause": "no setting"}], "events": []},
        {"hops": [{"service": "shop", "duration_ms": "1", "attempts": True, "status": "x"}], "events": []},
        {"hops": [{"service": "shop", "failed": True, "cause": 1, "setting": 2}], "events": []},
        {"hops": [], "events": [{"at_ms": 1, "what": "x", "service": [{}]}, {"at_ms": 1, "what": "x", "service": 1}]},
    ],
)
def test_what_a_peer_says_wrong_does_not_hide_the_story(said: Any) -> None:
    attempt = {"at_ms": 1.0, "what": "attempt", "endpoint": "10.0.0.7:80", "admin": "10.0.0.7:15000"}
    own = {"request_id": "a", "began": 1.0, "direction": "outbound", "upstream": "shop", "error": "", "status": 503,
           "events": [attempt]}  # fmt: skip
    told = as_one("a", "front", [own], {"10.0.0.7:15000": read(json.dumps(said).encode())})
    assert "to shop" in "\n".join(story(told, Paint(False)))


def test_the_deepest_hop_that_failed_has_the_cause() -> None:
    attempt = {"at_ms": 1.0, "what": "attempt", "connecting_ms": 2.0, "endpoint": "e", "admin": "a:1", "status": 503}
    story = {"request_id": "a", "began": 1.0, "direction": "outbound", "upstream": "shop", "error": "", "status": 503,
             "events": [attempt]}  # fmt: skip
    event = {"at_ms": 0.5, "what": "refused", "service": "shop"}
    fine = {"service": "deep", "failed": False, "cause": "it went well", "setting": None}
    told = as_one("a", "front", [story], {"a:1": {"hops": [*STORY["hops"], fine], "events": [event]}})
    assert (told["cause"], told["setting"], told["cause_at"]) == ("in the sidecar of shop: c", "s", "shop")
    assert [(it["at_ms"], it["service"]) for it in told["events"]] == [(1.0, "front"), (3.5, "shop")]
    silent = as_one("a", "front", [story], {"a:1": "its sidecar did not answer within 1 s"})
    assert silent["cause_at"] == "front"
    assert silent["hops"][1] == {
        "service": "shop", "at": "a:1", "problem": "its sidecar did not answer within 1 s"
    }  # fmt: skip


def test_a_peer_that_poses_as_this_sidecar() -> None:
    attempt = {"at_ms": 1.0, "what": "attempt", "endpoint": "e", "admin": "a:1", "status": 503}
    story = {"request_id": "a", "began": 1.0, "direction": "outbound", "upstream": "shop", "error": "", "status": 503,
             "events": [attempt]}  # fmt: skip
    posing = {"service": "front", "failed": True, "cause": "c"}
    told = as_one("a", "front", [story], {"a:1": {"hops": [posing], "events": []}})
    assert (told["cause"], told["setting"]) == ("c", None)


def test_peers_cannot_push_out_what_was_seen_here() -> None:
    attempts = [{"at_ms": 1.0, "what": "attempt", "endpoint": "e", "admin": f"a:{n}"} for n in range(1, 4)]
    story = {"request_id": "a", "began": 1.0, "direction": "outbound", "upstream": "shop", "error": "", "status": 503,
             "events": attempts}  # fmt: skip
    flood = {"hops": [], "events": [{"at_ms": -1e9, "what": "noise"}] * 200}
    told = as_one("a", "front", [story], {f"a:{n}": flood for n in range(1, 4)})
    assert len(told["events"]) == MOST_EVENTS
    assert [it["what"] for it in told["events"]][-3:] == ["attempt"] * 3
