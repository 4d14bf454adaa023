"""The head scanner in C. The first two read the head that ``data`` begins with; ``None``: not all of it is there, or it
is odd or bad, and for the parser. ``bounds``: :attr:`sidecar.core.limits.Limits.bounds`."""

from typing import TypeAlias

#: What goes on, method, target, fields, length, flags (``scanner.py`` has those), an id that can be kept, and the
#: head's size.
Request: TypeAlias = tuple[bytes, str, bytes, dict[bytes, bytes], int, int, str | None, int]
#: What goes on, status, fields, length, whether the connection stays, and the head's size.
Response: TypeAlias = tuple[bytes, int, dict[bytes, bytes], int, bool, int]

def request_head(data: bytes, bounds: object, /) -> Request | None: ...
def answer_head(data: bytes, bounds: object, /) -> Response | None: ...
def end_of_head(data: bytes, seen: int, /) -> int: ...
