"""Which route a recorded request gets: by its path and method, and by what was recorded of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from zlib import crc32

from sidecar.config.keys import INHERIT
from sidecar.config.traffic import Inbound, Upstream
from sidecar.core.decisions import Shape
from sidecar.core.limits import UNLIMITED
from sidecar.exchange.routes import Route
from sidecar.http.h1.blocks import RequestBlock
from sidecar.http.h1.head import parse_request
from sidecar.http.listener import HttpListener

#: Fields that a head is not made with: they would say something about its bytes.
_OF_THE_MESSAGE: Final = frozenset((b"connection", b"content-length", b"expect", b"host", b"transfer-encoding"))
#: Policies that are left out of a rehearsal: they would write to the disk, or change what nobody sees.
_ANSWERS: Final = {
    "wait": "nothing waits for an upstream: what would, is told as an error",
    "cache": "nothing is answered from memory: bodies were not recorded",
    "fallback": "its steps are not taken: what they would answer, is told as an error",
    "faults": "none are injected",
    "llm": "nothing takes a slot or waits for one: bodies were not recorded",
    "mirror": "no copies are made",
}
_LEFT_OUT: Final = ("queue", "host", "wait", "fallback", "faults", "cache")


def head_of(shape: Shape) -> RequestBlock:
    """A head with what is known. Fields that limits count by hold a checksum of their value."""
    lines = [b"%b %b HTTP/1.1" % (shape.method.encode("latin-1"), shape.path or b"/"), b"host: rehearsal"]
    for name, value in zip(shape.names, shape.watched, strict=True):
        if value is not None and name not in _OF_THE_MESSAGE:
            lines.append(b"%b: %08x" % (name, value))
    return parse_request(b"\r\n".join(lines) + b"\r\n\r\n", UNLIMITED)


def meets(shape: Shape, name: bytes, glob: str, salt: int) -> bool | None:
    """Whether a request of that shape has such a field; ``None``: that was not recorded."""
    if (name, glob) in shape.conditions:
        return shape.matched[shape.conditions.index((name, glob))]
    if name not in shape.names:
        return None
    value = shape.watched[shape.names.index(name)]
    if value is None:
        return False
    if glob.strip("*") == "" and glob:
        return True
    return None if "*" in glob or "?" in glob else crc32(glob.encode(), salt) == value


def route_of(
    listener: HttpListener, config: Inbound | Upstream, shape: Shape, head: RequestBlock, salt: int
) -> tuple[Route, bool]:
    """The route of such a request, and whether that is sure."""
    sure = not shape.cut
    for route in listener.routes.candidates(head) if listener.routes is not None else ():
        wanted: Mapping[str, str] = config.routes[route.chain.number].match.headers
        met = [meets(shape, name.lower().encode(), value, salt) for name, value in wanted.items()]
        if all(met):
            return route, sure
        if None in met and False not in met:
            sure = False
    return listener.default_route, sure


def prepared(config: Inbound | Upstream, recorded: set[bytes]) -> tuple[Inbound | Upstream, list[tuple[str, str]]]:
    """The configuration of a port as a rehearsal can carry it out, and what is left out of it, with reasons."""
    left: list[tuple[str, str]] = []
    if config.filters:
        left.append(("filters", "filters of other packages are not run"))
    if any(it.policies.get("queue") for it in (config, *config.routes) if it.policies.get("queue") is not INHERIT):
        left.append(("queue", "requests are not stored: one that would be, is told as an error"))

    for name, reason in _ANSWERS.items():
        if any(it.policies.get(name) for it in (config, *config.routes) if it.policies.get(name) is not INHERIT):
            left.append((name, reason))

    def policies(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: value for name, value in given.items() if name not in _LEFT_OUT}
        found |= {name: None for name in _LEFT_OUT if name in given}
        timeout, limit = found.get("timeout"), found.get("rate_limit")
        if timeout and timeout is not INHERIT:
            found["timeout"] = replace(timeout, idle=0.0)  # how the bytes came was not recorded
        if limit and limit is not INHERIT and limit.shared:
            left.append((f"{path}rate_limit.shared", "other sidecars' requests are not known: it is all for this one"))
        if limit and limit is not INHERIT and limit.key.startswith("header:"):
            name = limit.key.partition(":")[2].lower()
            if name.encode() not in recorded:
                found["rate_limit"] = None
                left.append((f"{path}rate_limit", f"it counts by the field {name}, which was not recorded; once this "
                             "configuration runs, it is"))  # fmt: skip
        return found

    routes = tuple(
        replace(route, policies=policies(f"routes[{number}].", route.policies),
                filters=INHERIT if route.filters is INHERIT else ())
        for number, route in enumerate(config.routes)
    )  # fmt: skip
    return replace(config, policies=policies("", config.policies), routes=routes, filters=()), left
