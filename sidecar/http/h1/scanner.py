"""Chooses the reader of ordinary heads: the scanner in C (``_scan.c``) where it was built, else none.

It takes a head only when it is all there and everything in it is in its usual form, and then says what
:mod:`sidecar.http.h1.head` would say, in a tenth of the time. All else is for that parser: what is odd, and what is
refused, with its reasons.
``SIDECAR_SCANNER`` is for tests and for comparing: ``python`` does without the scanner, ``c`` insists on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar.core.build import PYTHON, C, wanted

if TYPE_CHECKING:
    from sidecar.http.h1._scan import Request, Response

#: Bits of what :func:`scan_request` returns; as in ``_scan.c``.
KEEPS_ALIVE: Final = 1
EXPECTS_CONTINUE: Final = 2
HAS_DEADLINE: Final = 4
ASKS_LOAD: Final = 8
#: Its ``traceparent`` is a good one of the usual form; and how many bits that one's flags stand behind.
TRACED: Final = 16
TRACE_SHIFT: Final = 5


def find_end(data: bytes, seen: int) -> int:
    """Where the head ends that ``data`` begins with, behind its empty line; 0: not in this. In the first ``seen``
    bytes it does not end."""
    found = data.find(b"\r\n\r\n", seen - 3 if seen > 3 else 0)
    return found + 4 if found >= 0 else 0


#: As :func:`find_end`. Finding four bytes is quicker than to have arguments of ``bytes.find`` read.
end_of_head: Callable[[bytes, int], int] = find_end
scan_request: Callable[[bytes, object], Request | None] | None = None
scan_response: Callable[[bytes, object], Response | None] | None = None

_wanted = wanted()
if _wanted != PYTHON:
    try:
        from sidecar.http.h1._scan import answer_head, request_head
        from sidecar.http.h1._scan import end_of_head as _end_of_head
    except ImportError:  # it was not built, or from an older source
        if _wanted == C:
            raise
    else:
        scan_request = request_head
        scan_response = answer_head
        end_of_head = _end_of_head
