"""Cuts a stream of bytes into frames (AMQP 0-9-1 §4.2.3), sans-I/O."""

from __future__ import annotations

from struct import Struct
from typing import Final

from sidecar.amqp.wire.constants import FRAME_END, FRAME_ERROR, FRAME_OVERHEAD, AmqpError
from sidecar.amqp.wire.runs import cut

_FRAME: Final = Struct(">BHI")
_unpack: Final = _FRAME.unpack_from
_KINDS: Final = frozenset({1, 2, 3, 8})
#: Pieces of a frame that are kept apart: a peer that sends byte by byte must not make an object of each of them.
_MOST_PARTS: Final = 64


class FrameReader:
    """Takes bytes as they come and says where whole frames are in :attr:`data`, which is valid until the next
    :meth:`feed`. ``limit`` is the largest frame, its eight bytes of overhead included; it may be changed at any time
    and is true for the next frame.

    What is kept between two calls is less than one frame. A stream that breaks the rules gets an :attr:`error`; the
    whole frames before it are still given, and nothing after it is.
    """

    __slots__ = ("_need", "_parts", "_size", "data", "error", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.data = b""
        self.error: AmqpError | None = None
        #: The beginning of a frame, in the pieces it came in (joining them each time would be quadratic); its bytes so
        #: far; and how many there must be before it is worth looking again.
        self._parts: list[bytes] = []
        self._size = 0
        self._need = 0

    @property
    def between_frames(self) -> bool:
        """What comes next is the beginning of a frame."""
        return not self._size and self.error is None

    def feed(self, data: bytes, runs: bool = False) -> list[tuple[int, int, int, int]]:
        """(type, channel, start, end) of each whole frame, from its type octet to behind its end octet. ``runs``: of
        each run instead (:mod:`sidecar.amqp.wire.runs`), where they can be found."""
        if self.error is not None:
            return []
        if self._size:
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._need:
                if len(self._parts) > _MOST_PARTS:
                    self._parts = [b"".join(self._parts)]
                return []
            data = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
        self.data = data
        frames: list[tuple[int, int, int, int]] = []
        largest = self.limit - FRAME_OVERHEAD
        pos = 0
        end = len(data)
        if cut is not None:
            frames = cut(data, 0, end, self.limit, runs)
            if frames:
                pos = frames[-1][3]
        # What that has left is the beginning of a frame, or wrong.
        need = FRAME_OVERHEAD
        while end - pos >= FRAME_OVERHEAD:
            kind, channel, size = _unpack(data, pos)
            after = pos + size + FRAME_OVERHEAD
            if kind not in _KINDS:
                self._refuse(f"there is no frame type {kind}")
                return frames
            if size > largest:
                self._refuse(f"a frame of {size + FRAME_OVERHEAD} bytes is larger than frame-max, {self.limit}")
                return frames
            if after > end:
                need = after - pos
                break
            if data[after - 1] != FRAME_END:
                self._refuse("a frame does not end with the end octet")
                return frames
            frames.append((kind, channel, pos, after))
            pos = after
        if pos < end:
            self._parts.append(data[pos:] if pos else data)
            self._size = end - pos
            self._need = need
        return frames

    def _refuse(self, text: str) -> None:
        self.error = AmqpError(FRAME_ERROR, f"FRAME_ERROR - {text}")
