from __future__ import annotations

from struct import pack
from typing import Any

import pytest

from sidecar.amqp.wire.client_handshake import ClientHandshake, own_properties, plain
from sidecar.amqp.wire.frames import FrameReader
from sidecar.amqp.wire.methods import connection_close_ok
from sidecar.amqp.wire.tables import decode_table
from support.amqp import (
    GREETING,
    HEARTBEAT,
    channel_open_ok,
    close,
    connection_open,
    connection_open_ok,
    cut,
    method,
    secure,
    start,
    table,
    tune,
    tune_ok,
)


def handshake(**wanted: Any) -> ClientHandshake:
    given = {"vhost": "/agents", "properties": own_properties("tests"), **wanted}
    return ClientHandshake("PLAIN", plain("guest", "secret"), **given)


def says(one: ClientHandshake, frame: bytes) -> bytes:
    return one.feed(b"before" + frame + b"after", 6, 6 + len(frame))


def finished(one: ClientHandshake) -> bool:
    return one.done


def accepted(one: ClientHandshake) -> bool:
    return one.accepted


def logged_in(one: ClientHandshake, offer: bytes) -> bytes:
    """What it answers to ``tune``."""
    assert says(one, start())
    return says(one, offer)


def failure_of(one: ClientHandshake) -> tuple[int, str]:
    assert one.failure is not None
    assert not one.done
    return one.failure.code, one.failure.text


def test_a_whole_handshake() -> None:
    one = handshake()
    assert one.greeting() == GREETING
    answer = says(one, start())
    assert answer[7:11] == pack(">HH", 10, 11)
    assert b"\x05PLAIN\x00\x00\x00\x0d\0guest\0secret\x05en_US\xce" in answer
    assert not accepted(one)
    assert says(one, tune(2047, 131072, 60)) == tune_ok(2047, 131072, 10) + connection_open("/agents")
    assert accepted(one)
    assert not finished(one)
    assert says(one, connection_open_ok()) == b""
    assert finished(one)
    assert one.failure is None
    assert (one.channel_max, one.frame_max, one.heartbeat) == (2047, 131072, 10)


def test_it_wants_to_hear_of_alarms_and_of_a_refused_login_whatever_else_the_client_said() -> None:
    given = {"product": "pika", "capabilities": {"connection__blocked": False, "basic__nack": True}}
    answer = says(handshake(properties=table(**given)), start())
    assert decode_table(answer, 11, len(answer)) == {
        "product": "pika",
        "capabilities": {"basic.nack": True, "connection.blocked": True, "authentication_failure_close": True},
    }
    answer = says(handshake(properties=table()), start())
    assert decode_table(answer, 11, len(answer)) == {
        "capabilities": {"connection.blocked": True, "authentication_failure_close": True}
    }


@pytest.mark.parametrize(
    ("wanted", "offer", "agreed"),
    [
        ({}, (0, 0, 0), (65535, 131072, 10)),
        ({}, (2047, 4096, 60), (2047, 4096, 10)),
        ({}, (2047, 1 << 20, 5), (2047, 131072, 5)),
        ({"heartbeat": 0}, (2047, 131072, 60), (2047, 131072, 0)),
        ({"channel_max": 10, "frame_max": 8192}, (2047, 131072, 60), (10, 8192, 10)),
        ({"channel_max": 4000}, (2047, 131072, 60), (2047, 131072, 10)),
        ({"exact": True, "channel_max": 10, "frame_max": 8192, "heartbeat": 580}, (2047, 131072, 60), (10, 8192, 580)),
        ({"exact": True, "heartbeat": 0}, (0, 131072, 60), (0, 131072, 0)),
        ({"exact": True, "channel_max": 2047}, (2047, 0, 60), (2047, 131072, 10)),
    ],
)
def test_what_is_agreed_on(wanted: dict[str, Any], offer: tuple[int, int, int], agreed: tuple[int, int, int]) -> None:
    one = handshake(**wanted)
    assert logged_in(one, tune(*offer)) == tune_ok(*agreed) + connection_open("/agents")
    assert (one.channel_max, one.frame_max, one.heartbeat) == agreed


@pytest.mark.parametrize(
    ("channel_max", "frame_max", "offer"),
    [(2047, 131072, (100, 131072, 60)), (2047, 131072, (2047, 65536, 60)), (0, 131072, (2047, 131072, 60))],
)
def test_a_broker_that_allows_less_than_a_client_has_been_promised(
    channel_max: int, frame_max: int, offer: tuple[int, int, int]
) -> None:
    one = handshake(exact=True, channel_max=channel_max, frame_max=frame_max)
    assert logged_in(one, tune(*offer)) == b""
    code, text = failure_of(one)
    assert code == 320  # which a client recovers from, with what is allowed now
    assert "promised" in text
    assert one.permanent


@pytest.mark.parametrize(
    ("code", "text", "permanent"),
    [
        (403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.", True),
        (530, "NOT_ALLOWED - vhost /agents not found", True),
        (
            530,
            "NOT_ALLOWED - access to vhost '/agents' refused for user 'guest': connection limit (5) is reached",
            False,
        ),
        (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", False),
        (541, "INTERNAL_ERROR - access to vhost '/agents' refused for user 'guest': vhost '/agents' is down", False),
    ],
)
def test_the_broker_refuses(code: int, text: str, permanent: bool) -> None:
    one = handshake()
    says(one, start())
    assert says(one, close(code, text)) == connection_close_ok()
    assert failure_of(one) == (code, text)
    assert one.permanent is permanent
    assert says(one, tune()) == b""


def test_a_mechanism_that_the_broker_does_not_offer() -> None:
    one = handshake()
    assert says(one, start("AMQPLAIN PLAINER")) == b""
    assert failure_of(one)[0] == 403
    assert one.permanent


def test_a_challenge_cannot_be_answered() -> None:
    one = handshake()
    says(one, start())
    assert says(one, secure("and now?")) == b""
    assert failure_of(one)[0] == 403


def test_frames_out_of_place() -> None:
    for before, frame in (
        ((), tune()),
        ((), connection_open_ok()),
        ((start(),), start()),
        ((start(),), connection_open_ok()),
        ((start(), tune()), tune()),
        ((), channel_open_ok(1)),
        ((start(),), method(0, 10, 10)),
    ):
        one = handshake()
        for earlier in before:
            says(one, earlier)
        says(one, frame)
        assert failure_of(one)[0] in (502, 503, 505)
        assert not one.permanent


def test_frames_cut_short_never_raise() -> None:
    whole = cut(start() + tune() + close(403, "no"))
    for frame in whole:
        payload = frame[7:-1]
        for size in range(len(payload)):
            one = handshake()
            if frame is not whole[0]:
                says(one, whole[0])
            says(one, pack(">BHI", 1, 0, size) + payload[:size] + b"\xce")
            assert not one.done


def test_heartbeats_are_no_answer() -> None:
    one = handshake()
    assert says(one, HEARTBEAT) == b""
    assert one.failure is None


def test_the_password_is_in_no_error() -> None:
    for frame in (start("NONE"), tune(), close(403, "refused"), secure("?")):
        one = handshake()
        says(one, frame)
        if one.failure is not None:
            assert "secret" not in str(one.failure)
        assert "secret" not in repr(one)


def test_it_works_with_frames_as_a_reader_cuts_them() -> None:
    one = handshake()
    reader = FrameReader(65536)
    said = b""
    stream = start() + tune() + connection_open_ok()
    for at in range(0, len(stream), 7):
        for _, _, begin, end in reader.feed(stream[at : at + 7]):
            said += one.feed(reader.data, begin, end)
    assert one.done
    assert len(cut(said)) == 3
