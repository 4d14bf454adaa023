"""Who may do what on the admin API.

Reading is open to whoever can connect, so that scrapers and health checks need no secret, except for ``/config`` on an
address that others can reach. Changing needs the token when there is one, and so does reading what clients have
published (the files that it is in are nobody else's, either) and what single requests were. On a loopback address a web
page in somebody's browser must not be able to drive the API: a foreign Host (DNS rebinding) or a foreign Origin (forged
requests) is refused.
"""

from __future__ import annotations

import hmac
import re
import time
from dataclasses import dataclass
from typing import Final

from sidecar.admin.request import Fields
from sidecar.core.address import is_loopback
from sidecar.core.proof import proven
from sidecar.core.secret import NO_SECRET, Secret

#: A Host field: name or address, IPv6 in brackets, perhaps a port (RFC 9110, section 7.2).
_HOST: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/@?#\s]+))(?::\d{1,5})?")

#: What tells of clients and of what operators do.
_PRIVATE: Final = ("/diagnose", "/events", "/mesh", "/rehearse", "/tap", "/why")

#: What tells of the network around, and is open to this host alone.
_CONFIG: Final = ("/config", "/config/set")

#: What another sidecar may ask that proves to have the same token.
_PEERS: Final = ("/mesh/self", "/why/")


@dataclass(frozen=True, slots=True)
class Access:
    """``host`` is what the admin API is bound to; ``token`` what changing needs, if there is one."""

    host: str
    token: Secret = NO_SECRET


class Refused(Exception):
    """The request may not do that; ``status``, ``code`` and the text are the answer's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def check(access: Access, method: str, path: str, headers: Fields) -> None:
    """Raises :class:`Refused`."""
    changes = method not in ("GET", "HEAD", "OPTIONS")
    local = is_loopback(access.host)
    hosts = headers.getall("Host")
    # Health checkers that speak HTTP/1.0 send no Host; browsers, which this is against, always do.
    if local and hosts and not (len(hosts) == 1 and _leads_here(hosts[0], access)):
        raise Refused(421, "wrong_host", "this admin API is local; ask it as localhost or 127.0.0.1")
    origin = headers.get("Origin", None)
    # Port included: another page on this very host is another site, too.
    if changes and origin is not None and [origin.lower().partition("://")[2]] != [host.lower() for host in hosts]:
        raise Refused(403, "wrong_origin", "a page of another site may not change anything here")
    published = path.startswith("/amqp/") and "/dead-letters" in path
    if changes or published or path.startswith(_PRIVATE) or (path in _CONFIG and not local):
        token = access.token.reveal()
        if token and not _given(headers, token) and not _peer(headers, token, method, path):
            raise Refused(
                401, "token_needed", "send the admin token: 'Authorization: Bearer …' or 'X-Sidecar-Token: …'"
            )
        if not token and not local:  # the configuration's rules do not let this happen
            raise Refused(403, "no_token", "set admin.token: without one this is only allowed on a loopback address")


def _leads_here(host: str, access: Access) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = (found["v6"] or found["name"]).lower()
    return is_loopback(name) or name == access.host.lower()


def _peer(headers: Fields, token: str, method: str, path: str) -> bool:
    """Whether another sidecar asks, which has the same token, what such a one may ask."""
    return path.startswith(_PEERS) and proven(headers.get("Authorization", ""), token, method, path, time.time())


def _given(headers: Fields, token: str) -> bool:
    """Whether the token is in either field. Comparing takes as long whether much of it is right or little."""
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    tried = [headers.get("X-Sidecar-Token", "")]
    if scheme.lower() == "bearer":
        tried.append(bearer.strip())
    wanted = token.encode("utf-8", "surrogateescape")
    return any(hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted) for given in tried)
