"""The trailer section behind a chunked body (RFC 9112 §7.1.2)."""

from __future__ import annotations

import re
from typing import Final

from sidecar.core.replies import ProtocolError
from sidecar.http.h1.lines import END_TO_END, TOKEN

_FIELD: Final = re.compile(TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n")
#: The beginning of a field line, or of the empty line behind the last one.
_FIELD_BEGUN: Final = re.compile(rb"\r|" + TOKEN + rb"++(?::[\t\x20-\x7e\x80-\xff]*+\r?)?")
_VALUE_BEGUN: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*+\r?")

#: What a trailer section must not hold (RFC 9110 §6.5.1): a recipient that merges it into the head would read another
#: message, or take for ours what only a hop may say.
_NOT_IN_TRAILERS: Final = END_TO_END | {
    b"connection", b"proxy-connection", b"te", b"trailer", b"expect", b"authorization", b"forwarded",
    b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id", b"traceparent",
}  # fmt: skip
_LONGEST_TRAILER_NAME: Final = 256


def check_trailer(line: bytes) -> None:
    """Refuse a line of a trailer section that is malformed, or would change the message's framing or routing (RFC 9110
    §6.5.1). Raises :class:`ProtocolError`."""
    if not _FIELD.fullmatch(line):
        raise ProtocolError("a trailer field is malformed")
    name = line.partition(b":")[0].lower()
    if len(name) > _LONGEST_TRAILER_NAME:
        raise ProtocolError("a trailer field's name is too long")
    if name in _NOT_IN_TRAILERS or name.replace(b"_", b"-").startswith(b"x-sidecar-"):
        raise ProtocolError("a trailer field that only a head may have")


def check_begun_trailer(line: bytes, seen: int) -> None:
    """The same for the beginning of a line, which must not be passed on before it was looked at. Its first ``seen``
    bytes were; of a value they are not looked at again."""
    if b":" not in line[:seen][: _LONGEST_TRAILER_NAME + 1]:
        if not _FIELD_BEGUN.fullmatch(line):
            raise ProtocolError("a trailer field is malformed")
        if b":" not in line[: _LONGEST_TRAILER_NAME + 1] and len(line) > _LONGEST_TRAILER_NAME:
            raise ProtocolError("a trailer field's name is too long")
    elif not _VALUE_BEGUN.fullmatch(line, seen - 1 if line[seen - 1] == 0x0D else seen):
        raise ProtocolError("a trailer field is malformed")
