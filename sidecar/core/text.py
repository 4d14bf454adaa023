"""Text for logs, people, and those who only take UTF-8: Prometheus, JSON, protobuf."""

from __future__ import annotations

import time


def utf8(text: str) -> str:
    """Bytes that were no UTF-8 stand in a string as lone surrogates; here they become ``\\udcxx``."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def counted(number: int, noun: str) -> str:
    """``1 listener``, ``2 listeners``, for nouns whose plural ends so."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def timestamp(seconds: float) -> str:
    """Unix time as RFC 3339, UTC, with milliseconds."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"


def printable(text: str, limit: int = 80) -> str:
    """``text`` fit for a terminal: on one line, without control characters, cut at ``limit`` characters."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
