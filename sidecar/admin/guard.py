"""Who may do what on the admin API.

Reading is open to whoever can connect, so that scrapers and health checks need no secret, except for ``/config`` on an
address that others can reach. Changing needs the token when there is one. On a loopback address a web page in
somebody's browser must not be able to drive the API: a foreign Host (DNS rebinding) or a foreign Origin (forged
requests) is refused.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from sidecar.config.model import Admin


class Refused(Exception):
    """The request may not do that; ``status``, ``code`` and the text are the answer's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def check(admin: Admin, method: str, path: str, headers: Mapping[str, str]) -> None:
    """Raises :class:`Refused`."""
    changes = method not in ("GET", "HEAD", "OPTIONS")
    loopback = is_loopback(admin.bind.host)
    host = (urlsplit(f"//{headers.get('Host', '')}").hostname or "").lower()
    if loopback and not (is_loopback(host) or host == admin.bind.host):
        raise Refused(421, "wrong_host", "this admin API is local; ask it as localhost or 127.0.0.1")
    origin = headers.get("Origin")
    if changes and origin is not None and (urlsplit(origin).hostname or "").lower() != host:
        raise Refused(403, "wrong_origin", "a page of another site may not change anything here")
    token = admin.token.reveal()
    if token and (changes or (path == "/config" and not loopback)) and not _given(headers, token):
        raise Refused(401, "token_needed", "send the admin token: 'Authorization: Bearer …' or 'X-Sidecar-Token: …'")


def is_loopback(host: str) -> bool:
    """Whether a name or address leads to this host only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _given(headers: Mapping[str, str], token: str) -> bool:
    given = headers.get("X-Sidecar-Token", "")
    scheme, _, rest = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        given = rest.strip()
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())
