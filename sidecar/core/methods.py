"""Request methods of HTTP."""

from __future__ import annotations

from typing import Final

#: Those that may be repeated (RFC 9110, section 9.2.2).
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
