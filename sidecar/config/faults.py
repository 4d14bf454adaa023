"""The settings of faults: what is done to which share of which requests, and until when."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from sidecar.config.containers import Fields, Section
from sidecar.config.declared import Settings, key, section, section_as
from sidecar.config.document import Node, Scalar
from sidecar.config.fallback import Steps
from sidecar.config.kinds import BROKEN, VARIABLE, Place, Refused, ScalarKind
from sidecar.config.traffic import Match
from sidecar.config.values import Boolean, Duration, Integer, Share, Size
from sidecar.core.text import timestamp

#: What a fault may do; of those behind the first, one.
KINDS: Final = ("delay", "abort", "reset", "throttle")


class Moment(ScalarKind):
    """A time of day at a date (RFC 3339), kept as Unix time."""

    allowed = "a time as in RFC 3339, with its offset: 2026-12-01T10:30:00Z"

    def parse(self, scalar: Scalar) -> float:
        try:
            found = datetime.datetime.fromisoformat(scalar.text)
        except ValueError:
            raise Refused("is not a time") from None
        if found.tzinfo is None:
            raise Refused("does not say which time zone it is of", nearest=f"{scalar.text}Z")
        return found.timestamp()

    def show(self, value: float) -> Any:
        return timestamp(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "format": "date-time"}, VARIABLE]}


class ByteRate(ScalarKind):
    """Bytes per second: ``10KiB/s``."""

    allowed = "bytes per second, such as 512B/s, 10KiB/s, 1MiB/s; from 1B/s to 1GiB/s"
    _PATTERN: Final = re.compile(r"([^/]+)/s")

    def parse(self, scalar: Scalar) -> int:
        match = self._PATTERN.fullmatch(scalar.text)
        if match is None:
            size = re.fullmatch(r"([0-9]+)(B|KiB|MiB)", scalar.text)
            raise Refused("is not a rate of bytes", nearest=f"{scalar.text}/s" if size else "")
        try:
            return Size("1B", "1GiB").parse(Scalar(match[1], plain=True, line=scalar.line))
        except Refused as refused:
            raise Refused("is out of range" if "range" in str(refused) else "is not a rate of bytes") from None

    def show(self, value: int) -> Any:
        for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value % size == 0:
                return f"{value // size}{unit}/s"
        return f"{value}B/s"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": r"^[0-9]+(B|KiB|MiB|GiB)?/s$"}, VARIABLE]}


class FaultSection(Section):
    """A section that says what its fault does: one thing, with a delay before it or without."""

    def read(self, node: Node, at: Place) -> Any:
        before = len(at.reading.problems)
        fields = super().read(node, at)
        if isinstance(fields, Fields):
            given = [kind for kind in KINDS if kind in fields.places and fields.value(kind) not in (None, False)]
            if not given and len(at.reading.problems) == before:  # else one was meant, and is misspelt
                at.report("does not say what it does", allowed=f"one of {', '.join(KINDS)}")
            elif len(given) > 1 + ("delay" in given):
                at.report(
                    "does more than one thing", found=" and ".join(given),
                    allowed="one of abort, reset, throttle, with a delay or without",
                )  # fmt: skip
        return fields


class FaultSettings(Settings):
    """A fault that the sidecar injects into a share of the requests that match: a delay, and one of abort, reset and
    throttle, or one of these alone. Of faults that match the same request, each gets its share, the first first."""

    cross = ({"anyOf": [{"required": [kind]} for kind in KINDS]},)
    refused: ClassVar[dict[str, str]] = {
        "for": "is for PUT /faults; in the file the end is a time: until",
        "by": "says who has put it by PUT /faults; it is not to be given",
    }

    match: Match = key(section(Match), "Which requests; all, unless it is given. For tcp: not.", default=Match())
    share: float = key(Share(), "Which part of them; for tcp, of the connections.", default=1.0, example="10%")
    delay: float | None = key(
        Duration("1ms", "10m"), "They wait so long before they are sent; timeout.request goes on.", default=None,
        example="2s",
    )  # fmt: skip
    abort: int | None = key(
        Integer(400, 599), "They are answered fault_injected with this status, and nothing is sent. Not for tcp.",
        default=None, example=503,
    )  # fmt: skip
    reset: bool = key(Boolean(), "The client's connection is reset, and nothing is sent.", default=False, example=True)
    throttle: int | None = key(
        ByteRate(), "The answer's body is passed on no faster than that. Not for tcp.", default=None, example="10KiB/s"
    )
    until: float | None = key(
        Moment(), "From then on it is off.", default=None, example="2026-12-01T10:30:00Z", told="until it is taken out"
    )
    #: Who has put it, where that was done by the admin API.
    by: str = dataclasses.field(default="")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those of :data:`KINDS` that it does."""
        return tuple(kind for kind in KINDS if getattr(self, kind))


FAULTS: Final = Steps(section_as(FaultSection, FaultSettings), minimum=1, maximum=64)


def check(root: Fields) -> None:
    """Report what a connection has not: a path, a status, an answer's body."""
    for upstream in root.get("upstreams", {}).values():
        if isinstance(upstream, Fields) and upstream.value("protocol") == "tcp":
            _of_connections(upstream)
    inbound = root.section_of("inbound")
    if inbound is not None and inbound.value("protocol") == "tcp":
        _of_connections(inbound)


def _of_connections(listener: Fields) -> None:
    for fault in _faults(listener):
        for name in ("match", "abort", "throttle"):
            if name in fault.places:
                fault.places[name].report("is not for protocol tcp", allowed="share, delay, reset, until")


def _faults(listener: Fields) -> Iterator[Fields]:
    found = listener.value("faults")
    if found is not BROKEN:
        yield from (it for it in found or () if isinstance(it, Fields))
