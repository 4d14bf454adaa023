"""The kinds of single values: numbers, durations, sizes, rates, addresses, URLs, words, secrets."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, ClassVar, NoReturn, TypeVar

from sidecar.config import hints
from sidecar.config.document import Mapping, Node, Scalar
from sidecar.config.errors import nearest
from sidecar.config.kinds import BROKEN, VARIABLE, Kind, Place, Refused, ScalarKind, substituted
from sidecar.config.model import Address, Registry
from sidecar.core.secret import Secret
from sidecar.core.text import printable

_N = TypeVar("_N", int, float)

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,19}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_DURATION = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,19})?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,18})(B|KiB|MiB|GiB|TiB)?")
_RATE = re.compile(r"([0-9]{1,19}(?:\.[0-9]*)?)/(s|m|h)")
_HOSTNAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_AUTHORITY = re.compile(r"[A-Za-z0-9._-]{1,253}(?::[0-9]{1,5})?")
#: The ports of schemes that somebody may write in front of an address.
_PORTS = {"http": 80, "https": 443, "redis": 6379, "amqp": 5672, "postgres": 5432, "postgresql": 5432}

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

#: The longest secret that is read from a file, bytes.
MAX_SECRET = 64 * 1024

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
    and means no limit."""

    minimum, maximum = 1 / 86400, 1e6

    def __init__(self, *, zero: bool = False) -> None:
        self.zero = zero
        off = ", or 0/s for no limit" if zero else ""
        self.allowed = f"a rate such as 100/s, 600/m, 3600/h; from one a day to 1000000/s{off}"

    def parse(self, scalar: Scalar) -> float:
        match = _RATE.fullmatch(scalar.text)
        if not match:
            raise Refused("is not a rate", nearest=hints.rate(scalar.text))
        value = float(match[1]) / _RATE_UNITS[match[2]]
        if value == 0 and self.zero:
            return 0.0
        return _within(value, self.minimum, self.maximum)

    def show(self, value: float) -> Any:
        return f"{Decimal(repr(_short(value))):f}/s"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": r"^[0-9]+(\.[0-9]*)?/(s|m|h)$"}, VARIABLE]}


class HostPort(ScalarKind):
    """``host:port`` or ``[v6]:port``. ``system_port``: port 0 is allowed, and the system chooses one."""

    def __init__(self, *, system_port: bool = False) -> None:
        self.lowest = 0 if system_port else 1
        chosen = " (0: the system chooses)" if system_port else ""
        self.allowed = f"host:port or [ipv6]:port (in quotes), with a port from {self.lowest} to 65535{chosen}"

    def parse(self, scalar: Scalar) -> Address:
        text = scalar.text
        # A URL, as client libraries take it, may end up here with its password.
        if "@" in text:
            raise Refused("has user info; only host and port stand here", hide=True)
        if "/" in text:
            self._refuse_url(text)
        if text.isascii() and text.isdigit():
            raise Refused("has no host, only a port", nearest=f"127.0.0.1:{text}")
        host, colon, port = text.rpartition(":")
        if not colon:
            raise Refused("has no port")
        if host in ("", "*"):
            raise Refused("has no host; for every address of this machine write 0.0.0.0", nearest=f"0.0.0.0:{port}")
        return Address(_bracketed_host(host), _port(port, self.lowest))

    def _refuse_url(self, text: str) -> NoReturn:
        """Say what of a URL, or of an address with a path, is too much."""
        scheme, separator, rest = text.partition("://")
        authority, slash, path = (rest if separator else text).partition("/")
        extra = [f"{scheme}://"] if separator else []
        extra += [slash + path] if slash else []
        if separator and not authority.rpartition(":")[1] and scheme in _PORTS:
            authority = f"{authority}:{_PORTS[scheme]}"
        try:
            self.parse(Scalar(authority, plain=False, line=0))
        except Refused:
            authority = ""
        what = "a URL" if separator else "more than host and port"
        raise Refused(f"is {what}; leave out {printable(' and '.join(extra))}", nearest=authority)

    def show(self, value: Address) -> Any:
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^(\S+:[0-9]+|.*\$\{.*)$"}


class IpPort(ScalarKind):
    """The address of a server that is found without a name: ``ip``, ``ip:port``, ``[v6]`` or ``[v6]:port``."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.allowed = f"an IPv4 address or an IPv6 address in brackets (in quotes), and :port unless that is {port}"

    def parse(self, scalar: Scalar) -> Address:
        host, colon, digits = scalar.text.rpartition(":")
        if scalar.text.endswith("]") or not colon:
            host, port = scalar.text, self.port
        else:
            port = _port(digits, 1)
        host = _bracketed_host(host)
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise Refused("is not an IP address") from None
        if is_wildcard(host):
            raise Refused("is an address that nobody can dial")
        return Address(host, port)

    def show(self, value: Address) -> Any:
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


class Host(ScalarKind):
    """A host that others can dial, without a port."""

    allowed = "a host name, an IPv4 address or an IPv6 address without brackets; no port, no wildcard"

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if "@" in text:
            raise Refused("has user info; only a host stands here", hide=True)
        if "/" in text:
            bare = text.partition("://")[2] or text
            raise Refused("is a URL; only a host stands here", nearest=bare.partition("/")[0].partition(":")[0])
        name, colon, port = text.rpartition(":")
        if colon and port.isdigit() and (":" not in name or name.endswith("]")):
            raise Refused("has a port; only a host stands here", nearest=name.strip("[]"))
        host = _host(text)
        if is_wildcard(host):
            raise Refused("is an address that nobody can dial")
        return host

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


def is_wildcard(host: str) -> bool:
    """Whether ``host`` means every address of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _bracketed_host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        host = text[1:-1]
        if ":" not in host:
            raise Refused("has brackets around something that is not an IPv6 address")
        return _host(host)
    if ":" in text:
        raise Refused("has more than one colon; an IPv6 address stands in brackets, [::1]:8080")
    return _host(text)


def _host(text: str) -> str:
    if not text:
        raise Refused("has no host; for every address of this machine write 0.0.0.0")
    try:
        ipaddress.ip_address(text)
    except ValueError:
        last = text.rstrip(".").rpartition(".")[2]
        if ":" in text or last.isdigit() or not _HOSTNAME.fullmatch(text):
            raise Refused("has no valid host") from None
    if _CONTROL.search(text) or " " in text:  # an IPv6 scope id may be anything
        raise Refused("has no valid host")
    return text


def _port(text: str, lowest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and lowest <= int(text) <= 65535):
        raise Refused("has no valid port")
    return int(text)


class Url(ScalarKind):
    """An absolute URL without user info, query or fragment; may be empty."""

    def __init__(self, schemes: tuple[str, ...]) -> None:
        self.schemes = schemes
        self.allowed = f"{' or '.join(f'{scheme}://host:port' for scheme in schemes)}, or empty"

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if not text:
            return ""
        if "://" not in text and "@" not in text:
            raise Refused("is not a URL", nearest=f"{self.schemes[0]}://{text}" if _AUTHORITY.fullmatch(text) else "")
        scheme, rest = _split_url(text)
        if scheme not in self.schemes:
            raise Refused("does not begin with a known scheme", nearest=nearest(scheme, self.schemes))
        authority, slash, path = rest.partition("/")
        if any(c in text for c in "?#"):
            raise Refused("has a query or a fragment", hide=True)
        host, colon, digits = authority.rpartition(":")
        if colon and digits.isdigit():
            _port(digits, 1)
            authority_host = host
        else:
            authority_host = authority
        _bracketed_host(authority_host)
        return f"{scheme}://{authority}{slash}{path}"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": rf"^$|^({'|'.join(self.schemes)})://|\$\{{"}


class RegistryUrl(ScalarKind):
    """Where the registry is, as the model's :class:`Registry`."""

    allowed = "consul://host:port, consul+tls://host:port, directory:///absolute/path, or none"
    _PORTS: ClassVar = {"consul": 8500, "consul+tls": 8501}

    def parse(self, scalar: Scalar) -> Registry:
        if scalar.text == "none":
            return Registry()
        text = scalar.text
        if "://" not in text and "@" not in text:
            like = "consul://127.0.0.1:8500" if text.lower() == "consul" else ""
            if text.startswith("/"):
                like = f"directory://{text}"
            elif _AUTHORITY.fullmatch(text) and ":" in text:
                like = f"consul://{text}"
            raise Refused("is not a URL", nearest=like)
        scheme, rest = _split_url(text)
        if scheme in ("http", "https"):
            like = f"consul{'+tls' * (scheme == 'https')}://{rest.partition('/')[0]}"
            raise Refused("is not a registry: its scheme says which kind", nearest=like)
        if scheme == "directory":
            if not rest.startswith("/"):
                raise Refused("is not an absolute path; directory: takes three slashes")
            return Registry(kind="directory", path=rest)
        if scheme not in self._PORTS:
            raise Refused("is not a registry", nearest=nearest(scheme, ("consul", "consul+tls", "directory")))
        authority = rest.removesuffix("/")
        if any(c in authority for c in "/?#"):
            raise Refused("has more than host and port; datacenter and token stand in the consul section", hide=True)
        host, colon, port = authority.rpartition(":")
        if colon and port.isdigit():
            address = Address(_bracketed_host(host), _port(port, 1))
        else:
            address = Address(_bracketed_host(authority), self._PORTS[scheme])
        return Registry(kind="consul", address=address, tls=scheme == "consul+tls")

    def show(self, value: Registry) -> Any:
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^none$|^consul(\+tls)?://.+|^directory:///|\$\{"}


def _split_url(text: str) -> tuple[str, str]:
    if "@" in text:
        raise Refused("has user info; credentials do not belong into a URL", hide=True)
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise Refused("is not a URL")
    if not rest or _CONTROL.search(text) or " " in text:
        raise Refused("is not a valid URL")
    return scheme, rest


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
        self._pattern = re.compile(pattern)
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
        if not self._pattern.fullmatch(text):
            raise Refused("is not allowed")
        return self._convert(text)

    def schema(self) -> dict[str, Any]:
        return {"type": "string"} if self._empty else {"type": "string", "minLength": 1}


class ShortString(Text):
    """A name on the wire of AMQP: at most 255 bytes in UTF-8 (0-9-1, section 4.2.5.3). ``empty``: an empty one is
    allowed, in quotes, as ``key:`` alone is rather something forgotten."""

    def __init__(self, allowed: str, *, empty: bool = False) -> None:
        super().__init__(f"{allowed} of at most 255 bytes", r"[^\x00-\x1f\x7f]{1,255}", empty=empty)

    def parse(self, scalar: Scalar) -> str:
        if scalar.type == "null":
            raise Refused("has no value")
        text = super().parse(scalar)
        if len(text.encode()) > 255:
            raise Refused("is too long")
        return text


class TopicPattern(ShortString):
    """A binding key of a topic exchange: words between dots, where ``*`` stands for one word and ``#`` for any number.
    Inside a word these would be plain characters for the broker, which is never what was meant."""

    def __init__(self) -> None:
        words = 'a pattern in quotes, as "ai.*.#" (words between dots; * is one word, # any number of them),'
        super().__init__(words, empty=True)

    def parse(self, scalar: Scalar) -> str:
        if scalar.type == "null":
            raise Refused("has no value (without quotes, a # begins a comment)")
        text = super().parse(scalar)
        if any(len(word) > 1 and ("*" in word or "#" in word) for word in text.split(".")):
            raise Refused("has a * or # that is only a part of a word; each stands for whole words")
        return text


class MessageKey(ScalarKind):
    """What of a message decides on its partition: a header by its name, ``property:<name>``, or ``key:<n>``, a word of
    the routing key."""

    #: The properties that are short strings and say something about a single message or its sender.
    properties = ("correlation-id", "reply-to", "message-id", "type", "user-id", "app-id")
    #: A routing key of 255 bytes has no more words worth the name.
    most_words = 128
    allowed = (
        f"the name of a header, property:<name> ({', '.join(properties)}), or key:<n> (a word of the routing key, "
        f"from 1 to {most_words})"
    )
    _WORD = re.compile(r"[1-9][0-9]{0,2}")
    _HEADER = re.compile(r"[^\x00-\x1f\x7f:]{1,255}")

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if scalar.type == "null":
            raise Refused("has no value")
        if scalar.type != "str":
            raise Refused(f"is not text for YAML; put it in quotes: {text!r}")
        what, colon, name = text.partition(":")
        if not colon:
            what, name = "header", text
        if what == "header":
            if not self._HEADER.fullmatch(name) or len(name.encode()) > 255:
                raise Refused("is not the name of a header")
            return name
        if what == "property":
            name = name.replace("_", "-")
            if name not in self.properties:
                raise Refused("is not a property to go by", nearest=nearest(name, self.properties))
            return f"property:{name}"
        if what == "key":
            if not self._WORD.fullmatch(name) or int(name) > self.most_words:
                raise Refused("is not the number of a word")
            return text
        raise Refused("is nothing to go by", nearest=nearest(what, ("header", "property", "key")))

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


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
    known elsewhere, with the reason why they are not allowed here."""

    def __init__(self, *values: str, unbuilt: tuple[str, ...] = (), refused: dict[str, str] | None = None) -> None:
        self.values, self.unbuilt, self.refused = values, unbuilt, refused or {}
        self.allowed = _one_of(values)

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if text in self.unbuilt:
            raise Refused(f"{NOT_BUILT}; supported: {', '.join(self.values)}")
        if reason := self.refused.get(text):
            raise Refused(reason)
        if text not in self.values:
            raise Refused("is not one of the known words", nearest=nearest(text, self.values))
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


class SecretValue(Kind):
    """A secret: text, or ``{file: path}``, read now, one trailing newline removed. Its text is never shown, whatever
    is wrong with it."""

    allowed = "text (best as ${VARIABLE}), or {file: /run/secrets/name}"

    def read(self, node: Node, at: Place) -> Any:
        if isinstance(node, Scalar):
            scalar = substituted(node, at)
            if scalar is None:
                return BROKEN
            text = "" if scalar is node and scalar.type == "null" else scalar.text
        elif isinstance(node, Mapping):
            path = self._path(node, at)
            if path is None:
                return BROKEN
            if at.reading.offline:
                return BROKEN
            try:
                text = _secret_file(path)
            except Refused as refused:
                return at.report(str(refused), allowed=self.allowed)
        else:
            return at.report("has the wrong type", found="a list", allowed=self.allowed)
        if _CONTROL.search(text):
            return at.report(
                "is a secret with a line break or another control character in it", allowed="one line of text"
            )
        return Secret(text)

    def _path(self, node: Mapping, at: Place) -> str | None:
        unknown = [other for key, other in node.entries.items() if key != "file"]
        for other in unknown:
            place = at.at(other.key, other.line)
            place.report("is not a known key", allowed="file", nearest=nearest(other.key, ["file"]))
        entry = node.entries.get("file")
        if entry is None:
            if not unknown:
                at.report("names no file", found="an empty mapping", allowed=self.allowed)
            return None
        path = Text("the path of a file", r"[^\x00]{1,4096}").read(entry.value, at.at("file", entry.line))
        return None if path is BROKEN or unknown else str(at.reading.directory / path)

    def show(self, value: Secret) -> Any:
        return "***" if value else ""

    def schema(self) -> dict[str, Any]:
        file = {"type": "string", "minLength": 1, "description": "A file that holds the secret and nothing else."}
        from_file = {"type": "object", "properties": {"file": file}, "required": ["file"]}
        return {"anyOf": [{"type": "string"}, from_file | {"additionalProperties": False}]}


def _secret_file(path: str) -> str:
    try:
        # Not blocking: a named pipe without a writer must not stop the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Refused(f"names {path!r}, which is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_SECRET + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Refused(f"names {path!r}, which cannot be read: {error.strerror}") from None
    if len(data) > MAX_SECRET:
        raise Refused(f"names {path!r}, which is larger than {MAX_SECRET} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Refused(f"names {path!r}, which is not text in UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise Refused(f"names {path!r}, which is empty")
    return text


def _within(value: _N, minimum: _N, maximum: _N) -> _N:
    if not minimum <= value <= maximum:
        raise Refused("is out of range")
    return value


def _short(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _one_of(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
