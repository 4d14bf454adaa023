"""The head scanner in C. Each function takes one whole head; ``None``: it is odd or bad, and for the parser."""

from typing import TypeAlias

#: What goes on, method, target, fields, length and flags (``scanner.py`` has those).
Request: TypeAlias = tuple[bytes, str, bytes, dict[bytes, bytes], int, int]
#: What goes on, status, fields, length, and whether the connection stays.
Response: TypeAlias = tuple[bytes, int, dict[bytes, bytes], int, bool]

def scan_request(raw: bytes, head: int, headers: int, target: int, /) -> Request | None: ...
def scan_response(raw: bytes, head: int, headers: int, /) -> Response | None: ...
def end_of_head(data: bytes, seen: int, /) -> int: ...
