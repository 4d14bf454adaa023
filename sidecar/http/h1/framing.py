"""Where a message's body ends, read from its head (RFC 9112 §6)."""

from __future__ import annotations

from typing import Final

from sidecar.core.replies import ProtocolError
from sidecar.http.h1.lines import Fields, Pairs, without

#: Body framings; a value of 0 or more is a Content-Length.
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

#: Fields that must not be repeated with another value.
_SINGLE: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})

#: Digits of a length that fits any counter.
_LONGEST_LENGTH: Final = 18


def merge(pairs: Pairs, lengths: bool = False) -> Fields:
    """Repeated fields become one list (RFC 9110 §5.3), except those that must not be repeated; ``lengths``: a
    Content-Length may."""
    fields: Fields = {}
    for name, value in pairs:
        lower = name.lower()
        if lower not in fields:
            fields[lower] = value
        elif lower not in _SINGLE or (lengths and lower == b"content-length"):
            fields[lower] += b"," + value
        elif lower != b"content-length" or fields[lower].strip(b" \t") != value.strip(b" \t"):
            raise ProtocolError(f"more than one {lower.decode()} field")
        else:
            raise ProtocolError("content-length is given twice")
    return fields


def framing(raw: bytes, fields: Fields, version: int, answer: bool) -> tuple[int, bytes]:
    """The body's length, or :data:`CHUNKED` (RFC 9112 §6.3, less most leniency), and the head, in which that now stands
    in its usual form."""
    coding = fields.get(b"transfer-encoding")
    length = fields.get(b"content-length")
    if length is None:
        if coding == b" chunked" and version:
            return CHUNKED, raw
    elif coding is None:
        digits = length.strip(b" \t")
        if digits.isdigit() and (digits[0] != 0x30 or len(digits) == 1) and len(digits) <= _LONGEST_LENGTH:
            return int(digits), raw
    return _odd_framing(raw, coding, length, version, answer)


def _odd_framing(
    raw: bytes, coding: bytes | None, length: bytes | None, version: int, answer: bool
) -> tuple[int, bytes]:
    """The same for what is not in its usual form."""
    what = "answer" if answer else "request"
    if coding is not None:
        if length is not None:
            raise ProtocolError(f"the {what} has both Content-Length and Transfer-Encoding")
        if version == 0:
            raise ProtocolError(f"the {what} is HTTP/1.0 and has a Transfer-Encoding")
        if coding.strip(b" ").lower() == b"chunked":
            return CHUNKED, raw
        if not answer or coding.strip(b" \t").lower() != b"chunked":
            raise ProtocolError(f"the {what}'s Transfer-Encoding is not exactly 'chunked'")
        return CHUNKED, b"%btransfer-encoding: chunked\r\n\r\n" % without(raw, b"transfer-encoding")[:-2]
    assert length is not None
    # In an answer the same length again says nothing else (RFC 9110 §8.6).
    given = [item.strip(b" \t") for item in length.split(b",")] if answer else [length.strip(b" \t")]
    values = {digits.lstrip(b"0") or digits[-1:] for digits in given}
    if len(values) > 1:
        raise ProtocolError("more than one content-length field")
    digits = values.pop()
    if not digits.isdigit() or len(digits) > _LONGEST_LENGTH or not (answer or len(given[0]) <= _LONGEST_LENGTH):
        raise ProtocolError(f"the {what}'s Content-Length is not a number")
    # Without zeros in front: some would read it as octal.
    return int(digits), b"%bcontent-length: %b\r\n\r\n" % (without(raw, b"content-length")[:-2], digits)
