"""A message in the spool: from the frames of a publish, and to frames again (AMQP 0-9-1 §4.2.6)."""

from __future__ import annotations

from struct import Struct
from typing import Final

from sidecar.amqp.wire import content
from sidecar.amqp.wire.constants import (
    BASIC_PUBLISH,
    BODY,
    CONTENT_TOO_LARGE,
    EXPIRATION,
    FRAME_OVERHEAD,
    HEADER,
    METHOD,
    SYNTAX_ERROR,
    UNEXPECTED_FRAME,
    AmqpError,
)
from sidecar.amqp.wire.methods import Arguments

_FRAME: Final = Struct(">BHI")
_METHOD: Final = Struct(">BHIIH")
_UINT32: Final = Struct(">I")
_END: Final = b"\xce"
#: The bits of ``basic.publish``; and one of our own (:attr:`SpooledMessage.brief`).
_MANDATORY: Final = 1
_PUBLISH: Final = 3
_BRIEF: Final = 0x80
#: The delivery mode of persistent messages.
_PERSISTENT: Final = 2

#: Where the frame would begin of which a content header's payload is a part.
_FRAME_START: Final = -7

#: What a message costs beside its content: its row, its place in the index, this object's attributes.
OVERHEAD: Final = 128

#: Expirations beyond this are no expirations, seconds (RabbitMQ refuses them anyway).
_LONGEST: Final = 1 << 32


class SpooledMessage:
    """One message. ``id`` is 0 until it is stored; ``flags`` are the bits of ``basic.publish`` and :attr:`brief`;
    ``user`` is who published it, and as whom it is sent on (empty: not known); ``at`` is when it was taken and
    ``expires`` when it is worth nothing any more (0: never), in Unix time; ``attempts`` counts the broker's refusals;
    ``header`` is its content header's payload; ``origin`` says who published it, for people; ``trace`` is its
    ``traceparent`` (empty: none). ``size`` is what it counts as, in bytes. None of what came with it may change once it
    is stored.

    The body may be given as what it is in, with its ``start`` and ``end``: it stays there, so that what somebody else
    has in memory anyway is not there twice."""

    __slots__ = (
        "_end", "_source", "_start", "at", "attempts", "exchange", "expires", "flags", "header", "id", "lane", "origin",
        "priority", "routing_key", "size", "trace", "user", "vhost",
    )  # fmt: skip

    def __init__(
        self,
        vhost: str,
        lane: str,
        exchange: str,
        routing_key: str,
        header: bytes,
        body: bytes,
        flags: int = 0,
        priority: int = 0,
        user: str = "",
        at: float = 0.0,
        expires: float = 0.0,
        origin: str = "",
        trace: str = "",
        start: int = 0,
        end: int = -1,
    ) -> None:
        self.id = 0
        self.vhost = vhost
        self.lane = lane
        self.exchange = exchange
        self.routing_key = routing_key
        self.header = header
        self._source = body
        self._start = start
        self._end = len(body) if end < 0 else end
        self.flags = flags
        self.priority = priority
        self.user = user
        self.at = at
        self.expires = expires
        self.attempts = 0
        self.origin = origin
        self.trace = trace
        self.size = (
            OVERHEAD
            + len(header)
            + self._end
            - start
            + len(vhost)
            + len(lane)
            + len(exchange)
            + len(routing_key)
            + len(user)
            + len(origin)
            + len(trace)
        )

    @property
    def body(self) -> bytes:
        """What it is about."""
        return self._source[self._start : self._end]

    @property
    def content(self) -> bytes | memoryview:
        """The body, where it is."""
        if self._end - self._start == len(self._source):
            return self._source
        return memoryview(self._source)[self._start : self._end]

    def empty(self) -> None:
        """Forget header and body, and nothing else."""
        self.header = self._source = b""
        self._start = self._end = 0

    @property
    def brief(self) -> bool:
        """It is of use for a moment only, and no dead letter when that is over: its queue, or the broker's end, would
        have dropped it."""
        return bool(self.flags & _BRIEF)

    @property
    def stream(self) -> tuple[str, str]:
        """What it has its order in: virtual host and lane."""
        return self.vhost, self.lane

    @property
    def position(self) -> tuple[int, int]:
        """Its place in its stream."""
        return -self.priority, self.id

    def __repr__(self) -> str:
        return f"<SpooledMessage {self.id} to {self.exchange!r} {self.routing_key!r}, {self._end - self._start} bytes>"


def from_frames(
    frames: bytes,
    vhost: str,
    lane: str,
    at: float,
    lifetime: float = 0.0,
    origin: str = "",
    user: str = "",
    ttl: float = 0.0,
    lasting: bool = True,
    transient: float = 0.0,
) -> SpooledMessage:
    """The message of a whole publish: its method, its header, its bodies, as
    :attr:`~sidecar.amqp.flow.publish.Publish.frames` has them. ``user`` published it (empty: whom its ``user-id``
    names). It expires after its own ``expiration``, after ``lifetime`` seconds (0: no limit), or after the ``ttl``
    seconds for which its queues keep it (0: for ever), whichever is first; where nothing of that limits it, after
    ``transient`` seconds (0: never). ``lasting``: it would outlive the broker where it leads to, if it is persistent.
    Raises :class:`AmqpError` when the frames are not a publish, or its properties do not fit their frame."""
    end = _frame(frames, 0, METHOD)
    arguments = Arguments(frames, 0, end)
    if _UINT32.unpack_from(frames, 7)[0] != BASIC_PUBLISH:
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - not a publish")
    arguments.skip(2)
    exchange = arguments.short()
    routing_key = arguments.short()
    flags = arguments.u8()
    start = end
    end = _frame(frames, start, HEADER)
    missing = content.body_size(frames, start)
    properties = content.properties(frames, start, end)
    traceparent = content.text_header(frames, start, end, content.TRACEPARENT)
    header = frames[start + 7 : end - 1]
    body, first, last = _body(frames, end, missing)
    expires = at + lifetime if lifetime else 0.0
    own = seconds(properties.expiration)
    if own is not None and (not expires or at + own < expires):
        expires = at + own
    flags &= _PUBLISH
    ttl = ttl or (0.0 if expires else transient)
    if ttl and (not expires or at + ttl < expires):
        expires = at + ttl
        if not (lasting and properties.delivery_mode == _PERSISTENT):
            flags |= _BRIEF
    return SpooledMessage(
        vhost,
        lane,
        exchange,
        routing_key,
        header,
        body,
        flags,
        properties.priority or 0,
        user or properties.user_id or "",
        at,
        expires,
        origin,
        "" if traceparent is None else traceparent.decode("ascii", "replace"),
        first,
        last,
    )


def _body(frames: bytes, end: int, size: int) -> tuple[bytes, int, int]:
    """What the body is in, and where it begins and ends there: the frames from ``end`` on, ``size`` bytes in all."""
    first = last = end
    parts: list[bytes] = []
    total = len(frames)
    while end < total:
        start = end
        end = _frame(frames, start, BODY)
        if not parts and end == total:  # all of it in one frame, as mostly
            first, last = start + 7, end - 1
        else:
            parts.append(frames[start + 7 : end - 1])
        size -= end - start - FRAME_OVERHEAD
    if size:
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a body of another size than its header says")
    if not parts:
        return frames, first, last
    body = b"".join(parts)
    return body, 0, len(body)


def to_frames(message: SpooledMessage, channel: int, frame_max: int, now: float) -> bytes:
    """The publish anew, for ``channel`` of a connection with that ``frame_max`` (0: no limit). Its ``expiration``, if
    it has one, is less by the time since it was taken; every other byte of its header is as it was. It is
    ``mandatory``: what has been acknowledged must not vanish because no queue wants it. Raises :class:`AmqpError`
    (311) when its header does not fit a frame."""
    exchange = message.exchange.encode("utf-8", "surrogateescape")
    routing_key = message.routing_key.encode("utf-8", "surrogateescape")
    header = message.header
    if now > message.at:
        header = _aged(header, now - message.at)
    if frame_max and len(header) > frame_max - FRAME_OVERHEAD:
        raise AmqpError(
            CONTENT_TOO_LARGE,
            f"CONTENT_TOO_LARGE - properties of {len(header)} bytes do not fit a frame of {frame_max}",
        )
    parts: list[bytes | memoryview] = [
        _METHOD.pack(METHOD, channel, 9 + len(exchange) + len(routing_key), BASIC_PUBLISH, 0),
        bytes((len(exchange),)),
        exchange,
        bytes((len(routing_key),)),
        routing_key,
        bytes((message.flags & _PUBLISH | _MANDATORY,)),
        _END,
        _FRAME.pack(HEADER, channel, len(header)),
        header,
        _END,
    ]
    body = message.content
    size = len(body)
    largest = frame_max - FRAME_OVERHEAD if frame_max else size
    if size <= largest:
        if size:
            parts += (_FRAME.pack(BODY, channel, size), body, _END)
    else:
        for at in range(0, size, largest):
            piece = body[at : at + largest]
            parts += (_FRAME.pack(BODY, channel, len(piece)), piece, _END)
    return b"".join(parts)


def seconds(expiration: str | None) -> float | None:
    """An ``expiration``, which is milliseconds in digits; None when there is none, or it is something else."""
    if not expiration or len(expiration) > 15 or not (expiration.isascii() and expiration.isdigit()):
        return None
    value = int(expiration) / 1000
    return value if value <= _LONGEST else None


def _frame(frames: bytes, start: int, kind: int) -> int:
    """Where the frame at ``start`` ends, which has to be whole and of that kind."""
    if len(frames) - start < FRAME_OVERHEAD:
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a publish without all its frames")
    found = frames[start]
    end: int = start + FRAME_OVERHEAD + int(_UINT32.unpack_from(frames, start + 3)[0])
    if found != kind or end > len(frames):
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a publish without all its frames")
    return end


def _aged(header: bytes, age: float) -> bytes:
    """The header with ``age`` seconds less in its ``expiration``; as it was when there is none, or it is not
    a number. Raises :class:`AmqpError` (502) when the properties do not fit."""
    at = content.place(header, _FRAME_START, len(header) + 1, EXPIRATION)
    if at < 0:
        return header
    after = at + 1 + header[at]
    if after > len(header):
        raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - a message's properties do not fit their frame")
    own = seconds(header[at + 1 : after].decode("utf-8", "replace"))
    if own is None:
        return header
    left = b"%d" % max(0, int((own - age) * 1000))
    return header[:at] + bytes((len(left),)) + left + header[after:]
