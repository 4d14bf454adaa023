"""Why messages become dead letters, and which closes of a broker the same message would lead to again."""

from __future__ import annotations

from typing import Final

from sidecar.amqp.wire.constants import (
    ACCESS_REFUSED,
    COMMAND_INVALID,
    CONTENT_TOO_LARGE,
    FRAME_ERROR,
    NOT_ALLOWED,
    NOT_FOUND,
    NOT_IMPLEMENTED,
    PRECONDITION_FAILED,
    SYNTAX_ERROR,
    UNEXPECTED_FRAME,
)

ACCESS: Final = "access_refused"
EXPIRED: Final = "expired"
MISSED: Final = "not_found"
NACKED: Final = "nacked"
PRECONDITION: Final = "precondition_failed"
REFUSED: Final = "refused"
TOO_LARGE: Final = "too_large"
UNROUTABLE: Final = "unroutable"

#: What is said of those that no broker has given a text for.
PLAIN: Final = {EXPIRED: "they have expired", NACKED: "the broker does not take them"}

_FOR_GOOD: Final = {
    CONTENT_TOO_LARGE: TOO_LARGE,
    ACCESS_REFUSED: ACCESS,
    NOT_FOUND: MISSED,
    PRECONDITION_FAILED: PRECONDITION,
    FRAME_ERROR: REFUSED,
    SYNTAX_ERROR: REFUSED,
    COMMAND_INVALID: REFUSED,
    UNEXPECTED_FRAME: REFUSED,
    NOT_ALLOWED: REFUSED,
    NOT_IMPLEMENTED: REFUSED,
}


def for_good(code: int, text: str) -> str:
    """The reason, when a close with that code and text would only come again; empty: the next try may go well."""
    if code == PRECONDITION_FAILED and " larger than " in text:
        return TOO_LARGE
    return _FOR_GOOD.get(code, "")
