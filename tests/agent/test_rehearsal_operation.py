"""``POST /rehearse``, as its callers see it: one at a time, and what went wrong is told."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from sidecar.agent.rehearsal import operation
from sidecar.agent.rehearsal.operation import Rehearse
from sidecar.core.decisions import Decisions
from sidecar.core.operations import Answer, Call
from support.patience import until


def call(body: bytes = b"service: {name: edge}") -> Call:
    async def read() -> bytes:
        return body

    return Call({}, (), "127.0.0.1", "", read)


def rehearse(records: int = 10) -> Rehearse:
    return Rehearse(Decisions(records), lambda: {"service": {"name": "edge"}})


def asked(it: Rehearse, body: bytes = b"service: {name: edge}") -> Answer:
    return asyncio.run(it.rehearse(call(body)))


def process(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """In place of the rehearsal's own: it reads all that it is given, and runs this."""
    monkeypatch.setattr(operation, "_COMMAND", ("-c", f"import sys; sys.stdin.buffer.read(); {code}"))


def test_what_is_no_text_or_not_recorded_is_refused_at_once() -> None:
    assert asked(rehearse(), b"\xff\xfe").status == 400
    assert asked(rehearse(records=0)).status == 503


def test_a_result_and_a_refusal_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    process(monkeypatch, """print('{"share": 0.5}'); print('{"result": {"decisions": 0}}')""")
    assert asked(rehearse()) == Answer({"decisions": 0})
    process(monkeypatch, """print('{"refused": "no", "problems": [{"path": "service", "message": "no"}]}')""")
    found = asked(rehearse())
    assert (found.status, found.data["problems"][0]["path"]) == (422, "service")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("""print('{"failed": "ProtocolError: odd"}')""", "ProtocolError: odd"),
        ("sys.exit(3)", "lacked time or memory"),
        ("print('[')", "Expecting value"),
    ],
)
def test_what_went_wrong_is_told_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: str, says: str
) -> None:
    process(monkeypatch, code)
    with caplog.at_level(logging.WARNING, "sidecar.rehearsal"):
        found = asked(rehearse())
    assert (found.status, found.data["error"]) == (500, "internal")
    assert says in found.data["message"]
    assert says in caplog.text


def test_one_is_under_way_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    process(monkeypatch, """print('{"share": 0.5}', flush=True); import time; time.sleep(300)""")

    async def main() -> None:
        it = rehearse()
        first = asyncio.create_task(it.rehearse(call()))
        await until(lambda: it._share == 0.5, "it is half done")
        assert (await state(it))["share"] == 0.5
        assert (await it.rehearse(call())).status == 409
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await state(it) == {"records": 10, "remembered": 0, "running": False, "share": 0.0}

    async def state(it: Rehearse) -> Any:
        return (await it.state(call())).data

    asyncio.run(main())


def test_one_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    process(monkeypatch, "import time; time.sleep(300)")
    monkeypatch.setattr(operation, "SECONDS", 0.2)
    assert "took more than 0.2 s" in asked(rehearse()).data["message"]
