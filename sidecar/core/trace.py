"""Trace context on the wire: W3C ``traceparent`` and Zipkin's B3. Parsing and writing only, no I/O and no policy.

Sources: W3C Trace Context, level 2, §3.2; openzipkin/b3-propagation. The OpenTelemetry SDK would do the same in thirty
times the time, so it is only used where spans are exported.
"""

from __future__ import annotations

import re
from typing import Final

_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_B3: Final = re.compile(rb"([0-9a-f]{16}|[0-9a-f]{32})-([0-9a-f]{16})(?:-([01d]))?(?:-[0-9a-f]{16})?")
_ID: Final = re.compile(rb"[0-9a-f]{16}|[0-9a-f]{32}")
#: "d" is debug, which is sampled; words are from before the specification.
_B3_SAMPLED: Final[dict[bytes | None, bool]] = {b"0": False, b"1": True, b"d": True, b"false": False, b"true": True}
_HEX: Final = b"0123456789abcdef"
_DASH: Final = 0x2D
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16


#: ``trace-flags``: it is recorded; its trace id is random (level 2).
SAMPLED: Final = 1
_RANDOM: Final = 2


#: The flags that we write, as text: a table is quicker than formatting.
_FLAGS: Final = {flags: f"{flags:02x}" for flags in range(4)}


class Trace:
    """Where an exchange stands in its trace. All ids are lower-case hexadecimal; ``parent_id`` is empty when the
    trace began here. ``tries``: where each try is a span of its own, their ids."""

    __slots__ = ("flags", "parent_id", "sampled", "span_id", "trace_id", "tries")

    def __init__(self, trace_id: str, span_id: str, parent_id: str, flags: int) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.flags = flags
        self.sampled = bool(flags & SAMPLED)
        self.tries: tuple[str, ...] = ()

    def below(self, span_id: str) -> Trace:
        """A span of that id below this one."""
        return Trace(self.trace_id, span_id, self.span_id, self.flags)


def parse_traceparent(value: bytes) -> tuple[str, str, int] | None:
    """(trace id, span id, flags), or ``None`` when it is malformed. A version above 00 may have more parts; flags that
    we do not know are cleared (§3.2.2.5)."""
    if len(value) == 55 and value[35] == value[52] == _DASH and value[:3] == b"00-" and not _more_than_hex(value):
        # What nearly everybody sends, at a fraction of what the expression costs.
        if value[3:35] == _NO_TRACE or value[36:52] == _NO_SPAN:
            return None
        text = value.decode()
        return text[3:35], text[36:52], int(text[53:], 16) & (SAMPLED | _RANDOM)
    found = _TRACEPARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return trace_id.decode(), span_id.decode(), int(flags, 16) & (SAMPLED | _RANDOM)


def _more_than_hex(value: bytes) -> bool:
    """Whether there is anything in it but three dashes and lower-case hexadecimal digits."""
    return value.translate(None, _HEX) != b"---"


def trace_of(given: bytes | None) -> Trace | None:
    """The context that a request goes on with, read from its ``traceparent``."""
    context = parse_traceparent(given) if given is not None else None
    return Trace(context[0], context[1], "", context[2]) if context is not None else None


def traceparent(trace: Trace) -> bytes:
    """The field's value for what comes after us."""
    return f"00-{trace.trace_id}-{trace.span_id}-{_FLAGS[trace.flags]}".encode()


def parse_b3(fields: dict[bytes, bytes]) -> tuple[str, str, bool | None]:
    """From ``b3`` or the ``x-b3-…`` fields: trace id of 32 digits and span id, both empty when there is no usable
    context, and whether it is sampled (``None``: you decide). The last can come alone ("deny")."""
    single = fields.get(b"b3")
    if single is not None:
        value = single.strip(b" \t").lower()
        found = _B3.fullmatch(value)
        if found is None:
            return "", "", _B3_SAMPLED.get(value)
        trace_id, span_id, flag = found.groups()
    else:
        trace_id = fields.get(b"x-b3-traceid", b"").strip(b" \t").lower()
        span_id = fields.get(b"x-b3-spanid", b"").strip(b" \t").lower()
        flag = fields.get(b"x-b3-sampled", b"").strip(b" \t").lower()
        if fields.get(b"x-b3-flags", b"").strip(b" \t") == b"1":
            flag = b"d"
    sampled = _B3_SAMPLED.get(flag)
    if not (_ID.fullmatch(trace_id) and len(span_id) == 16 and _ID.fullmatch(span_id)):
        return "", "", sampled
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return "", "", sampled
    return trace_id.decode().zfill(32), span_id.decode(), sampled


def b3_fields(trace: Trace, single: bool) -> list[tuple[bytes, bytes]]:
    """The B3 fields for what comes after us."""
    sampled = b"1" if trace.sampled else b"0"
    trace_id, span_id = trace.trace_id.encode(), trace.span_id.encode()
    if single:
        return [(b"b3", b"%b-%b-%b" % (trace_id, span_id, sampled))]
    fields = [(b"x-b3-traceid", trace_id), (b"x-b3-spanid", span_id), (b"x-b3-sampled", sampled)]
    if trace.parent_id:
        fields.append((b"x-b3-parentspanid", trace.parent_id.encode()))
    return fields
