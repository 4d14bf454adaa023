"""Whatever becomes of a database's file, the log says so, and what is lost if that can be known."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.amqp.spool import writer
from sidecar.http_queue import store
from sidecar.http_queue.record import Request, new_id
from support.patience import until
from support.plane import run
from support.queueing import Held, holding
from support.spools import Driver, message

FILE = "up~queue.db"


def request(size: int = 10) -> Request:
    return Request(
        id=new_id(), lane="", at=1.0, expires=9e9, client="10.0.0.1", request_id="r", digest=b"",
        head=b"POST / HTTP/1.1\r\nhost: a\r\n\r\n", body=b"x" * size,
    )  # fmt: skip


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[str], dict[str, Any]]:
    caplog.set_level(logging.INFO, "sidecar")

    def find(words: str) -> dict[str, Any]:
        """The one line with these words."""
        lines = [vars(record) for record in caplog.records]
        (found,) = [line for line in lines if words in line["message"]]
        return found

    return find


async def _some(held: Held) -> None:
    await held.put(*(request(5000) for _ in range(20)))


async def _nothing_is_left(held: Held) -> None:
    assert await held.bodies() == []
    await held.put(request())


def test_a_file_that_was_emptied_before_the_start(tmp_path: Path, said: Callable[[str], dict[str, Any]]) -> None:
    holding(tmp_path, _some)
    os.truncate(tmp_path / FILE, 0)
    holding(tmp_path, _nothing_is_left)
    line = said("a queue of requests is empty: if anything was stored in it, that is lost")
    assert (line["file"], line["kept"]) == (str(tmp_path / FILE), "")


def test_the_log_of_an_emptied_file_is_kept(tmp_path: Path, said: Callable[[str], dict[str, Any]]) -> None:
    holding(tmp_path, _some)
    os.truncate(tmp_path / FILE, 0)
    (tmp_path / f"{FILE}-wal").write_bytes(b"what was not copied yet")
    holding(tmp_path, _nothing_is_left)
    kept = Path(said("is empty")["kept"])
    assert kept.with_name(kept.name + "-wal").read_bytes() == b"what was not copied yet"


def test_a_file_that_was_deleted_before_the_start(tmp_path: Path, said: Callable[[str], dict[str, Any]]) -> None:
    holding(tmp_path, _some)
    (tmp_path / FILE).unlink()
    holding(tmp_path, _nothing_is_left)
    assert said("a queue of requests is gone: if anything")["file"] == str(tmp_path / FILE)


def test_a_first_start_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holding(tmp_path, _some)
    holding(tmp_path, _some)
    assert not caplog.records


def test_a_file_that_was_replaced_before_the_start(tmp_path: Path, said: Callable[[str], dict[str, Any]]) -> None:
    holding(tmp_path, _some)
    (tmp_path / FILE).write_bytes(b"somebody's notes")
    holding(tmp_path, _nothing_is_left)
    assert said("is damaged (file is not a database)")
    line = said("has a new file")
    assert line["lost"] == "unknown"
    assert Path(line["kept"]).read_bytes() == b"somebody's notes"


def test_a_file_that_others_could_read(tmp_path: Path, said: Callable[[str], dict[str, Any]]) -> None:
    holding(tmp_path, _some)
    (tmp_path / FILE).chmod(0o644)
    holding(tmp_path, _some)
    assert said("others could read what is stored")["file"] == str(tmp_path / FILE)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_a_log_that_was_put_back_and_others_could_read(tmp_path: Path, said: Callable[[str], dict[str, Any]]) -> None:
    """As after restoring a copy of a file that was in use, with its log."""
    folder, restored = tmp_path / "queue", tmp_path / "restored"
    restored.mkdir()

    async def copied(held: Held) -> None:
        await _some(held)
        for name in (FILE, f"{FILE}-wal"):
            (restored / name).write_bytes((folder / name).read_bytes())
            (restored / name).chmod(0o600 if name == FILE else 0o640)

    async def all_is_there(held: Held) -> None:
        assert len(await held.bodies()) == 20
        assert (restored / f"{FILE}-wal").stat().st_mode & 0o777 == 0o600

    holding(folder, copied)
    holding(restored, all_is_there)
    assert said("others could read what is stored")["file"] == str(restored / f"{FILE}-wal")


def _emptied(file: Path) -> None:
    os.truncate(file, 0)


def _halved(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _replaced(file: Path) -> None:
    file.unlink()
    file.write_bytes(b"somebody's notes")


@pytest.mark.parametrize(
    ("harm", "words"),
    [(_emptied, "cut short"), (_halved, "cut short"), (_replaced, "replaced by another"), (Path.unlink, "gone")],
)
def test_a_file_that_is_harmed_while_it_is_in_use(
    tmp_path: Path,
    said: Callable[[str], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
    words: str,
) -> None:
    left = 0
    monkeypatch.setattr(store, "IDLE", 0.001)

    async def test(held: Held) -> None:
        nonlocal left
        held.database.file.sql.execute("PRAGMA cache_size = 1")
        checkpoint = held.database.checkpoint
        copied: list[None] = []
        monkeypatch.setattr(held.database, "checkpoint", lambda: copied.append(checkpoint()))
        await _some(held)
        await until(lambda: copied, "the log is in the file")
        harm(tmp_path / FILE)
        recounts: list[None] = []
        held.store.on_recount = partial(recounts.append, None)
        assert await held.do(lambda it: it.sweep(1.0, set(), 1.0))
        await until(lambda: recounts, "it was counted again")
        left = len(await held.bodies())
        await held.put(request())

    holding(tmp_path, test)
    assert said(f"a queue of requests is {words}; what is in it goes into a new one")
    assert said("has a new file")
    if words == "cut short":
        assert left < 20
        assert said("stored requests are lost")["requests"] == 20 - left
    else:
        assert left == 20


def test_a_spool_that_is_emptied_while_nobody_asks_anything_of_it(
    tmp_path: Path, said: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LOOK", 0.001)

    async def main() -> None:
        driver = Driver(tmp_path)
        spool = driver.spool
        await driver.put(*(message(number, size=100_000) for number in range(20)))
        await until(lambda: not spool._database.behind, "the log is copied")
        os.truncate(tmp_path / "rabbitmq.db", 0)
        await until(lambda: spool.messages < 20 and not spool.problem, "it is noticed")
        lost = 20 - spool.messages
        await driver.put(message(20))
        assert (spool.corrupt, len(await driver.fetch())) == (lost, 21 - lost)
        await spool.close()
        assert said("messages of the spool are lost")["messages"] == lost

    run(main())
    assert said("the file of a spool is cut short; what is in it goes into a new one")
    assert said("a spool has a new file")
