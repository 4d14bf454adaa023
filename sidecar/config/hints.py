"""What somebody may have meant: words of other programs, units as they are written elsewhere, YAML's own traps."""

from __future__ import annotations

import re

#: Names that other programs have for ours.
SYNONYMS = {
    "listen": ("bind",),
    "port": ("bind", "app"),
    "host": ("address",),
    "url": ("endpoints", "otlp", "address"),
    "target": ("endpoints",),
    "targets": ("endpoints",),
    "servers": ("endpoints",),
    "backends": ("endpoints",),
    "hosts": ("endpoints",),
    "instances": ("endpoints",),
    "load_balancer": ("balancer",),
    "lb": ("balancer",),
    "strategy": ("balancer", "backoff_type"),
    "attempts": ("max_attempts",),
    "retries": ("retry", "max_attempts"),
    "max_retries": ("max_attempts",),
    "delay": ("initial_delay",),
    "backoff": ("backoff_type",),
    "breaker": ("circuit_breaker",),
    "healthcheck": ("check",),
    "health_check": ("check",),
    "health": ("check",),
    "path": ("http",),
    "labels": ("meta", "tags"),
    "logging": ("log",),
    "concurrency": ("bulkhead", "max_requests"),
    "limit": ("rate", "rate_limit"),
    "requests_per_second": ("rate",),
    "threshold": ("failure_threshold",),
    "user": ("username",),
}

#: What is spoken by programs, or on top of a protocol.
PROTOCOLS = {
    **dict.fromkeys(("redis", "postgres", "postgresql", "mysql", "mariadb", "mongodb", "kafka", "bolt", "tls"), "tcp"),
    **dict.fromkeys(("rest", "websocket", "ws", "h1"), "http"),
    "rabbitmq": "amqp",
}

#: What the YAML parser says, and what has most likely happened.
YAML = {
    "mapping values are not allowed": 'text with ": " in it stands in quotes; keys of one mapping begin in one column',
    "cannot start any token": "text that begins with @, ` or % stands in quotes",
    "scanning an alias": "text that begins with * stands in quotes",
    "scanning an anchor": "text that begins with & stands in quotes",
    "did not find expected key": "keys of one mapping begin in one column",
    "expected <block end>": "keys of one mapping begin in one column",
    "did not find expected ',' or": "what { or [ begins ends with } or ]",
    "expected ',' or": "what { or [ begins ends with } or ]",
    "scanning a quoted scalar": "what a quote begins ends with one",
}

_QUANTITY = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?:/|per)?\s*([A-Za-z]*)\s*")
_DURATION_UNITS = {
    "ms": "ms msec msecs millis milliseconds millisecond",
    "s": "s sec secs second seconds",
    "m": "m min mins minute minutes",
    "h": "h hr hrs hour hours",
    "d": "d day days",
}
_SIZE_UNITS = {
    "B": "b byte bytes",
    "KiB": "k kb kib",
    "MiB": "m mb mib",
    "GiB": "g gb gib",
    "TiB": "t tb tib",
}
_RATE_UNITS = {
    "s": "s sec second rps qps rs",
    "m": "m min minute rpm",
    "h": "h hr hour rph",
}


def duration(text: str) -> str:
    """``5 sec`` as ``5s``; empty when it cannot be told."""
    return _with_unit(text, _DURATION_UNITS)


def size(text: str) -> str:
    """``64k`` as ``64KiB``; empty when it cannot be told."""
    found = _with_unit(text, _SIZE_UNITS)
    return "" if "." in found else found


def rate(text: str) -> str:
    """``100``, ``100rps`` and ``100 per second`` as ``100/s``; empty when it cannot be told."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return ""
    unit = _unit(match[2], _RATE_UNITS) if match[2] else "s"
    return f"{match[1]}/{unit}" if unit else ""


def _with_unit(text: str, units: dict[str, str]) -> str:
    match = _QUANTITY.fullmatch(text)
    unit = _unit(match[2], units) if match is not None else ""
    return f"{match[1]}{unit}" if match is not None and unit else ""


def _unit(word: str, units: dict[str, str]) -> str:
    return next((unit for unit, words in units.items() if word.lower() in words.split()), "")


def word(text: str) -> str:
    """Text as it stands in a list or a mapping on one line."""
    return f'"{text}"' if any(character in text for character in ":,[]{}#&*!|>'%@` ") else text
