"""Whatever is asked by whom, and whatever the upstream says of its answers: nobody gets what is somebody else's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.cache import CacheSettings
from support.examples import examples
from support.http import Client, Stage

_WHO = st.sampled_from([None, ("authorization", "a"), ("authorization", "b"), ("cookie", "a"), ("X-Api-Key", "b")])
_CONTROL = st.sampled_from(
    ["max-age=60", "max-age=60, public", "s-maxage=60", "private, max-age=60", "max-age=1, must-revalidate", "no-cache"]
)
_CONDITION = st.sampled_from([None, 'if-none-match: "v"', "cache-control: no-cache", "cache-control: max-stale"])
#: At once: who asks, in which language, with which condition. Then: what the upstream says of all these, the seconds
#: that pass.
_ROUND = st.tuples(
    st.lists(st.tuples(_WHO, st.sampled_from(["de", "en"]), _CONDITION), min_size=1, max_size=4),
    _CONTROL, st.sampled_from([0.0, 2.0]), st.booleans(),
)  # fmt: skip
_HOSTS = itertools.count()


@pytest.fixture(scope="module", params=["never", "apart"])
def stage(request: Any) -> Iterator[Stage]:
    it = Stage(cache=CacheSettings(ttl=60.0, authorised=request.param), retry=None, circuit_breaker=None)
    yield it
    it.over()


@settings(max_examples=examples(120), deadline=None)
@given(rounds=st.lists(_ROUND, min_size=1, max_size=4))
def test_nobody_gets_what_is_somebody_elses(stage: Stage, rounds: Any) -> None:
    host = f"h{next(_HOSTS)}"
    clients: list[tuple[Client, Any, str, Any]] = []
    for asked, control, seconds, ill in rounds:
        for who, language, condition in asked:
            client = stage.client()
            lines = ["GET / HTTP/1.1", f"host: {host}", f"accept-language: {language}"]
            lines += [f"{who[0]}: {who[1]}"] if who else []
            lines += [condition] if condition else []
            client.says("\r\n".join([*lines, "", ""]).encode())
            clients.append((client, who, language, condition))
        _answer(stage, control, ill)
        for client, who, language, condition in clients:
            answer = client.message()
            assert answer is not None
            if answer.status == 304:
                assert condition == 'if-none-match: "v"'
            elif answer.status == 200:
                whose, tongue, said = answer.body.decode().split("|")
                assert tongue == language
                assert whose == str(who) or "public" in said or "s-maxage" in said
                assert whose == str(who) or "private" not in said
            client.breaks()
        clients.clear()
        stage.clients.clear()
        stage.advance(seconds)


def _answer(stage: Stage, control: str, ill: bool) -> None:
    """The upstream answers everything that it is asked, and says whose answers they are."""
    while asked := stage.asked():
        for server in asked:
            fields = server.hears().fields
            names = ("authorization", "cookie", "x-api-key")
            who = next(((name, fields[name]) for name in names if name in fields), None)
            who = ("X-Api-Key", who[1]) if who and who[0] == "x-api-key" else who
            if ill:
                server.answers(503, b"")
            else:
                body = f"{who}|{fields['accept-language']}|{control}".encode()
                server.answers(200, body, f"cache-control: {control}", "vary: accept-language", 'etag: "v"')
        stage.loop.settle()
