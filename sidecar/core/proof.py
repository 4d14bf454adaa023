"""Proves to another sidecar that this one has the same admin token, without sending it: addresses of sidecars come from
a registry, in which others may write, too.

    authorization: Sidecar <unix seconds>:<hex of HMAC-SHA256(token, "METHOD path seconds")>
"""

from __future__ import annotations

import hmac
import re
from typing import Final

SCHEME: Final = "Sidecar"
#: Seconds that two clocks may differ, the way included.
LEEWAY: Final = 60
_FIELD: Final = re.compile(r"(?i:sidecar) ([0-9]{1,12}):([0-9a-f]{64})")


def proof(token: str, method: str, path: str, now: float) -> str:
    """The value of the field ``authorization``. ``path`` is without its query, and decoded."""
    return f"{SCHEME} {int(now)}:{_digest(token, method, path, int(now))}"


def proven(field: str, token: str, method: str, path: str, now: float) -> bool:
    """Whether the field proves it, for this path and at this time. It is good for reading only. To remember those that
    were seen would be of no use: one who got a proof in another's place shows it to a sidecar that has not seen it."""
    found = _FIELD.fullmatch(field)
    if found is None or method not in ("GET", "HEAD") or abs(now - int(found[1])) > LEEWAY:
        return False
    return hmac.compare_digest(found[2], _digest(token, method, path, int(found[1])))


def _digest(token: str, method: str, path: str, seconds: int) -> str:
    text = f"{method} {path} {seconds}".encode("utf-8", "surrogateescape")
    return hmac.new(token.encode("utf-8", "surrogateescape"), text, "sha256").hexdigest()
