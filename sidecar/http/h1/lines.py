"""Heads as lines of bytes: what their parts are made of, and lines taken out."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from sidecar.exchange.filter import Answer

Fields: TypeAlias = dict[bytes, bytes]
Pairs: TypeAlias = list[tuple[bytes, bytes]]

#: An interim answer: go on with the body (RFC 9110 §10.1.1). A client that did not ask for it ignores it (§15.2.1).
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
#: Naming one of these in Connection must not make them vanish, or the message would change its meaning.
END_TO_END: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"close", b"keep-alive", b"upgrade"})


def without(raw: bytes, name: bytes) -> bytes:
    """A head without the lines of one field (by lower-case name). By plain search: peers invent names, and an
    expression for each of them would have to be compiled and kept."""
    begin = b"\r\n" + name + b":"
    lower = raw.lower()
    at = lower.find(begin)
    if at < 0:
        return raw
    end = raw.index(b"\r\n", at + 2)
    pieces = [raw[:at]]
    at = lower.find(begin, end)
    while at >= 0:
        pieces.append(raw[end:at])
        end = raw.index(b"\r\n", at + 2)
        at = lower.find(begin, end)
    pieces.append(raw[end:])
    return b"".join(pieces)


def without_those(raw: bytes, name: bytes, begin: bytes) -> tuple[bytes, bytes | None]:
    """A head without the lines of one field (by lower-case name) whose value begins so, and the last such value."""
    found = None
    field = b"\r\n" + name + b":"
    lower = raw.lower()
    at = lower.find(field)
    while at >= 0:
        end = raw.index(b"\r\n", at + 2)
        value = raw[at + len(field) : end].strip(b" \t")
        if value.startswith(begin):
            found = value
            raw = raw[:at] + raw[end:]
            lower = lower[:at] + lower[end:]
            end = at
        at = lower.find(field, end)
    return raw, found


def own_head(answer: Answer, request_id: str) -> bytes:
    """The status line and the fields of an answer that a filter has made, without those about framing."""
    lines = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in answer.fields]
    if request_id:
        lines.append(f"x-request-id: {request_id}\r\n")
    return "".join(lines).encode("latin-1")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
