"""The keys about Redis, in which limits are kept that sidecars share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from sidecar.config.addresses import HostPort
from sidecar.config.declared import Settings, key
from sidecar.config.document import Scalar
from sidecar.config.errors import nearest
from sidecar.config.kinds import CONTROL, Refused, ScalarKind
from sidecar.config.secrets import SecretValue
from sidecar.config.values import Duration, Enum, Integer, Text
from sidecar.core.address import Address
from sidecar.core.secret import NO_SECRET, Secret

_SCHEMES: Final = ("redis", "rediss")
#: The most addresses.
_MOST: Final = 16
_PORT: Final = 6379
_HOSTS: Final = re.compile(r"[A-Za-z0-9._:,\[\]-]{1,253}")


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """``redis://host:port[,host:port…][/database]``; ``rediss`` is with TLS."""

    addresses: tuple[Address, ...]
    tls: bool = False
    database: int = 0

    def __str__(self) -> str:
        where = ",".join(str(it) for it in self.addresses)
        return f"redis{'s' * self.tls}://{where}" + (f"/{self.database}" if self.database else "")


class RedisUrlKind(ScalarKind):
    """Where Redis is, as a :class:`RedisUrl`."""

    allowed = "redis://host:port/database, rediss:// for TLS; several as host:port,host:port"

    def parse(self, scalar: Scalar) -> RedisUrl:
        text = scalar.text
        if "@" in text:
            raise Refused("has user info; user and password have keys of their own beside url", hide=True)
        scheme, separator, rest = text.partition("://")
        if not separator:
            raise Refused("is not a URL", nearest=f"redis://{text}" if _HOSTS.fullmatch(text) else "")
        if scheme not in _SCHEMES:
            raise Refused("does not begin with a known scheme", nearest=nearest(scheme, _SCHEMES))
        if CONTROL.search(text) or " " in text or "?" in text or "#" in text:
            raise Refused("is not a valid URL", hide="?" in text)
        hosts, _, database = rest.partition("/")
        if database and not (database.isascii() and database.isdigit() and len(database) <= 4):
            raise Refused("has no valid database: a number behind the slash")
        items = hosts.split(",")
        if len(items) > _MOST:
            raise Refused(f"has more than {_MOST} addresses")
        return RedisUrl(tuple(_address(item) for item in items), scheme == "rediss", int(database or 0))

    def show(self, value: RedisUrl) -> Any:
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^rediss?://.+|\$\{"}


def _address(text: str) -> Address:
    bare = text if text.rpartition(":")[1] and not text.endswith("]") else f"{text}:{_PORT}"
    return HostPort().parse(Scalar(bare, plain=False, line=0))


class Redis(Settings):
    """Where limits are kept that sidecars share (rate_limit.shared). None unless given."""

    short = "url"

    url: RedisUrl = key(
        RedisUrlKind(),
        "The server, nodes of a cluster, or with sentinel the sentinels.",
        example="redis://127.0.0.1:6379/0",
    )
    sentinel: str = key(
        Text("a master's name", r"[A-Za-z0-9._-]{1,128}", empty=True),
        "The name of the master that the sentinels at url watch; empty: there are none.",
        default="",
        example="mymaster",
    )
    user: str = key(
        Text("a user's name", r"[^\x00-\x20\x7f]{1,256}", empty=True), "Empty: the default user.", default=""
    )
    password: Secret = key(
        SecretValue(), "Empty: there is no login.", default=NO_SECRET, example={"file": "/run/secrets/redis"}
    )
    ca: str = key(
        Text("the path of a file", r"[^\x00]{1,4096}", empty=True),
        "With TLS: certificates of the authorities to believe; empty: the system's.",
        default="",
        example="/etc/ssl/redis-ca.pem",
    )
    timeout: float = key(
        Duration("1ms", "10s"), "The longest an answer may take before Redis counts as away.", default=0.05,
        example="50ms",
    )  # fmt: skip
    on_failure: str = key(
        Enum("local", "refuse", "allow"),
        "While Redis is away. local: each sidecar has its share of the limit; refuse: none passes; allow: all do.",
        default="local",
    )
    sidecars: int = key(
        Integer(1, 100_000),
        "How many are taken to share a limit until Redis has said it.",
        default=1,
        example=8,
    )
