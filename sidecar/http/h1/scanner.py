"""Chooses the reader of ordinary heads: the scanner in C (``_scan.c``) where it was built, else none.

It takes a head only when everything in it is in its usual form, and then says what :mod:`sidecar.http.h1.head` would
say, in a tenth of the time. All else is for that parser: what is odd, and what is refused, with its reasons.
``SIDECAR_SCANNER`` is for tests and for comparing: ``python`` does without the scanner, ``c`` insists on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.http.h1._scan import Request, Response

#: Bits of what :func:`scan_request` returns last; as in ``_scan.c``.
KEEPS_ALIVE: Final = 1
EXPECTS_CONTINUE: Final = 2
HAS_DEADLINE: Final = 4
ASKS_LOAD: Final = 8

_VARIABLE: Final = "SIDECAR_SCANNER"


def find_end(data: bytes, seen: int) -> int:
    """Where the head ends that ``data`` begins with, behind its empty line; 0: not in this. In the first ``seen``
    bytes it does not end."""
    found = data.find(b"\r\n\r\n", seen - 3 if seen > 3 else 0)
    return found + 4 if found >= 0 else 0


#: As :func:`find_end`. Finding four bytes is quicker than to have arguments of ``bytes.find`` read.
end_of_head: Callable[[bytes, int], int] = find_end
scan_request: Callable[[bytes, int, int, int], Request | None] | None = None
scan_response: Callable[[bytes, int, int], Response | None] | None = None

_wanted = os.environ.get(_VARIABLE, "")
if _wanted not in ("", "c", "python"):
    raise ValueError(f"{_VARIABLE} is {_wanted!r}; it may be 'c' or 'python'")
if _wanted != "python":
    try:
        from sidecar.http.h1._scan import end_of_head as _end_of_head
        from sidecar.http.h1._scan import scan_request as _scan_request
        from sidecar.http.h1._scan import scan_response as _scan_response
    except ImportError:  # it was not built, or from an older source
        if _wanted == "c":
            raise
    else:
        scan_request = _scan_request
        scan_response = _scan_response
        end_of_head = _end_of_head
