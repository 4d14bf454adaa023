"""The kinds of addresses: host and port, host alone, URLs, where the registry is."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from sidecar.config.document import Scalar
from sidecar.config.errors import nearest
from sidecar.config.kinds import CONTROL, Refused, ScalarKind
from sidecar.core.address import Address
from sidecar.core.text import printable

_HOSTNAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")
_AUTHORITY = re.compile(r"[A-Za-z0-9._-]{1,253}(?::[0-9]{1,5})?")
#: The ports of schemes that somebody may write in front of an address.
_PORTS = {"http": 80, "https": 443, "redis": 6379, "amqp": 5672, "postgres": 5432, "postgresql": 5432}


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
    if CONTROL.search(text) or " " in text:  # an IPv6 scope id may be anything
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Where instances are found: ``consul`` (host, port, tls), ``directory`` (path) or ``none``."""

    kind: str = "none"
    address: Address | None = None
    tls: bool = False
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "consul":
            return f"consul{'+tls' if self.tls else ''}://{self.address}"
        return f"directory://{self.path}" if self.kind == "directory" else "none"


class RegistryUrl(ScalarKind):
    """Where the registry is, as a :class:`Registry`."""

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
    if not rest or CONTROL.search(text) or " " in text:
        raise Refused("is not a valid URL")
    return scheme, rest
