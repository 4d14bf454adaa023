"""What ``sidecar validate`` is made of: its own sidecar, the registry, the sidecars that it reads, and how it ends."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from sidecar.cli.main import main
from sidecar.cli.validate import child, command, lab, lookup, peers, run
from sidecar.cli.validate.findings import Finding, Section
from sidecar.cli.validate.lookup import Lookup, LookupFailed
from sidecar.cli.validate.sample import Instance
from sidecar.cli.validate.view import View
from sidecar.core.address import Address
from sidecar.core.instance import Instance as Found
from sidecar.registry import Settings
from support.fake_admin import fake_admin
from support.processes import free_port

HTTP = cast(aiohttp.ClientSession, None)


# -- the sidecars that are read ----------------------------------------------------------------------------------------


def test_a_peer_reads_answers_whole_or_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MAX_ANSWER", 100_000)
    answers = {"big": (200, b"a" * 500_000), "small": (200, b"b" * 90_000), "upstreams": (200, {"upstreams": [1, {}]})}

    async def asked(url: str) -> None:
        async with aiohttp.ClientSession() as http:
            peer = peers.Peer(f"{url}/", "sesame", http)
            assert len((await peer.get("/big")).body) == 100_000
            small = await peer.get("/small")
            assert (len(small.body), small.type) == (90_000, "text/plain")
            assert 0 < len((await peer.get("/big", first=True)).body) <= 500_000
            assert await peer.upstreams() == [{}]
            with pytest.raises(peers.PeerError, match="/nothing answers 404"):
                await peer.ask("/nothing")
            monkeypatch.setattr(peers, "TIMEOUT", 0.0)
            with pytest.raises(peers.PeerError, match="no answer within 0 s"):
                await peer.get("/small")
            monkeypatch.setattr(peers, "TIMEOUT", 10.0)
            with pytest.raises(peers.PeerError, match="127"):
                await peers.Peer(f"http://127.0.0.1:{free_port()}", "", http).get("/")

    with fake_admin(answers, Content_Type="Text/Plain; charset=x") as url:
        asyncio.run(asked(url))


# -- the registry ------------------------------------------------------------------------------------------------------


def test_which_registry() -> None:
    assert lookup.lookup(Settings()) is None


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a%20b").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").write_text("")

    async def asked() -> None:
        found = lookup.FolderLookup(str(tmp_path))
        assert await found.services() == ["a b"]
        assert await found.instances("a b") == ()
        await found.forget("a b", "x")
        await found.close()
        with pytest.raises(LookupFailed, match="FileNotFoundError"):
            await lookup.FolderLookup(str(tmp_path / "none")).services()

    asyncio.run(asked())


class Consul:
    """Stands for the client of Consul."""

    def __init__(self, services: Any, instances: str) -> None:
        self.catalog = self.agent = self.service = self
        self._services = services
        self._instances = instances
        self.gone: list[str] = []

    async def services(self) -> tuple[int, Any]:
        return 1, self._services

    async def instances(self, service: str, **_: object) -> tuple[int, str]:
        return 1, self._instances

    async def deregister(self, id: str) -> None:
        self.gone.append(id)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1"])
def test_a_consul(host: str) -> None:
    listed = json.dumps(
        [{"Node": {"Address": "10.0.0.2"}, "Service": {"ID": "a-1", "Service": "a", "Port": 80}, "Checks": []}]
    )

    async def asked() -> None:
        found = lookup.lookup(Settings(kind="consul", address=Address(host, 8500)))
        assert isinstance(found, lookup.ConsulLookup)
        await found.close()
        found._client = consul = Consul({"b": [], "a": []}, listed)
        assert await found.services() == ["a", "b"]
        await found.forget("a", "a-1")
        await found.forget("a", "a-2")
        assert consul.gone == ["a-1"], "only what is there is taken out"
        found._client = Consul(["a"], "no list")
        with pytest.raises(LookupFailed, match="not an object"):
            await found.services()
        with pytest.raises(LookupFailed):
            await found.instances("a")

    asyncio.run(asked())


def test_a_registry_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "TIMEOUT", 0.0)

    async def asked() -> None:
        with pytest.raises(LookupFailed, match="no answer within 0 s"):
            await lookup._answer(asyncio.Event().wait())

    asyncio.run(asked())


# -- its own service ---------------------------------------------------------------------------------------------------


def test_an_instance_answers_fails_and_is_shut() -> None:
    async def asked() -> None:
        instance = Instance("one", 1)
        await instance.shut()
        await instance.listen()
        reader, writer = await asyncio.open_connection("127.0.0.1", instance.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\nGET / HT")
        assert (await reader.readuntil(b"one")).startswith(b"HTTP/1.1 200 OK\r\n")
        instance.failing = True
        writer.write(b"TP/1.1\r\n\r\n")
        assert (await reader.readuntil(b"one")).startswith(b"HTTP/1.1 500 ")
        assert instance.asked == 2
        writer.write(b"a" * 70_000)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", instance.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"one")
        await instance.shut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        assert instance.asked == 3

    asyncio.run(asked())


def started(code: str, **more: Any) -> Callable[[lab.Lab, Path], None]:
    """In place of the sidecar: a process that writes into its log and does what ``code`` says."""

    def spawn(self: lab.Lab, file: Path) -> None:
        with (file.parent / "log").open("wb") as log:
            self._child = subprocess.Popen([sys.executable, "-Sc", code], stdout=log, stderr=log, **more)

    return spawn


def test_a_sidecar_that_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.Lab, "_spawn", started("print('a port is taken')"))
    told = Section("infrastructure")

    async def asked() -> None:
        found = run.Run([], HTTP, Settings(), "none", lambda text: None)
        found.open_registry()
        assert await found.lab(told) is None
        assert await found.lab(told) is None, "it is not started again"
        assert await found.close() == []
        assert await found.close() == []

    asyncio.run(asked())
    assert [it.evidence for it in told.findings] == ["it has ended: a port is taken"] * 2


def test_a_sidecar_that_is_never_ready_and_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ignores', flush=True)"
    monkeypatch.setattr(lab.Lab, "_spawn", started(f"{ignoring}; time.sleep(99)"))
    real = lab.Lab._ready

    async def ready(self: lab.Lab) -> None:
        assert self._folder is not None
        while "ignores" not in (self._folder / "log").read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await real(self)

    monkeypatch.setattr(lab.Lab, "_ready", ready)
    monkeypatch.setattr(lab, "START", 0.01)
    monkeypatch.setattr(lab, "END", 0.01)

    async def asked() -> None:
        found = lab.Lab(Settings(datacenter="dc1"), "none", None, HTTP)
        with pytest.raises(lab.LabError, match=r"it is not ready after 0\.01 s: ignores"):
            await found.start()
        process, folder = found._child, found._folder
        assert await found.close() == []
        assert process is not None
        assert process.returncode == -signal.SIGKILL
        assert folder is not None
        assert not folder.exists()

    asyncio.run(asked())


def test_what_fails_otherwise_and_a_folder_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def spawn(self: lab.Lab, file: Path) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(lab.Lab, "_spawn", spawn)

    async def asked() -> None:
        found = lab.Lab(Settings(), "none", None, HTTP)
        with pytest.raises(lab.LabError, match="Cannot allocate memory"):
            await found.start()
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", lambda *_, **__: None)
            assert await found.close() == [f"the folder {found._folder}"]
        shutil.rmtree(str(found._folder))

    asyncio.run(asked())


class Kept:
    """A registry that forgets nothing, or does not answer."""

    def __init__(self, *, away: bool) -> None:
        self._away = away

    async def instances(self, service: str) -> tuple[Any, ...]:
        if self._away:
            raise LookupFailed("no answer within 5 s")
        return (Found(host="127.0.0.1", port=1, id=f"{service}-1"),)

    async def forget(self, service: str, id: str) -> None:
        pass


def test_what_the_registry_keeps_is_named() -> None:
    async def asked() -> None:
        kept = lab.Lab(Settings(), "consul://c", cast(Lookup, Kept(away=False)), HTTP)
        assert await kept.close() == [f"{kept.service}-1 in the registry", f"{kept.sample}-1 in the registry"]
        away = lab.Lab(Settings(), "consul://c", cast(Lookup, Kept(away=True)), HTTP)
        (left,) = await away.close()
        assert left == f"perhaps {away.service} and {away.sample} in the registry: no answer within 5 s"

    asyncio.run(asked())


def test_what_its_sidecar_says_or_does_not() -> None:
    async def asked() -> None:
        async with aiohttp.ClientSession() as http:
            found = lab.Lab(
                Settings(kind="consul", datacenter="dc1"), "consul://c", cast(Lookup, Kept(away=False)), http
            )
            assert found._config()["consul"] == {"token": "${CONSUL_HTTP_TOKEN:-}", "datacenter": "dc1"}
            found._ports = {"random": free_port()}
            status, error, body = await found.call("random")
            assert (status, body) == (0, "")
            assert "Client" in error
            found.admin = peers.Peer(f"http://127.0.0.1:{free_port()}", "", http)
            assert await found.known("random") == set()

    asyncio.run(asked())


def test_it_looks_until_it_is_so_or_time_is_up() -> None:
    async def asked() -> None:
        answers = iter((False, True))

        async def look() -> bool:
            return next(answers)

        assert await lab.seen(look) is not None

        async def never() -> bool:
            return False

        assert await lab.seen(never, -1.0) is None

    asyncio.run(asked())


def test_no_sidecar_without_a_registry() -> None:
    told = Section("load_balancing")

    async def asked() -> None:
        for found in (
            run.Run([], HTTP, None, "", lambda text: None, problem="nobody says which"),
            run.Run([], HTTP, Settings(), "consul://c", lambda text: None, registry_away=True),
        ):
            assert await found.lab(told) is None

    asyncio.run(asked())
    assert [it.evidence for it in told.findings] == [
        "not started: nobody says which", "not started: the registry does not answer",
    ]  # fmt: skip


# -- the process -------------------------------------------------------------------------------------------------------


def test_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(child, "end_with_parent", asked.append)
    monkeypatch.setattr(sys, "argv", ["child", "a.yaml", str(os.getppid())])
    monkeypatch.setattr("sidecar.cli.main.main", lambda: len(sys.argv))
    assert child.main() == 3
    assert sys.argv == ["sidecar", "run", "a.yaml"]
    monkeypatch.setattr(sys, "argv", ["child", "a.yaml", "1000000000"])
    assert child.main() == 1, "whoever started it has ended already"
    assert asked == [signal.SIGTERM] * 2


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_registry_that_is_not_understood_and_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDECAR_ADMIN", f"127.0.0.1:{free_port()}")
    assert main(["validate", "--component", "infrastructure"]) == 1
    assert "which one it is is not known" in capsys.readouterr().out
    with fake_admin({"config": (200, {"registry": "ftp://x"})}) as url:
        assert main(["validate", "--component", "infrastructure", "--admin", url]) == 1
        assert "'ftp://x' is not understood" in capsys.readouterr().out
    with fake_admin({"config": (200, {"registry": "consul://127.0.0.1:1", "consul": {"datacenter": "dc1"}})}) as url:
        assert main(["validate", "--component", "infrastructure", "--admin", url, "--admin", url]) == 1
        assert "✗ registry" in capsys.readouterr().out
    assert logging.getLogger("sidecar").level == logging.CRITICAL


@pytest.mark.parametrize("where", ["-", "folder", "file"])
def test_where_the_report_goes(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = {"-": "-", "folder": str(tmp_path), "file": str(tmp_path / "report.json")}[where]
    with fake_admin({}) as url:
        more = ["--admin", url, "--registry", "none", "--component", "dashboard", "--json", target]
        assert main(["validate", *more]) == 6
    said = capsys.readouterr()
    text = said.out if where == "-" else next(tmp_path.iterdir()).read_text()
    found = json.loads(text)
    assert found["summary"]["exit_code"] == 6
    assert found["registry"] == "none"
    assert ("report: " in said.out) is (where != "-")
    assert "dashboard" in (said.err if where == "-" else said.out)


def test_a_report_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Path, text: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    with fake_admin({}) as url:
        target = str(tmp_path / "report.json")
        assert main(["validate", "--admin", url, "--component", "dashboard", "--json", target]) == 6
    assert "the report cannot be written: " in capsys.readouterr().err


def checked(monkeypatch: pytest.MonkeyPatch, check: Callable[[run.Run, Section], Any]) -> int:
    """Run one section that does that."""
    monkeypatch.setattr(command, "_CHECKS", {"dashboard": check})
    return main(["validate", "--registry", "none", "--component", "dashboard"])


def test_a_check_that_has_a_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def check(of: run.Run, section: Section) -> None:
        raise ZeroDivisionError("by zero")

    assert checked(monkeypatch, check) == 6
    assert "ZeroDivisionError: by zero" in capsys.readouterr().out


def test_what_is_left_behind_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def check(of: run.Run, section: Section) -> None:
        section.good("page", "there")

    async def close(self: run.Run) -> list[str]:
        return ["the folder /tmp/x"]

    monkeypatch.setattr(run.Run, "close", close)
    assert checked(monkeypatch, check) == 6
    out = capsys.readouterr().out
    assert "left behind: the folder /tmp/x" in out
    assert "take that out by hand" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_once(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed: list[bool] = []

    async def check(of: run.Run, section: Section) -> None:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    async def close(self: run.Run) -> list[str]:
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.001)
        closed.append(True)
        return []

    monkeypatch.setattr(run.Run, "close", close)
    before = signal.getsignal(number)
    try:
        assert checked(monkeypatch, check) == 130
    finally:
        signal.signal(number, before)
    assert closed == [True]
    assert capsys.readouterr().err.count("stopped; taking everything out again") == 1


# -- how it prints -----------------------------------------------------------------------------------------------------


def test_a_terminal_sees_what_is_under_way() -> None:
    out = io.StringIO()
    view = View(out, terminal=True, colour=True, detailed=True)
    section = Section("load_balancing", view.finding, lenient=True)
    view.section("load_balancing")
    view.doing("asking")
    section.good("random", "fine", "of three")
    section.bad("slow", "99 per second", "", degraded=True)
    view.say("report: x")
    view.done({"load_balancing": section}, 0, 2.0)
    text = out.getvalue()
    assert text.startswith("\x1b[1mload balancing\x1b[0m\n\r\x1b[2K  … asking\r\x1b[2K\x1b[32m✓\x1b[0m random")
    assert "of three" in text
    assert "\r\x1b[2Kreport: x\n" in text
    assert text.endswith("1 check passed, 0 failed, 1 warning in 2.0 s: the mesh is valid\n")


def test_findings_are_told_nobody_by_default() -> None:
    section = Section("dashboard")
    section.none("page", "nobody to ask")
    assert section.findings == [Finding("page", "none", "nobody to ask")]
