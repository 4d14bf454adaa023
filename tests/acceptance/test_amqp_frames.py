"""What libraries hide, frame by frame through the sidecar's AMQP port to a real RabbitMQ: the bytes of properties,
the answers to broken frames, and how connections end."""

from __future__ import annotations

import socket
import struct
from concurrent.futures import Future

import pytest
from pamqp import commands

from support.amqp_clients.raw import BODY, HEADER, METHOD, RawClient, raw_frame
from support.processes import wait_for
from support.rabbitmq import RabbitMQ

# Idle connections begin with the first test, and are asked for by the last ones.
pytestmark = pytest.mark.usefixtures("idlers")

# Tables and properties as they may come: every tag RabbitMQ knows, in no order that a library would choose.
ENTRIES = b"".join(
    [
        b"\x04bool" + b"t\x01",
        b"\x02i8" + b"b\xff",
        b"\x02u8" + b"B\xff",
        b"\x03i16" + b"s\xff\xfe",
        b"\x03u16" + b"u\xff\xfe",
        b"\x03i32" + b"I\xff\xff\xff\xfe",
        b"\x03u32" + b"i\xff\xff\xff\xfe",
        b"\x03i64" + b"l\x00\x00\x01\x00\x00\x00\x00\x00",
        b"\x05float" + b"f\x3f\xc0\x00\x00",
        b"\x06double" + b"d\x3f\xb9\x99\x99\x99\x99\x99\x9a",
        b"\x07decimal" + b"D\x02\x00\x00\x04\xd2",
        b"\x04text" + b"S\x00\x00\x00\x03\xe2\x9c\x93",
        b"\x05bytes" + b"x\x00\x00\x00\x02\xff\x00",
        b"\x04when" + b"T\x00\x00\x00\x00\x65\x53\xf1\x00",
        b"\x04none" + b"V",
        b"\x04list" + b"A\x00\x00\x00\x03V" + b"t\x00",
        b"\x05table" + b"F\x00\x00\x00\x04\x01a" + b"b\x01",
        b"\x05table" + b"F\x00\x00\x00\x00",  # the same name again
    ]
)
TRACE = b"\x0btraceparent" + b"S\x00\x00\x00\x37" + b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def _table(entries: bytes) -> bytes:
    return struct.pack(">I", len(entries)) + entries


def _short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


BEFORE = _short(b"a/b") + _short(b"gzip")
AFTER = b"".join(
    [
        b"\x02\x07",
        *map(_short, (b"corr", b"reply", b"60000", b"id")),
        struct.pack(">Q", 1 << 40),
        *map(_short, (b"typ", b"guest", b"app")),
    ]
)


@pytest.mark.parametrize(
    ("flags", "properties", "headers_at"),
    [
        pytest.param(0x0000, b"", None, id="none"),
        pytest.param(0x2000, _table(b""), 0, id="an empty table"),
        pytest.param(0x2000, _table(ENTRIES), 0, id="every tag"),
        pytest.param(0x9000, _short(b"text/plain") + b"\x02", None, id="no table"),
        pytest.param(0xFFF8, BEFORE + _table(ENTRIES) + AFTER, len(BEFORE), id="everything"),
    ],
)  # fmt: skip
def test_property_bytes_survive(amqp_port: int, flags: int, properties: bytes, headers_at: int | None) -> None:
    with RawClient(amqp_port) as client:
        client.open_channel()
        queue = client.queue()
        client.call(1, commands.Basic.Consume(queue=queue, no_ack=True), commands.Basic.ConsumeOk)

        def there_and_back(properties: bytes, flags: int) -> bytes:
            client.send(1, commands.Basic.Publish(routing_key=queue))
            head = struct.pack(">HHQH", 60, 0, 4, flags)
            client.send_bytes(raw_frame(HEADER, 1, head + properties) + raw_frame(BODY, 1, b"body"))
            client.expect(commands.Basic.Deliver, 1)
            found, body = client.content(1)
            assert body == b"body"
            assert found[:12] == head[:12]
            return found[12:]

        # A trace of one's own: nothing is changed.
        if headers_at is not None:
            size = struct.unpack_from(">I", properties, headers_at)[0]
            end = headers_at + 4 + size
            traced = properties[:headers_at] + _table(properties[headers_at + 4 : end] + TRACE) + properties[end:]
            assert there_and_back(traced, flags) == struct.pack(">H", flags) + traced

        # None: one comes at the end of the table, and that is all.
        found = there_and_back(properties, flags)
        assert found[:2] == struct.pack(">H", flags | 0x2000)
        found = found[2:]
        at = found.index(b"\x0btraceparentS\x00\x00\x00\x37")
        without = found[:at] + found[at + len(TRACE) :]
        if headers_at is None:
            assert without.replace(struct.pack(">I", len(TRACE)), b"") == properties
        else:
            larger = struct.pack(">I", size + len(TRACE))
            assert without == properties[:headers_at] + larger + properties[headers_at + 4 :]


def test_another_protocol_version_gets_ours(amqp_port: int) -> None:
    """§4.2.2; what RabbitMQ answers too."""
    for hello in (b"AMQP\x00\x00\x08\x00", b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x03\x01\x00\x00"):
        with RawClient(amqp_port, open=False) as client:
            client.send_bytes(hello)
            assert client.sock.recv(100) == b"AMQP\x00\x00\x09\x01"
            assert _ends(client.sock)


def _ends(sock: socket.socket) -> bool:
    sock.settimeout(5)
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


BROKEN = {
    "bad end": (raw_frame(METHOD, 1, b"\x00\x3c\x00\x0a" + b"\x00" * 7, end=b"\x00"), 501),
    "unknown type": (raw_frame(7, 0, b""), 501),
    "too large": (struct.pack(">BHI", BODY, 1, 1 << 30) + b"x" * 100, 501),
    "no content here": (raw_frame(BODY, 1, b"x"), 505),
    "unknown class": (raw_frame(METHOD, 1, b"\x01\x00\x01\x00"), 503),
    "unknown channel": (raw_frame(METHOD, 9, b"\x00\x3c\x00\x0a" + b"\x00" * 7), 504),
    "cut short": (raw_frame(METHOD, 1, b"\x00\x3c\x00\x28\x00\x00\xff"), 502),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_frames_get_the_protocols_own_answer(amqp_port: int, name: str) -> None:
    data, code = BROKEN[name]
    with RawClient(amqp_port) as client:
        client.open_channel()
        client.send_bytes(data)
        close = client.expect(commands.Connection.Close)
        assert close.reply_code == code, close.reply_text
        assert close.reply_text
        client.send(0, commands.Connection.CloseOk())
        if (
            code != 501
        ):  # after that, nothing more can be made out of what comes, so it takes three seconds as RabbitMQ's
            assert _ends(client.sock)


def test_half_a_message_is_never_published(amqp_port: int, rabbitmq: RabbitMQ) -> None:
    """A client that dies in the middle of a message; and one that dies right after one."""
    rabbitmq.declare("frames.half")
    with RawClient(amqp_port) as client:
        client.open_channel()
        whole = client.publishing(1, "", "frames.half", b"x" * 200_000)
        client.send_bytes(whole + whole[:-1000])
    with RawClient(amqp_port) as client:
        client.open_channel()
        client.send_bytes(whole * 3)
        client.sock.shutdown(socket.SHUT_WR)
        assert _ends(client.sock)
    wait_for(lambda: rabbitmq.depth("frames.half") == 4, "all whole messages, and only those")
    rabbitmq.delete("frames.half")


def test_bytes_one_by_one(amqp_port: int) -> None:
    with RawClient(amqp_port) as client:
        client.open_channel().confirms()
        queue = client.queue()
        for byte in client.publishing(1, "", queue, b"in pieces", commands.Basic.Properties(message_id="m")):
            client.send_bytes(bytes([byte]))
        assert client.expect(commands.Basic.Ack, 1).delivery_tag == 1
        client.send(1, commands.Basic.Get(queue=queue, no_ack=True))
        client.expect(commands.Basic.GetOk, 1)
        assert client.content(1)[1] == b"in pieces"


def test_returns_come_before_their_confirms(amqp_port: int) -> None:
    with RawClient(amqp_port) as client:
        client.open_channel().confirms()
        for number in range(50):
            client.publish(1, "", "no.such.queue", b"%d" % number, mandatory=True)
        answered = 0
        for number in range(50):
            client.expect(commands.Basic.Return, 1)
            assert client.content(1)[1] == b"%d" % number
            while answered <= number:
                ack = client.expect(commands.Basic.Ack, 1)
                assert ack.delivery_tag == number + 1
                answered = ack.delivery_tag


def test_every_publish_is_confirmed_once(amqp_port: int) -> None:
    with RawClient(amqp_port) as client:
        client.open_channel().confirms()
        queue = client.queue()
        client.send_bytes(b"".join(client.publishing(1, "", queue, b"%d" % number) for number in range(3000)))
        done: set[int] = set()
        low = 0
        while len(done) < 3000:
            ack = client.expect(commands.Basic.Ack, 1)
            new = set(range(low + 1, ack.delivery_tag + 1)) - done if ack.multiple else {ack.delivery_tag}
            assert not new & done
            done |= new
            while low + 1 in done:
                low += 1
        assert done == set(range(1, 3001))


@pytest.mark.parametrize("kind", ["raw", "silent", "pika", "aio_pika", "node"])
def test_idle_for_ten_heartbeats(idlers: dict[str, Future[None]], kind: str) -> None:
    """They have been since the first test of this module began, so that there is less to wait for."""
    idlers[kind].result(30)
