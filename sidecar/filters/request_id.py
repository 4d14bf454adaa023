"""Gives every request an ``x-request-id``: the one it came with, or a new one."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, ClassVar, Final

from sidecar.core.ids import IdLines
from sidecar.exchange.filter import Filter

if TYPE_CHECKING:
    from sidecar.exchange.request import Request

#: What is kept of a peer's id. It goes into logs and answers, so it is short and visible ASCII.
GOOD_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
#: The line of a new one, and where the id stands in it.
_NAME: Final = b"x-request-id: "
_BEGIN: Final = len(_NAME)
_END: Final = _BEGIN + 32


def new_request_id(rng: random.Random) -> str:
    """128 random bits in hexadecimal."""
    return f"{rng.getrandbits(128):032x}"


class RequestId(Filter):
    """Keeps a usable id (then not a byte of the head changes) and replaces an unusable one."""

    name: ClassVar[str] = "request_id"

    def __init__(self, rng: random.Random) -> None:
        self._lines = IdLines(rng, _NAME + b"*" * 32 + b"\r\n")

    def on_request(self, x: Request) -> None:
        head = x.head
        if head.request_id:
            x.request_id = head.request_id
            return
        given = head.fields.get(b"x-request-id")
        if given is not None:
            given = given.strip(b" \t")
            if GOOD_ID.fullmatch(given):
                x.request_id = given.decode("ascii")
                return
            head.remove(b"x-request-id")
        line = self._lines.take()
        x.request_id = line[_BEGIN:_END].decode()
        head.add_line(line)
