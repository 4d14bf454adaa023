"""Where Redis is, and how to get in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.core.address import Address
from sidecar.core.secret import NO_SECRET, Secret

#: Seconds for a connection to stand, with TLS and login. Nobody waits for that, and a sidecar that starts is busy.
CONNECT: Final = 3.0


class Trouble(Exception):
    """Redis cannot be used; the text says why, for people, without a secret in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``addresses`` are the server, or nodes of a cluster, or, where ``sentinel`` names a master, the sentinels.
    ``timeout`` is what an answer may take, seconds. ``ca``: a file with the authorities to believe, in place of the
    system's."""

    addresses: tuple[Address, ...]
    timeout: float = 0.05
    tls: bool = False
    ca: str = ""
    user: str = ""
    password: Secret = NO_SECRET
    database: int = 0
    sentinel: str = ""
