"""Streams of AMQP frames to begin with: those of which runs are found, odd ones, what the fuzzer has found."""

from __future__ import annotations

from pathlib import Path
from struct import pack

from support.amqp import HEARTBEAT, ack, deliver, frame, header, headers, method, priority, publish, short
from support.scanner.corpus import literals
from support.scanner.runs_oracle import LIMIT

#: What the fuzzer has found to reach more of the code.
FOUND = Path(__file__).with_name("runs_found.txt")
#: Says of an input that its frames are cut, with LIMIT (:func:`support.scanner.runs_oracle.compare_input`).
HOW = pack("<BHB", 0, LIMIT, 0)
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
            (60, 0, b"\x80\0"), (60, 0, b"\x80\0\1"), (60, 0, b"\xc0\0\0\1"), (60, 0, b"\xc0\0\1"),
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


def corpus() -> list[bytes]:
    """These as the fuzzer reads them, and what it has found."""
    return [*(HOW + data for data in streams()), *literals(FOUND)]
