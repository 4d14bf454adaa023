"""Streams of AMQP frames, ordinary and odd, and what runs of them must be: the reading in Python decides."""

from __future__ import annotations

from struct import pack
from types import ModuleType

from sidecar.amqp.wire import content
from sidecar.amqp.wire.constants import AmqpError
from support.amqp import HEARTBEAT, ack, deliver, frame, header, headers, method, priority, publish, short

#: Frames up to this size.
LIMIT = 4096
TRACED = headers(traceparent="00-" + "1" * 52)

#: Of each a run is found, of the number that stands with it.
ORDINARY = [
    (publish(1, "k", b"hello"), 1),
    (publish(1, "k", b"") * 3, 3),
    (publish(7, "key", b"x" * 50, exchange="ex", properties=headers(a="b", c=1), cut=13) * 4, 4),
    (publish(1, "k", b"a", properties=priority(3)) + publish(1, "k", b"bb"), 2),
    (deliver(1, "c", 1, b"hello") + deliver(1, "c", 2, b"") + deliver(1, "c", 3, b"x" * 40), 3),
    (b"".join([ack(2, tag) for tag in range(5, 14)]), 9),
    (deliver(1, "", 2**64 - 1, b"x"), 1),
]

_BODY = frame(3, 1, b"hello")

#: No runs are found in these, or shorter ones.
ODD = [
    b"", b"\x01", HEARTBEAT * 3, HEARTBEAT[:-1] + b"\xcd", b"\x07" + HEARTBEAT[1:], frame(3, 1, b"x" * LIMIT),
    publish(1, "k", b"hello", properties=TRACED), publish(1, "k", b"hello", properties=headers(b3="0")),
    publish(1, "k", b"hello")[:-1], publish(1, "k", b"hello", cut=2)[:-8],
    ack(1, 1, True), ack(1, 0), ack(1, 5) + ack(1, 5), ack(1, 5) + ack(2, 6), ack(1, 5) + ack(1, 7),
    ack(1, 2**64 - 1) + ack(1, 0),
    deliver(1, "c", 0, b"x"), deliver(1, "c", 1, b"x") + deliver(1, "d", 2, b"x"), deliver(1, "c", 1, b"x") * 2,
    publish(1, "k", b"x") + publish(2, "k", b"x") + publish(1, "l", b"x") + publish(1, "k", b"x", exchange="k"),
    method(1, 60, 40, b"\0\0" + short("") + short("k")) + header(1, 5) + _BODY,
    method(1, 60, 40, b"\0\0" + short("") + short("k") + b"\0\0") + header(1, 5) + _BODY,
    method(1, 60, 40, b"\0\0" + short("") + short("k") + b"\0") + header(2, 5) + _BODY,
    method(1, 60, 40, b"\0\0" + short("") + short("k") + b"\0") + header(1, 4) + _BODY,
    method(1, 60, 40, b"\0\0" + short("") + short("k") + b"\0") + header(1, 6) + _BODY,
    method(1, 60, 40, b"\0\0" + short("") + short("k") + b"\0") + header(1, 6) + _BODY + frame(3, 2, b"x"),
    method(1, 60, 40, b"\0\0" + short("") + short("k") + b"\0") + HEARTBEAT + header(1, 5) + _BODY,
    method(1, 60, 40), method(1, 60, 60), method(1, 60, 80), method(1, 60, 60, b"\xff"),
    frame(1, 1, b""), frame(1, 1, b"\0"),
    *[
        method(1, 60, 40, b"\0\0\0\0\0") + frame(2, 1, pack(">HHQ", of_class, 0, size) + rest)
        for of_class, size, rest in [
            (60, 0, b""), (60, 0, b"\0"), (60, 0, b"\0\1"), (60, 2**64 - 1, b"\0\0"), (61, 0, b"\0\0"),
            (60, 0, b"\x80\0"),
            (60, 0, b"\x80\0\xff"), (60, 0, b"\xc0\0\0\xff"), (60, 0, b"\x20\0\0\0\0"), (60, 0, b"\x20\0\0\0\0\1"),
            (60, 0, b"\x20\0\xff\xff\xff\xff"), (60, 0, b"\x20\0\0\0\0\x0f\x0btraceparent\0\0\0"),
            (60, 0, b"\xe0\0\x01a\x01b\0\0\0\0"),
        ]
    ],
]  # fmt: skip


def streams() -> list[bytes]:
    """All of these, by themselves and after others."""
    ordinary = [data for data, _ in ORDINARY]
    return [*ordinary, *ODD, b"".join(ordinary), *(data + odd + data for odd in ODD for data in ordinary[:3])]


def frames(data: bytes, limit: int = LIMIT) -> list[tuple[int, int, int, int]]:
    """The whole and well-formed frames that it begins with: (type, channel, start, end)."""
    found = []
    at = 0
    while len(data) - at >= 8:
        size = int.from_bytes(data[at + 3 : at + 7], "big")
        end = at + size + 8
        if data[at] not in (1, 2, 3, 8) or size > limit - 8 or end > len(data) or data[end - 1] != 0xCE:
            break
        found.append((data[at], int.from_bytes(data[at + 1 : at + 3], "big"), at, end))
        at = end
    return found


def messages(data: bytes, kind: int, start: int, end: int) -> list[list[tuple[int, int, int, int]]]:
    """The frames of each message, or ack, of a run. Fails when it is none."""
    found: list[list[tuple[int, int, int, int]]] = []
    for each in frames(data[:end]):
        if each[2] >= start:
            if each[0] == 1:
                found.append([])
            found[-1].append(each)
    wanted = {16: b"\x00\x3c\x00\x28", 17: b"\x00\x3c\x00\x3c", 18: b"\x00\x3c\x00\x50"}[kind]
    alike = set()
    tags = []
    for number, parts in enumerate(found):
        begin, after = parts[0][2:]
        assert data[begin + 7 : begin + 11] == wanted
        assert {part[1] for part in parts} == {found[0][0][1]}
        if kind == 18:
            assert after - begin == 21
            assert data[begin + 19] == 0
            tags.append(int.from_bytes(data[begin + 11 : begin + 19], "big") - number)
            continue
        at = begin + 12 + data[begin + 11]
        if kind == 16:
            alike.add(data[begin + 13 : after - 2])
        else:
            alike.add(data[begin + 12 : at])
            tags.append(int.from_bytes(data[at : at + 8], "big") - number)
        assert [part[0] for part in parts] == [1, 2, *[3] * (len(parts) - 2)]
        head = parts[1]
        assert content.body_size(data, head[2]) == sum(part[3] - part[2] - 8 for part in parts[2:])
        if kind == 16:
            for name in (content.TRACEPARENT, content.B3):
                assert content.text_header(data, head[2], head[3], name) is None
    assert len(alike) <= 1
    assert len(set(tags)) <= 1
    return found


def compare(module: ModuleType, data: bytes) -> int:
    """Fail if what is found in C is not what there is; the messages and acks in runs."""
    plain = frames(data)
    assert module.cut(data, 0, len(data), LIMIT, False) == plain
    units = module.cut(data, 0, len(data), LIMIT, True)
    taken = 0
    cut = []
    for kind, channel, start, end in units:
        if kind < 16:
            cut.append((kind, channel, start, end))
            continue
        found = messages(data, kind & 0xFF, start, end)
        assert len(found) == kind >> 8
        assert found[0][0][1] == channel
        taken += len(found)
        cut += [part for parts in found for part in parts]
        if kind & 0xFF == 16:
            compare_traces(module, data, start, end, found)
    assert cut == plain
    return taken


def compare_traces(
    module: ModuleType, data: bytes, start: int, end: int, found: list[list[tuple[int, int, int, int]]]
) -> None:
    """The run with traces, put in by either."""
    ids = bytes(range(256)) * (len(found) // 10 + 1)
    least = "9" * 14
    wanted: list[bytes] | None = []
    for number, parts in enumerate(found):
        digits = ids[24 * number : 24 * number + 24].hex()
        flag = 1 if digits[18:32] >= least else 0
        entry = b"\x0btraceparentS\x00\x00\x00\x37" + f"00-{digits[:32]}-{digits[32:]}-0{flag}".encode()
        try:
            new = content.inject(data, parts[1][2], parts[1][3], entry, LIMIT)
        except AmqpError:
            new = None
        if new is None or wanted is None:
            wanted = None
        else:
            wanted += [data[parts[0][2] : parts[0][3]], new, data[parts[1][3] : parts[-1][3]]]
    made = module.add_traces(data, start, end, LIMIT, ids, 0, least.encode())
    assert made == (None if wanted is None else b"".join(wanted))
