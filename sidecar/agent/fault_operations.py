"""``/faults``: which faults are on; faults that are put for a while; none at all."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import orjson

from sidecar.agent.faults import Active, FaultBoard, section_of
from sidecar.config.containers import ListOf
from sidecar.config.declared import Settings, key, section, section_as
from sidecar.config.errors import ConfigError, nearest
from sidecar.config.faults import FAULTS, FaultSection, FaultSettings
from sidecar.config.load import value_of
from sidecar.config.values import Duration, Enum, Text
from sidecar.core.json_schema import COUNT, COUNTS, FLAG, NUMBER, TEXT, array, record, ref
from sidecar.core.operations import REFUSED, Answer, Call, Contribution, Operation
from sidecar.core.text import timestamp
from sidecar.filters.faults import told

if TYPE_CHECKING:
    from sidecar.exchange.listener import Listener

#: How long faults are on that are put without a time, and the longest that they may be, seconds: nobody has to
#: remember to end them.
DEFAULT_SECONDS: Final = 300.0
MOST_SECONDS: Final = 3600.0


class PutFault(FaultSettings):
    """A fault as in the file, and where it is to be, and for how long."""

    refused: ClassVar[dict[str, str]] = {}

    upstream: str = key(Text(), "At which upstream.", default="", told="that of all")
    direction: str = key(Enum("outbound", "inbound"), "At an upstream, or at the app's port.", default="outbound")
    for_: float | None = key(Duration("1s", "1h"), "How long it is on.", default=None, told="that of all")


class PutFaults(Settings):
    """The body of ``PUT /faults``."""

    for_: float = key(Duration("1s", "1h"), "How long they are on.", default=DEFAULT_SECONDS)
    upstream: str = key(Text(), "At which upstream those are that do not say.", default="")
    faults: tuple[PutFault, ...] = key(ListOf(section_as(FaultSection, PutFault), maximum=64), "The faults.")


_BODY: Final = section(PutFaults)

_AMOUNT: Final = {"oneOf": [TEXT, NUMBER]}
_MATCH: Final = {
    "type": "object",
    "properties": {"path": TEXT, "methods": array(TEXT), "headers": {"type": "object", "additionalProperties": TEXT}},
}
_UNTIL: Final = TEXT | {"description": "RFC 3339"}
#: What both have: a fault as it is put, and as it is shown.
_DOES: Final = {"match": _MATCH, "abort": COUNT, "reset": FLAG, "throttle": TEXT, "until": _UNTIL}
SCHEMAS: Final[dict[str, Any]] = {
    "Fault": {
        "type": "object",
        "properties": {
            "where": TEXT | {"description": "the path of the section: upstreams.NAME, inbound, a route of these"},
            "direction": {"type": "string", "enum": ["outbound", "inbound"]},
            "upstream": TEXT | {"description": "empty at the app's port"},
            "by": TEXT | {"description": "who has put it; configuration: it is in the file"},
            "text": TEXT,
            "share": NUMBER,
            "delay": NUMBER | {"description": "seconds"},
            **_DOES,
        },
        "required": ["where", "direction", "upstream", "by", "text", "share"],
    },
    "Faults": record(
        faults=array(ref("Fault")),
        injected={"type": "object", "additionalProperties": COUNTS}
        | {"description": "what was done so far, by section and kind"},
    ),
    "PutFaults": {
        "type": "object",
        "properties": {
            "for": _AMOUNT | {"description": "how long, at most 1h; by default 5m"},
            "upstream": TEXT | {"description": "of those that do not say it"},
            "faults": array(
                {
                    "type": "object",
                    "properties": {
                        "upstream": TEXT,
                        "direction": {"type": "string", "enum": ["outbound", "inbound"]},
                        "for": _AMOUNT,
                        "share": _AMOUNT,
                        "delay": _AMOUNT,
                        **_DOES,
                    },
                    "additionalProperties": False,
                }
            ),
        },
        "required": ["faults"],
        "additionalProperties": False,
    },
}


class BadFaults(Exception):
    """They cannot be put so; the text says why."""


class FaultOperations:
    """The handlers. ``wall`` is Unix time."""

    def __init__(
        self, board: FaultBoard, listeners: Callable[[], Sequence[Listener]], wall: Callable[[], float] = time.time
    ) -> None:
        self._board = board
        self._listeners = listeners
        self._wall = wall

    def contribution(self) -> Contribution:
        """Return the operations, with the shapes of what they take and answer."""
        on = {200: "the faults that are on"}
        operations = (
            Operation("GET", "/faults", "The faults that are injected on purpose, and how often they were", self.show,
                      {**on, **REFUSED}, "Faults", private=True),
            Operation("PUT", "/faults", "Inject these faults for a while (for: 5m, at most 1h), in place of those that "
                      "were put before and beside those of the file", self.put,
                      {**on, 400: "not said so that it can be done; nothing has changed", **REFUSED}, "Faults",
                      body="PutFaults", largest=1 << 16),
            Operation("DELETE", "/faults", "Inject no faults any more; those of the file are on again when it is read "
                      "again", self.end, {**on, **REFUSED}, "Faults"),
        )  # fmt: skip
        return Contribution(operations, SCHEMAS)

    async def show(self, call: Call) -> Answer:
        """Answer ``GET /faults``."""
        return Answer(self._view())

    async def put(self, call: Call) -> Answer:
        """Answer ``PUT /faults``."""
        try:
            self._board.put(self._read(await call.read(), call.client or "the admin API"))
        except BadFaults as error:
            return Answer({"error": "bad_faults", "message": str(error)}, 400)
        return Answer(self._view())

    async def end(self, call: Call) -> Answer:
        """Answer ``DELETE /faults``."""
        self._board.off()
        return Answer(self._view())

    def _view(self) -> dict[str, Any]:
        listeners = {section_of(it.stats): it.stats for it in self._listeners()}
        return {
            "faults": [as_dict(it) for it in self._board.active()],
            "injected": {where: dict(stats.faults) for where, stats in listeners.items() if stats.faults},
        }

    def _read(self, body: bytes, by: str) -> Mapping[str, Sequence[FaultSettings]]:
        """What is to be put, by the path of its listener's section. Raises :class:`BadFaults`."""
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadFaults(f"the body is no JSON: {error}") from None
        try:
            wanted: PutFaults = value_of(_BODY, data, "")
        except ConfigError as error:
            raise BadFaults("; ".join(map(_said, error.problems))) from None
        now = self._wall()
        found: dict[str, list[FaultSettings]] = {}
        for number, it in enumerate(wanted.faults):
            where = self._where(f"faults[{number}]", it, it.upstream or wanted.upstream)
            until = _end(f"faults[{number}]", it, now, wanted.for_)
            found.setdefault(where, []).append(_settings(it, until, by))
        return found

    def _where(self, path: str, it: PutFault, upstream: str) -> str:
        """The path of the section of its listener."""
        known = {section_of(listener.stats): listener.stats.protocol for listener in self._listeners()}
        where = "inbound" if it.direction == "inbound" else f"upstreams.{upstream}"
        names = [name.partition(".")[2] for name in known if name != "inbound"]
        if where not in known:
            if where == "inbound":
                raise BadFaults(f"{path}.direction: this sidecar has no inbound port")
            if not upstream:
                raise BadFaults(f"{path}.upstream is missing; there are: {', '.join(names) or 'none'}")
            like = nearest(upstream, names)
            raise BadFaults(
                f"{path}.upstream: no such upstream: {upstream[:80]!r}; there are: {', '.join(names) or 'none'}"
                + (f"; nearest: {like}" if like else "")
            )
        protocol = known[where]
        if protocol not in ("http", "tcp"):
            raise BadFaults(f"{path}: faults are not for protocol {protocol}")
        if protocol == "tcp" and (it.abort or it.throttle or it.match != type(it.match)()):
            raise BadFaults(f"{path}: at a port of protocol tcp there are share, delay and reset")
        return where


def _end(path: str, it: PutFault, now: float, seconds: float) -> float:
    """When it is over, Unix time."""
    if it.until is None:
        return now + (seconds if it.for_ is None else it.for_)
    if it.for_ is not None:
        raise BadFaults(f"{path} says twice how long: for and until")
    if not now < it.until <= now + MOST_SECONDS:
        raise BadFaults(f"{path}.until has to be within an hour from now; found {timestamp(it.until)}")
    return it.until


def _settings(it: PutFault, until: float, by: str) -> FaultSettings:
    """The same as the file would have it."""
    fields = {field.name: getattr(it, field.name) for field in dataclasses.fields(FaultSettings)}
    return FaultSettings(**{**fields, "until": until, "by": by})


def _said(problem: Any) -> str:
    text = f"{problem.path} {problem.message}".strip()
    for name in ("found", "allowed", "nearest"):
        if value := getattr(problem, name):
            text += f"; {name}: {value}"
    return text


def as_dict(it: Active) -> dict[str, Any]:
    """A fault as JSON can hold it: the keys of the file, and where it is, and who has put it."""
    where, fault = it
    section, _, rest = where.partition(".")
    return {
        "where": where,
        "direction": "inbound" if section == "inbound" else "outbound",
        "upstream": "" if section == "inbound" else rest.partition(".routes[")[0],
        "by": fault.by or "configuration",
        "text": told(fault),
        **{name: value for name, value in FAULTS.item.show(fault).items() if value is not False},
    }
