"""The handshake through the port: what passes as it is, what is changed, and what is refused with which answer."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest

from support.amqp import (
    CLOSE_OK,
    DEAF,
    GREETING,
    HEARTBEAT,
    PROPERTIES,
    Peer,
    Stage,
    blocked,
    channel_open,
    channel_open_ok,
    close,
    connection_open,
    connection_open_ok,
    frame,
    header,
    method,
    name,
    publish,
    secure,
    secure_ok,
    start,
    start_ok,
    table,
    tune,
    tune_ok,
)


def begun(stage: Stage) -> tuple[Peer, Peer]:
    """A client and its broker as far as the broker's ``start``."""
    client = stage.connect()
    client.says(GREETING)
    broker = stage.broker()
    broker.gets(GREETING)
    broker.says(start())
    client.gets(start())
    return client, broker


def tuned(stage: Stage, frame_max: int = 131072) -> tuple[Peer, Peer]:
    """As far as the broker's ``tune``."""
    client, broker = begun(stage)
    client.says(start_ok())
    broker.says(tune(2047, frame_max, 60))
    client.heard()
    broker.heard()
    return client, broker


# -- what passes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [0, 1, 3, 11])
def test_everything_passes_in_order(pieces: int) -> None:
    stage = Stage()
    client = stage.connect()
    client.says(GREETING, pieces=pieces)
    broker = stage.broker()
    broker.gets(GREETING)
    dialogue = [
        (broker, client, start()),
        (client, broker, start_ok()),
        (broker, client, secure("who are you?")),
        (client, broker, secure_ok("me")),
        (broker, client, secure("really?")),
        (client, broker, secure_ok("yes")),
        (broker, client, tune(2047, 131072, 60)),
        (client, broker, tune_ok(100, 8192, 30)),
        (client, broker, connection_open("/agents")),
        (broker, client, connection_open_ok()),
        (client, broker, channel_open(100)),
        (broker, client, channel_open_ok(100)),
    ]
    for speaker, listener, said in dialogue:
        speaker.says(said, pieces=pieces)
        listener.gets(said)
        speaker.gets_nothing()
    [session] = stage.listener.sessions
    assert (session.vhost, session.handshake.user, session.handshake.product) == ("/agents", "guest", "test 1.0")
    assert (session.handshake.channel_max, session.handshake.frame_max, session.handshake.heartbeat) == (100, 8192, 30)
    stage.over()


def test_nothing_is_sent_to_a_broker_before_the_client_has_spoken() -> None:
    stage = Stage()
    client = stage.connect()
    client.says(GREETING[:7])
    assert not stage.accepted
    client.says(GREETING[7:])
    stage.broker().gets(GREETING)
    stage.over()


def test_tune_ok_and_open_in_one_reading() -> None:
    stage = Stage()
    client, broker = tuned(stage)
    client.says(tune_ok(), connection_open())
    broker.gets(tune_ok(), connection_open())
    # ... and what the broker says right behind its open-ok.
    broker.says(connection_open_ok(), blocked("memory"))
    client.gets(connection_open_ok(), blocked("memory"))
    stage.over()


def test_heartbeats_during_the_handshake_end_here() -> None:
    stage = Stage()
    client, broker = tuned(stage)
    client.says(HEARTBEAT, tune_ok())
    broker.gets(tune_ok())
    broker.says(HEARTBEAT)
    client.gets_nothing()
    stage.over()


# -- what is changed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (PROPERTIES, PROPERTIES),
        (DEAF, {**DEAF, "capabilities": {"basic__nack": True, "connection__blocked": True}}),
        ({"product": "x"}, {"product": "x", "capabilities": {"connection__blocked": True}}),
        ({}, {"capabilities": {"connection__blocked": True}}),
        # A truth value is turned in its place; and whatever else there is stays, as types go that nobody has heard of.
        (
            {"d": b"D\x02\x00\x00\x01\x00", "capabilities": {"connection__blocked": False, "x": b"L" + b"\xff" * 8}},
            {"d": b"D\x02\x00\x00\x01\x00", "capabilities": {"connection__blocked": True, "x": b"L" + b"\xff" * 8}},
        ),
    ],
    ids=["hears", "deaf", "no capabilities", "nothing", "refuses"],
)
def test_the_broker_is_told_that_alarms_are_heard(given: dict[str, Any], passed: dict[str, Any]) -> None:
    stage = Stage()
    client, broker = begun(stage)
    client.says(start_ok(given))
    broker.gets(start_ok(passed))
    broker.says(tune(), connection_open_ok())
    stage.over()


@pytest.mark.parametrize("offered", [0, 131072, 1 << 20])
def test_frames_are_limited_to_what_we_take(offered: int) -> None:
    stage = Stage()
    client, broker = begun(stage)
    client.says(start_ok())
    broker.says(tune(2047, offered, 60))
    client.gets(tune(2047, 131072, 60))
    stage.over()


def test_a_client_without_a_limit_gets_the_one_that_was_offered() -> None:
    stage = Stage()
    client, broker = tuned(stage, 8192)
    broker.heard()
    client.says(tune_ok(0, 0, 0))
    broker.gets(tune_ok(0, 8192, 0))
    stage.over()


def test_the_agreed_frame_size_is_kept_to_by_both() -> None:
    for of_client in (True, False):
        stage = Stage()
        client, broker = stage.open(1, frame_max=4096)
        (client if of_client else broker).says(frame(8, 0, b"x" * 4089))
        if of_client:
            client.gets_close(501, "FRAME_ERROR", "4096")
        else:
            client.gets_close(320)
        stage.over()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "greeting",
    [
        b"AMQP\x00\x01\x00\x00",
        b"AMQP\x03\x01\x00\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_whoever_speaks_something_else_is_told_the_version(greeting: bytes) -> None:
    stage = Stage()
    client = stage.connect()
    client.says(greeting)
    assert client.heard() == GREETING
    assert client.closed
    assert not stage.accepted
    assert stage.lines.records
    stage.finished()


def test_another_vhost_is_refused_with_the_allowed_ones() -> None:
    stage = Stage(vhosts=("/", "/agents"))
    client, broker = tuned(stage)
    client.says(tune_ok(), connection_open("/secret"))
    client.gets_close(530, "NOT_ALLOWED", "/secret", "/agents")
    broker.gets(tune_ok())
    assert broker.closed
    client.says(CLOSE_OK)
    assert client.closed
    stage.finished()


def test_an_allowed_vhost() -> None:
    stage = Stage(vhosts=("/agents",))
    stage.open(vhost="/agents")
    stage.over()


@pytest.mark.parametrize("frame_max", [1, 4095, 8193])
def test_frame_max_must_be_possible(frame_max: int) -> None:
    stage = Stage()
    client, broker = tuned(stage, 8192)
    client.says(tune_ok(0, frame_max, 0))
    client.gets_close(530, str(frame_max), "4096", "8192")
    broker.gets_nothing()
    stage.over()


@pytest.mark.parametrize("said", [channel_open(1), header(1, 5), frame(3, 0, b"x"), frame(2, 0, b"")], ids=name)
def test_what_is_out_of_place_before_the_connection_is_open_ends_it_without_a_word(said: bytes) -> None:
    """As with the broker, and so that the client comes again: a close would be taken for the answer to its login, and
    what is no frame for the end of everything."""
    for step in (begun, tuned):
        stage = Stage()
        client, broker = step(stage)
        client.says(said)
        client.gets_nothing()
        assert broker.closed
        assert client.closed
        assert stage.listener.stats.rejected["bad_request"]
        stage.finished()


def test_what_comes_with_the_protocol_header_ends_it_without_a_word() -> None:
    stage = Stage()
    client = stage.connect()
    client.says(GREETING + publish(1, "k", b"x"))
    client.gets_nothing()
    assert client.closed
    assert not stage.accepted
    assert stage.lines.records
    stage.finished()


@pytest.mark.parametrize(
    "said", [tune_ok(), connection_open(), secure_ok("x"), start(), close(), method(0, 99, 1)], ids=name
)
def test_methods_that_are_not_due(said: bytes) -> None:
    stage = Stage()
    client, broker = begun(stage)
    client.says(said)
    client.gets_close(503, "COMMAND_INVALID")
    broker.gets_nothing()
    stage.over()


@pytest.mark.parametrize(
    "said",
    [
        method(0, 10, 11),
        method(0, 10, 11, table()[:3]),
        method(0, 10, 11, pack(">I", 99)),
        start_ok(b"\x00\x00\x00\x05\x01xZ\x00\x00"),
        start_ok(b"\x00\x00\x00\x03\x09xS"),
        start_ok({"capabilities": "none"}),
        frame(1, 0, b"\x00\x0a"),
        start_ok(b"".join([pack(">I", 200 - 3 * n) + b"\x01xF" for n in range(60)])),
    ],
)
def test_a_malformed_start_ok(said: bytes) -> None:
    stage = Stage()
    client, broker = begun(stage)
    client.says(said)
    client.gets_close(502)
    broker.gets_nothing()
    stage.over()


@pytest.mark.parametrize(
    "said", [b"\x07" + b"\x00" * 11, frame(1, 0, b"x" * 70000), frame(1, 0, b"123456")[:-1] + b"x"]
)
def test_frames_that_are_none(said: bytes) -> None:
    stage = Stage()
    client, broker = begun(stage)
    client.says(said)
    client.gets_close(501, "FRAME_ERROR")
    broker.gets_nothing()
    stage.over()


def test_whoever_speaks_before_there_is_an_answer_gets_none() -> None:
    stage = Stage()
    client = stage.connect()
    client.says(GREETING)
    client.says(start_ok())
    client.gets_nothing()
    assert client.closed
    stage.over()


# -- how brokers refuse ------------------------------------------------------------------------------------------------


def test_the_brokers_close_passes_with_its_text() -> None:
    refusals = [
        (403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"),
        (530, "NOT_ALLOWED - vhost nowhere not found"),
    ]
    for code, text in refusals:
        stage = Stage()
        client, broker = tuned(stage)
        client.says(tune_ok(), connection_open("nowhere"))
        broker.heard()
        broker.says(close(code, text))
        client.gets(close(code, text))
        broker.gets(CLOSE_OK)
        assert broker.closed
        client.says(CLOSE_OK)
        assert client.closed
        stage.finished()


def test_a_broker_that_hangs_up_on_a_stranger() -> None:
    stage = Stage()
    client, broker = begun(stage)
    client.says(start_ok({}, response="\0guest\0wrong"))
    broker.leaves()
    client.gets_nothing()
    assert client.closed
    stage.finished()


def test_a_broker_that_goes_when_only_its_word_is_missing() -> None:
    stage = Stage()
    client, broker = tuned(stage)
    client.says(tune_ok(), connection_open())
    broker.breaks()
    client.gets_close(320, "10.0.0.1:5672")
    stage.over()


@pytest.mark.parametrize("said", [GREETING, b"\x00" * 20, tune(), secure("x"), connection_open_ok(), frame(1, 0, b"")])
def test_a_broker_that_says_something_else_first_is_no_broker(said: bytes) -> None:
    stage = Stage()
    client = stage.connect()
    client.says(GREETING)
    broker = stage.broker()
    broker.says(said)
    assert broker.aborted
    client.gets_nothing()
    assert client.closed
    stage.over()


def test_a_broker_that_breaks_the_rules_later() -> None:
    for said in (start(), connection_open_ok(), channel_open_ok(1)):
        stage = Stage()
        client, broker = begun(stage)
        client.says(start_ok())
        broker.says(said)
        assert broker.aborted
        client.gets_nothing()
        assert client.closed
        stage.over()


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_client_that_says_nothing() -> None:
    stage = Stage()
    client = stage.connect()
    stage.advance(9.9)
    assert client.connected
    stage.advance(0.2)
    assert client.aborted
    stage.finished()


def test_a_handshake_that_does_not_go_on() -> None:
    for step in (begun, tuned):
        stage = Stage()
        client, broker = step(stage)
        stage.advance(10.1)
        assert client.aborted
        assert broker.transport.gone
        stage.finished()


def test_passwords_are_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    with caplog.at_level("DEBUG"):
        client, _ = begun(stage)
        client.says(start_ok(), start_ok())
    assert "secret" not in caplog.text
    assert not any("secret" in str(vars(record)) for record in caplog.records)
    stage.over()
