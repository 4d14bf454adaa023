"""Checks of ``sidecar diagnose``, one by one; against real breakages: tests/acceptance/test_diagnose.py."""

from __future__ import annotations

import asyncio
import json
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from sidecar.agent import checklist, diagnosis, host_checks, upstream_checks
from sidecar.agent.findings import good, none, some
from sidecar.cli.diagnose import lines
from sidecar.cli.main import main
from sidecar.core.operations import Call, NotKnown
from sidecar.endpoints.ping import NoAnswer, ping
from support.agents import RunningAgent, upstream
from support.live import Origin, ok, run
from support.patience import PATIENCE


async def answered() -> Any:
    return ok(b"fine")


def call(**query: str) -> Call:
    async def read() -> bytes:
        return b""

    return Call({}, tuple(query.items()), "127.0.0.1", "", read)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines are busy: what is well may take its time."""
    for module, name in ((upstream_checks, "ANSWER"), (checklist, "SECONDS"), (checklist, "ASKING")):
        monkeypatch.setattr(module, name, PATIENCE)


@pytest.fixture
def no_shortage_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are the process's: another test may have told of a shortage a moment ago."""
    monkeypatch.setattr(host_checks, "LATELY", -1.0)


@pytest.mark.usefixtures("no_shortage_before")
def test_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def asked() -> None:
        async with Origin(lambda request: answered()) as app:
            well = {"a": upstream(f"127.0.0.1:{app.port}"), "b": upstream(f"127.0.0.1:{app.port}", protocol="tcp")}
            async with RunningAgent(tmp_path, upstreams=well) as it:

                async def diagnose(*more: str) -> tuple[int, str]:
                    arguments = ["diagnose", *more, "--admin", f"http://{it.agent.admin_address}"]
                    return await asyncio.to_thread(main, arguments), capsys.readouterr().out

                code, text = await diagnose()
                assert code == 0, text
                assert text.startswith("web (web-")
                assert f"✓ file         {it.file} is what runs\n" in text
                assert "– registry     there is none\n" in text
                assert "✓ answers      all of 1 answer (200)\n" in text
                assert "– answers      over tcp nothing can be asked\n" in text
                assert text.endswith("all is well\n")
                assert "✗" not in text
                code, text = await diagnose("b")
                assert (code, text.count("\n\n"), "None" in text) == (0, 2, False)  # b, and the last line
                own, of_b, _ = text.split("\n\n")
                assert "– disk         nothing is stored" in own
                assert of_b.startswith("b\n")
                code, text = await diagnose("b", "--json")
                found = json.loads(text)
                assert (code, found["well"], found["service"]) == (0, True, "web")
                assert {finding["upstream"] for finding in found["findings"]} == {None, "b"}

    run(asked)


def test_a_peer_that_has_lost_its_app(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "peer").mkdir()
        async with Origin(lambda request: answered()) as app:
            service = {"name": "tasks", "app": f"127.0.0.1:{app.port}", "check": {"interval": "50ms"}}
            async with RunningAgent(tmp_path / "peer", service=service, inbound={"bind": "127.0.0.1:0"}) as peer:
                assert peer.agent.inbound is not None
                where = {"address": f"127.0.0.1:{peer.agent.inbound.address.port}", "sidecar": True}
                async with RunningAgent(tmp_path, upstreams={"tasks": upstream(where)}) as it:  # type: ignore[arg-type]

                    async def found() -> dict[str, Any]:
                        return {one.check: one for one in await checklist.examine(it.agent, "tasks") if one.upstream}

                    well = await found()
                    assert well["peers"].good, well
                    assert well["answers"].good, well
                    await app.__aexit__(None, None, None)
                    lost = await found()
                    assert lost["peers"].good is False
                    assert "answers connect_failed in place of its app" in lost["peers"].evidence
                    assert lost["answers"].good is None
                    assert lost["connect"].good

    run(main)


def test_it_cannot_be_asked_or_there_is_no_such_upstream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "--admin", "127.0.0.1:9"]) == 1
    out = capsys.readouterr().out
    assert "✗ admin  cannot reach http://127.0.0.1:9" in out
    assert "→ is the sidecar running?" in out

    async def asked() -> None:
        async with RunningAgent(tmp_path, admin={"bind": "127.0.0.1:0", "token": "sesame"}) as it:
            url = f"http://{it.agent.admin_address}"
            assert await asyncio.to_thread(main, ["diagnose", "--admin", url, "--json"]) == 1
            (finding,) = json.loads(capsys.readouterr().out)["findings"]
            assert "the admin token is needed" in finding["evidence"]
            assert "the token" in finding["step"]
            token = tmp_path / "token"
            token.write_text("sesame")
            more = ["--admin", url, "--token-file", str(token)]
            assert await asyncio.to_thread(main, ["diagnose", "nobody", *more]) == 2
            assert "no such upstream" in capsys.readouterr().err

    run(asked)


def test_what_is_about_one_thing_is_told_together() -> None:
    findings = [good("file", "x"), good("connect", "x", "b"), none("disk", "x"), good("connect", "x", "a")]
    found = {"service": "web", "id": "web-1", "findings": [it.as_dict() for it in findings]}
    assert [line.split()[-2] for line in lines(found) if line.endswith("  x")] == ["file", "disk", "connect", "connect"]
    assert [line for line in lines(found) if line in ("a", "b", "None")] == ["b", "a"]


def test_one_run_at_a_time_and_those_who_ask_the_same_share_it() -> None:
    async def main() -> None:
        runs: list[str] = []
        going, most = 0, 0

        async def examine(name: str) -> Any:
            nonlocal going, most
            going += 1
            most = max(most, going)
            runs.append(name)
            await asyncio.sleep(0)
            going -= 1
            return [good("file", "fine")]

        handler = diagnosis.Diagnosis("web", "web-1", lambda: ["a"], examine)
        found = await asyncio.gather(*(handler.diagnose(call(upstream=name)) for name in ("", "", "a", "a", "")))
        assert sorted(runs) == ["", "a"]
        assert most == 1
        assert all(answer.data["well"] for answer in found)
        with pytest.raises(NotKnown):
            await handler.diagnose(call(upstream="b"))

    asyncio.run(main())


def test_a_check_that_hangs_or_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checklist, "SECONDS", 0.01)

    async def main() -> None:
        async def hang() -> Any:
            await asyncio.Event().wait()

        async def fail() -> Any:
            raise RuntimeError("with a secret")

        late = await checklist._bounded("disk", hang())
        assert (late.good, late.evidence) == (False, "no result within 0.01 s")
        failed = await checklist._bounded("disk", fail())
        assert (failed.good, failed.evidence) == (False, "the check itself failed: RuntimeError")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("ahead", "good"),
    [((0.0,), True), ((4.0,), True), ((60.0,), False), ((-60.0,), False), ((60.0, 0.0), True), ((), None)],
)
def test_the_clock(tmp_path: Path, ahead: tuple[float, ...], good: bool | None) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path) as it:
            dates = [(f"h{n}", formatdate(time.time() - seconds, usegmt=True)) for n, seconds in enumerate(ahead)]
            found = await host_checks.clock(it.agent, [*dates, ("odd", "yesterday")])
            assert found.good is good, found
            if good is False:
                assert ("ahead of" if ahead[0] > 0 else "behind") in found.evidence

    run(main)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"HTTP/1.1 404 Not Found\r\nDate: today\r\nX-Y: 1\r\n\r\n", ""),
        (b"", "closed the connection"),
        (b"HTTP/1.1 200", "in the middle of an answer"),
        (b"220 mail.example ESMTP\r\n\r\n", "not HTTP/1.1"),
        (b"x" * 100_000, "not HTTP/1.1"),
    ],
)
def test_ping(said: bytes, problem: str) -> None:
    async def main() -> None:
        heard = b""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal heard
            heard = await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, asyncio.timeout(PATIENCE):
            port = server.sockets[0].getsockname()[1]
            if problem:
                with pytest.raises(NoAnswer, match=problem):
                    await ping("127.0.0.1", port, "tasks")
            else:
                pong = await ping("127.0.0.1", port, "tasks")
                assert (pong.status, pong.fields) == (404, {"date": "today", "x-y": "1"})
                assert heard.startswith(b"OPTIONS * HTTP/1.1\r\nHost: tasks\r\n")

    asyncio.run(main())


def test_findings_are_short_and_plain() -> None:
    assert some(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more"
    assert none("app", "there is no app").as_dict() == {
        "check": "app", "upstream": None, "result": "none", "evidence": "there is no app", "step": None
    }  # fmt: skip
