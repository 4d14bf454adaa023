"""The kinds of single values: numbers, durations, sizes, rates, texts, words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

from sidecar.config import hints
from sidecar.config.document import Scalar
from sidecar.config.errors import nearest
from sidecar.config.kinds import VARIABLE, Refused, ScalarKind

_N = TypeVar("_N", int, float)

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,19}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_DURATION = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,19})?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,18})(B|KiB|MiB|GiB|TiB)?")
_RATE = re.compile(r"([0-9]{1,19}(?:\.[0-9]*)?)/(s|m|h)")


_METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"),
    *("ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "LOCK", "MERGE", "MKACTIVITY"),
    *("MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPFIND", "PROPPATCH", "REBIND"),
    *("REPORT", "SEARCH", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL"),
    *("BAN", "PURGE"),
)

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_RATE_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}

#: Why a key or word that is planned is refused.
NOT_BUILT = "is not supported by this version"


class Boolean(ScalarKind):
    """``true`` or ``false``; YAML 1.1's yes, no, on and off are refused, since readers disagree about them."""

    allowed = "true or false"

    def parse(self, scalar: Scalar) -> bool:
        word = scalar.text.lower() if scalar.plain else ""
        if word not in ("true", "false"):
            like = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(
                scalar.text.lower(), scalar.text.lower()
            )
            raise Refused("is not true or false", nearest=like if like in ("true", "false") else "")
        return word == "true"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "boolean"}, VARIABLE]}


class Integer(ScalarKind):
    """A whole number in decimal; leading zeros are refused, since YAML 1.1 takes them for octal."""

    def __init__(self, minimum: int, maximum: int) -> None:
        self.minimum, self.maximum = minimum, maximum
        self.allowed = f"a whole number from {minimum} to {maximum}"

    def parse(self, scalar: Scalar) -> int:
        if not scalar.plain or not _INTEGER.fullmatch(scalar.text):
            plain = scalar.text.strip().replace("_", "").replace(",", "")
            raise Refused("is not a whole number", nearest=plain if _INTEGER.fullmatch(plain) else "")
        return _within(int(scalar.text), self.minimum, self.maximum)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": self.minimum, "maximum": self.maximum}, VARIABLE]}


class Number(ScalarKind):
    """A number, whole or not; never infinite."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum
        self.allowed = f"a number from {minimum:g} to {maximum:g}"

    def parse(self, scalar: Scalar) -> float:
        if not scalar.plain or not _NUMBER.fullmatch(scalar.text):
            raise Refused("is not a number")
        return _within(float(scalar.text), self.minimum, self.maximum)

    def show(self, value: float) -> Any:
        return _short(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "number", "minimum": self.minimum, "maximum": self.maximum}, VARIABLE]}


class Share(Number):
    """A share of all: a number from 0 to 1, or a percentage."""

    def __init__(self) -> None:
        super().__init__(0, 1)
        self.allowed += ", or a percentage such as 1%"

    def parse(self, scalar: Scalar) -> float:
        number = scalar.text.removesuffix("%")
        if number == scalar.text:
            return super().parse(scalar)
        if not _NUMBER.fullmatch(number):
            raise Refused("is not a percentage")
        from decimal import Decimal  # 0.3 MiB, for few files

        return float(Decimal(_within(float(number), 0.0, 100.0).__repr__()) / 100)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [*super().schema()["anyOf"], {"type": "string", "pattern": r"^[0-9]+(\.[0-9]*)?%$"}]}


class Duration(ScalarKind):
    """Seconds: a number, or a number with a unit. ``zero``: 0 is allowed too, and switches the thing off."""

    def __init__(self, minimum: str = "1ms", maximum: str = "24h", *, zero: bool = False) -> None:
        self.minimum, self.maximum, self.zero = seconds(minimum), seconds(maximum), zero
        off = ", or 0 for none" if zero else ""
        self.allowed = f"seconds, or a duration such as 250ms, 30s, 5m, 1h, 7d; from {minimum} to {maximum}{off}"

    def parse(self, scalar: Scalar) -> float:
        try:
            value = seconds(scalar.text)
        except Refused as refused:
            raise Refused(str(refused), nearest=hints.duration(scalar.text)) from None
        if value == 0 and self.zero:
            return 0.0
        return _within(value, self.minimum, self.maximum)

    def show(self, value: float) -> Any:
        return _short(value)

    def schema(self) -> dict[str, Any]:
        number = {"type": "number", "minimum": 0 if self.zero else self.minimum, "maximum": self.maximum}
        return {"anyOf": [number, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)?$"}, VARIABLE]}


class After(Duration):
    """A duration, or ``p95``: what the latest latencies say, kept as 0."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = f"p95, or {self.allowed}"

    def parse(self, scalar: Scalar) -> float:
        return 0.0 if scalar.text == "p95" else super().parse(scalar)

    def show(self, value: float) -> Any:
        return super().show(value) if value else "p95"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"enum": ["p95"]}, *super().schema()["anyOf"]]}


def seconds(text: str) -> float:
    """The seconds of ``30``, ``250ms``, ``30s``, ``5m``, ``1h`` or ``7d``. Raises :class:`Refused`."""
    if match := _DURATION.fullmatch(text):
        if match[2] == "ms":
            return float(match[1]) / 1000  # not times 0.001, which is not exact
        return float(match[1]) * _DURATION_UNITS[match[2]]
    if _NUMBER.fullmatch(text):
        return float(text)
    raise Refused("is not a duration")


class Size(ScalarKind):
    """Bytes: a number, or a number with a unit of 1024. ``zero``: 0 is allowed too, and means no limit."""

    def __init__(self, minimum: str, maximum: str, *, zero: bool = False) -> None:
        self.minimum, self.maximum, self.zero = _bytes(minimum), _bytes(maximum), zero
        off = ", or 0 for no limit" if zero else ""
        self.allowed = f"bytes, or a size such as 512B, 64KiB, 1MiB; from {minimum} to {maximum}{off}"

    def parse(self, scalar: Scalar) -> int:
        try:
            value = _bytes(scalar.text)
        except Refused as refused:
            raise Refused(str(refused), nearest=hints.size(scalar.text)) from None
        if value == 0 and self.zero:
            return 0
        return _within(value, self.minimum, self.maximum)

    def schema(self) -> dict[str, Any]:
        number = {"type": "integer", "minimum": 0 if self.zero else self.minimum, "maximum": self.maximum}
        return {"anyOf": [number, {"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)?$"}, VARIABLE]}


def _bytes(text: str) -> int:
    if match := _SIZE.fullmatch(text):
        return int(match[1]) * _SIZE_UNITS[match[2] or "B"]
    raise Refused("is not a size")


class Rate(ScalarKind):
    """Events per second, written with their unit: ``100/s``, ``600/m``, ``3600/h``. ``zero``: ``0/s`` is allowed too,
    and means ``off``."""

    minimum, maximum = 1 / 86400, 1e6

    def __init__(self, *, zero: bool = False, off: str = "no limit") -> None:
        self.zero = zero
        also = f", or 0/s for {off}" if zero else ""
        self.allowed = f"a rate such as 100/s, 600/m, 3600/h; from one a day to 1000000/s{also}"

    def parse(self, scalar: Scalar) -> float:
        match = _RATE.fullmatch(scalar.text)
        if not match:
            raise Refused("is not a rate", nearest=hints.rate(scalar.text))
        value = float(match[1]) / _RATE_UNITS[match[2]]
        if value == 0 and self.zero:
            return 0.0
        return _within(value, self.minimum, self.maximum)

    def show(self, value: float) -> Any:
        shown = repr(_short(value))
        if "e" in shown:  # as 1e-05, which would not be read again
            from decimal import Decimal

            shown = f"{Decimal(shown):f}"
        return f"{shown}/s"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": r"^[0-9]+(\.[0-9]*)?/(s|m|h)$"}, VARIABLE]}


class Text(ScalarKind):
    """A text. Numbers, true, false and null have to be in quotes, as YAML would take them for something else.

    ``pattern`` has to match all of it; ``convert`` is applied after that; ``empty``: an empty one is allowed.
    """

    def __init__(
        self,
        allowed: str = "text",
        pattern: str = r"[^\x00-\x1f\x7f]{1,1024}",
        *,
        empty: bool = False,
        convert: Callable[[str], str] = str,
    ) -> None:
        self.allowed = allowed + (", or empty" if empty else "")
        self._pattern = pattern  # compiled when it is used, as most never are
        self._empty = empty
        self._convert = convert

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if not text and self._empty and scalar.type in ("str", "null"):
            return ""
        if scalar.type in ("bool", "int", "float"):
            raise Refused(f"is not text for YAML; put it in quotes: {text!r}")
        if scalar.type == "null":
            raise Refused("has no value")
        if not re.fullmatch(self._pattern, text):
            raise Refused("is not allowed")
        return self._convert(text)

    def schema(self) -> dict[str, Any]:
        return {"type": "string"} if self._empty else {"type": "string", "minLength": 1}


#: A token of RFC 9110, section 5.6.2.
HEADER = Text("a header name", r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", convert=str.lower)
#: RFC 9110, section 7.2: uri-host [":" port]; those of RFC 3986 that anybody uses.
HOST_FIELD = Text(
    "a host name or an address, with a port or without",
    r"(?:[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?",
    empty=True,
)
#: Names end up in file names, metric labels and Consul paths, hence no leading dot and no slash.
NAME = Text("a name of letters, digits, . _ - (at most 128, not starting with a dot)", r"(?!\.)[A-Za-z0-9._-]{1,128}")


class Method(ScalarKind):
    """A request method that is registered (IANA, HTTP Method Registry), or that caches know; upper case in the end.
    Methods are case-sensitive on the wire (RFC 9110 §9.1), and none is registered in lower case."""

    known: ClassVar = frozenset(_METHODS)
    allowed = "a request method: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, or another that is registered"

    def parse(self, scalar: Scalar) -> str:
        method = scalar.text.upper()
        if method not in self.known:
            raise Refused("is not a request method", nearest=nearest(method, self.known))
        return method

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"enum": sorted([*self.known, *(method.lower() for method in self.known)])}, VARIABLE]}


class Enum(ScalarKind):
    """One of some words. ``unbuilt``: words that are planned, and refused by this version; ``refused``: words that are
    known elsewhere, with the reason why they are not allowed here; ``meant``: what other words come to here."""

    def __init__(
        self,
        *values: str,
        unbuilt: tuple[str, ...] = (),
        refused: dict[str, str] | None = None,
        meant: dict[str, str] | None = None,
    ) -> None:
        self.values, self.unbuilt, self.refused, self.like = values, unbuilt, refused or {}, meant or {}
        self.allowed = _one_of(values)

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if text in self.unbuilt:
            raise Refused(f"{NOT_BUILT}; supported: {', '.join(self.values)}")
        if reason := self.refused.get(text):
            raise Refused(reason)
        if text not in self.values:
            like = self.like.get(text.lower()) or nearest(text, self.values)
            raise Refused("is not one of the known words", nearest=like)
        return text

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(self.values)}, VARIABLE]}


class Failure(ScalarKind):
    """What counts as a failure: a word, or a status from 400 to 599 (kept as text)."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.allowed = f"{', '.join(words)}, or a status from 400 to 599"

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if text in self.words or re.fullmatch("[45][0-9][0-9]", text):
            return text
        raise Refused("is not a known kind of failure", nearest=nearest(text, self.words))

    def show(self, value: str) -> Any:
        return int(value) if value.isdigit() else value

    def schema(self) -> dict[str, Any]:
        status = {"type": "integer", "minimum": 400, "maximum": 599}
        return {"anyOf": [status, {"enum": list(self.words)}, {"type": "string", "pattern": r"^[45][0-9][0-9]$|\$\{"}]}


class RateKey(ScalarKind):
    """What a rate limit counts by."""

    allowed = "none, ip, path, or header:<name>"
    _HEADER = re.compile(r"header:([A-Za-z0-9!#$%&'*+.^_`|~-]{1,256})")

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if text in ("none", "ip", "path"):
            return text
        if match := self._HEADER.fullmatch(text):
            return f"header:{match[1].lower()}"
        raise Refused("is nothing to count by", nearest=nearest(text, ("none", "ip", "path", "header:")))

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^(none|ip|path|header:.+)$|\$\{"}


class FromHeader(ScalarKind):
    """Where a request says something: ``header:<name>``."""

    allowed = "header:<name>"
    _HEADER = re.compile(r"header:([A-Za-z0-9!#$%&'*+.^_`|~-]{1,256})")

    def parse(self, scalar: Scalar) -> str:
        if match := self._HEADER.fullmatch(scalar.text):
            return f"header:{match[1].lower()}"
        like = f"header:{scalar.text}" if self._HEADER.fullmatch(f"header:{scalar.text}") else ""
        raise Refused("does not say which header", nearest=like)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^header:.+$|\$\{"}


def _within(value: _N, minimum: _N, maximum: _N) -> _N:
    if not minimum <= value <= maximum:
        raise Refused("is out of range")
    return value


def _short(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _one_of(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
