"""What is wrong with a head, in words; and whether the beginning of one can still become one that is right."""

from __future__ import annotations

import re
from typing import Final

from sidecar.core.replies import ProtocolError
from sidecar.http.h1.lines import TOKEN

#: What no head can contain, so that a hopeless one is refused before it is complete.
_HOPELESS: Final = re.compile(rb"(?:^|[^\r])\n|\r[^\n]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BEGINNING: Final = b"HTTP/1."
_REQUEST_ID: Final = re.compile(rb"\r\n(?i:x-request-id):[ \t]*+([\x21-\x7e]{1,128}+)[ \t]*+\r\n")


def given_id(data: bytes) -> str:
    """The request id that a head came with which is refused: its client asks about that one. Empty: there is no good
    one."""
    found = _REQUEST_ID.search(data, 0, 1 << 16)
    return found[1].decode("ascii") if found is not None else ""


def head_too_large(most: int) -> ProtocolError:
    """What is said of a head of more bytes."""
    return ProtocolError(f"the request head is larger than {most} bytes", "headers_too_large")


def diagnose(raw: bytes) -> str:
    """What is wrong with a head that did not match, in words. Only for refusals, so it may take its time."""
    line, _, rest = raw.partition(b"\r\n")
    if b"\x00" in raw:
        return "a NUL byte in the head"
    if re.search(rb"(?<!\r)\n|\r(?!\n)", raw):
        return "a bare CR or LF in the head"
    if not line.startswith(b"HTTP/"):
        parts = line.split(b" ")
        if len(parts) != 3:
            return "the first line is not 'METHOD target HTTP/1.1'"
        if not re.fullmatch(TOKEN + rb"+", parts[0]):
            return "the method is not a token"
        if not re.fullmatch(rb"[\x21-\x7e\x80-\xff]+", parts[1]):
            return "a control byte in the request target"
        if not re.fullmatch(rb"HTTP/1\.[01]", parts[2]):
            return "only HTTP/1.0 and HTTP/1.1 are spoken here"
    for field in rest.split(b"\r\n"):
        if field[:1] in (b" ", b"\t"):
            return "a folded header line (obs-fold)"
        name, colon, value = field.partition(b":")
        if not field:
            break
        if not colon:
            return "a header line without a colon"
        if not re.fullmatch(TOKEN + rb"+", name):
            return "a header name with a space or a forbidden character"
        if not re.fullmatch(rb"[\t\x20-\x7e\x80-\xff]*", value):
            return "a control byte in a header value"
    return "a malformed head"


def hopeless(partial: bytes, start: int = 0) -> bool:
    """Whether the beginning of a head can become a valid one no more. What is before ``start`` was found to be good."""
    # A CR at the end may still become a line's end, so it is looked at again, with the byte before it.
    end = len(partial) - 1 if partial.endswith(b"\r") else len(partial)
    return _HOPELESS.search(partial, max(start - 2, 0), end) is not None


def hopeless_answer(partial: bytes, start: int = 0) -> bool:
    """The same for an answer's head."""
    return not _BEGINNING.startswith(partial[: len(_BEGINNING)]) or hopeless(partial, start)
