from __future__ import annotations

import asyncio
import json
import logging
import stat
from pathlib import Path

import pytest

from sidecar.amqp.topology import broker_catalog, declarations
from sidecar.amqp.topology.broker_catalog import BrokerCatalog
from sidecar.amqp.topology.declarations import Declaration
from sidecar.amqp.wire.constants import (
    CONNECTION_START,
    CONNECTION_TUNE,
    EXCHANGE_BIND,
    EXCHANGE_DECLARE,
    QUEUE_BIND,
    QUEUE_DECLARE,
)
from sidecar.amqp.wire.methods import method, short
from sidecar.storage.json_file import Saving

NONE = b"\0\0\0\0"
START = method(0, CONNECTION_START, b"\0\x09" + NONE + NONE + NONE)
TUNE = method(0, CONNECTION_TUNE, b"\x07\xff\0\1\0\0\0\x3c")


def queue(name: str, bits: int = 2) -> Declaration:
    return declarations.from_wire(QUEUE_DECLARE, short(name) + bytes((bits,)) + NONE)


def exchange(name: str, kind: str = "topic") -> Declaration:
    return declarations.from_wire(EXCHANGE_DECLARE, short(name) + short(kind) + b"\2" + NONE)


def bound(name: str, source: str, key: str = "k") -> Declaration:
    return declarations.from_wire(QUEUE_BIND, short(name) + short(source) + short(key) + b"\0" + NONE)


def exchange_bound(name: str, source: str) -> Declaration:
    return declarations.from_wire(EXCHANGE_BIND, short(name) + short(source) + short("k") + b"\0" + NONE)


def hears(it: BrokerCatalog, frame: bytes) -> None:
    it.hears(int.from_bytes(frame[7:11], "big"), frame, 0, len(frame))


def changed(it: BrokerCatalog) -> bool:
    return it.dirty


def test_what_was_learnt_is_known_in_its_vhost() -> None:
    it = BrokerCatalog()
    it.learn("/", queue("q"))
    assert it.knows("/", queue("q"))
    assert it.knows("/", queue("q", 1))
    assert it.has_queue("/", "q")
    assert not it.knows("/", queue("q", 0))
    assert not it.knows("/other", queue("q"))
    assert not it.has_queue("/other", "q")
    assert not it.has_exchange("/", "q")


def test_the_exchanges_that_always_are() -> None:
    it = BrokerCatalog()
    assert it.has_exchange("/", "amq.topic")
    assert it.has_exchange("/", "amq.direct")
    assert not it.has_exchange("/", "amq.new")
    assert not it.knows("/", exchange("amq.topic", "direct"))


def test_what_is_made_anew_with_other_arguments_is_no_longer_the_old() -> None:
    it = BrokerCatalog()
    it.learn("/", queue("q", 2))
    it.learn("/", bound("q", "e"))
    it.learn("/", queue("q", 0))
    assert it.knows("/", queue("q", 0))
    assert not it.knows("/", queue("q", 2))
    assert it.has_queue("/", "q")
    assert it.knows("/", bound("q", "e"))


def test_deleting_takes_the_bindings_along() -> None:
    it = BrokerCatalog()
    for declaration in (
        queue("q"),
        queue("p"),
        exchange("e"),
        exchange("f"),
        bound("q", "e"),
        bound("p", "e"),
        bound("q", "f"),
    ):
        it.learn("/", declaration)
    it.learn("/", exchange_bound("f", "e"))
    it.forget_queue("/", "q")
    assert not it.knows("/", queue("q"))
    assert not it.has_queue("/", "q")
    assert not it.knows("/", bound("q", "e"))
    assert it.knows("/", bound("p", "e"))
    it.forget("/", bound("p", "e"))
    it.forget("/", bound("p", "e"))
    assert not it.knows("/", bound("p", "e"))
    assert it.knows("/", exchange_bound("f", "e"))
    it.forget_exchange("/", "e")
    assert not it.knows("/", exchange_bound("f", "e"))
    assert it.knows("/", exchange("f"))
    it.forget_exchange("/", "f")
    it.forget_queue("/", "p")
    it.forget_queue("/", "never")
    assert it.count == 0
    assert it._bytes == 0
    assert not it._names


def test_what_to_tell_a_broker_that_lost_an_exchange() -> None:
    it = BrokerCatalog()
    it.learn("/", bound("q", "e"))
    assert it.about_exchange("/", "e") == []
    for declaration in (exchange("e"), exchange_bound("e", "f"), exchange_bound("f", "e"), exchange("f")):
        it.learn("/", declaration)
    told = it.about_exchange("/", "e")
    assert told[0].key == exchange("e").key
    assert {declaration.key for declaration in told[1:]} == {bound("q", "e").key, exchange_bound("f", "e").key}


def test_it_is_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_catalog, "MAX_DECLARATIONS", 10)
    it = BrokerCatalog()
    for number in range(8):
        it.learn("/", bound(f"q{number}", "e"))
        it.learn("/", bound("again", "e"))
    for number in range(8, 100):
        it.learn("/", bound(f"q{number}", "e"))
        it.learn("/", bound("again", "e"))
        assert it.count <= 10
    assert it.knows("/", bound("again", "e"))
    assert it.knows("/", bound("q99", "e"))
    assert not it.knows("/", bound("q0", "e"))
    monkeypatch.setattr(broker_catalog, "MAX_BYTES", 3000)
    it.learn("/", bound("q100", "e"))
    assert it._bytes <= 3000
    assert it.knows("/", bound("q100", "e"))


def test_names_that_the_broker_made_up_are_not_worth_remembering() -> None:
    it = BrokerCatalog()
    declaration = queue("amq.gen-1")
    declaration.server_named = True
    it.learn("/", declaration)
    assert it.count == 0


def test_a_restart_is_survived(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "rabbitmq.known.json"
    it = BrokerCatalog(path)
    it.load()
    assert not changed(it)
    for declaration in (queue("q"), queue("caf\udce9"), exchange("e"), bound("q", "e")):
        it.learn("/\udcff", declaration)
    hears(it, START)
    hears(it, TUNE)
    assert changed(it)
    asyncio.run(Saving([it]).save())
    assert not changed(it)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = BrokerCatalog(path)
    again.load()
    assert not changed(again)
    assert again.count == it.count
    assert again.has_queue("/\udcff", "caf\udce9")
    assert again.knows("/\udcff", bound("q", "e"))
    assert again.start == START[11:-1]
    assert again.tune == (2047, 65536, 60)
    hears(again, START)
    hears(again, TUNE)
    assert not changed(again)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"version":2}',
        '{"version":1}',
        '{"version":1,"facts":5,"start":"","tune":[]}',
        '{"version":1,"facts":[["/",3276810,"AAAA"]],"start":"","tune":[]}',
        '{"version":1,"facts":[["/",3276810,"!"]],"start":"","tune":[]}',
        '{"version":1,"facts":[["/","x",""]],"start":"","tune":[]}',
        '{"version":1,"facts":[["/"]],"start":"","tune":[]}',
        '{"version":1,"facts":[],"start":"","tune":[1]}',
        '{"version":1,"facts":[],"start":"","tune":[1,2,-3]}',
        '{"version":1,"facts":[],"start":5,"tune":[]}',
        "[" * 100_000,
        "x" * 2000,
    ],
)
def test_a_corrupt_file_is_set_aside(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_catalog, "MAX_FILE", 150_000 if text[:1] == "[" else 1000)
    path = tmp_path / "known.json"
    path.write_text(text)
    it = BrokerCatalog(path, wall=lambda: 1234.5)
    with caplog.at_level(logging.WARNING):
        it.load()
    assert it.count == 0
    assert it.tune is None
    assert not path.exists()
    assert (tmp_path / "known.json.corrupt-1234").read_text() == text
    assert "corrupt" in caplog.text
    it.learn("/", queue("q"))
    asyncio.run(Saving([it]).save())
    assert json.loads(path.read_text())["version"] == 1


def test_a_file_that_cannot_be_read_or_written_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "known.json"
    folder.mkdir()
    it = BrokerCatalog(folder)
    it.load()
    assert "cannot be read" in caplog.text
    it.learn("/", queue("q"))
    saving = Saving([it])
    asyncio.run(saving.save())
    asyncio.run(saving.save())
    assert changed(it)
    assert caplog.text.count("cannot be written") == 1
    folder.rmdir()
    asyncio.run(saving.save())
    assert not changed(it)
    assert folder.is_file()


def test_a_broker_that_says_too_much_is_not_repeated() -> None:
    it = BrokerCatalog()
    hears(it, method(0, CONNECTION_START, bytes(broker_catalog.MAX_START + 1)))
    assert it.start == b""


def test_what_everybody_declares_is_remembered_longer_than_answer_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_catalog, "MAX_DECLARATIONS", 20)
    it = BrokerCatalog()
    it.learn("/", queue("orders"))
    for number in range(100):
        it.learn("/", queue(f"answers.{number}", 8))
        it.learn("/", bound(f"answers.{number}", "events"))
    assert it.has_queue("/", "orders")
    assert it.has_queue("/", "answers.99")
    assert not it.has_queue("/", "answers.50")
    assert it.count <= 20
