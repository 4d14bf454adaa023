"""Text from the wire, for those who only take UTF-8: Prometheus, JSON, protobuf."""

from __future__ import annotations


def utf8(text: str) -> str:
    """Bytes that were no UTF-8 stand in a string as lone surrogates; here they become ``\\udcxx``."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
