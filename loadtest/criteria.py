"""Which hosts may be loaded, and what a run must have achieved to pass."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

#: Names a host, other than this machine, that may be loaded.
ALLOW = "SIDECAR_LOADTEST_ALLOW"


class RefusedHost(Exception):
    """This host must not be loaded; the message says how to allow it."""


def require_allowed(url: str | None, environ: Mapping[str, str]) -> None:
    """Raise :class:`RefusedHost` unless ``url`` is on this machine's loopback, or its host is the one that is allowed.

    Only literal addresses and ``localhost`` count as loopback: what a name resolves to can change under way.
    """
    try:
        host = urlsplit(url or "").hostname
    except ValueError:
        host = None
    if not host:
        raise RefusedHost("name what to load: --host http://127.0.0.1:PORT")
    if host == "localhost" or host == environ.get(ALLOW):
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise RefusedHost(f"{host} is not this machine's loopback; if it is yours to load, say so: {ALLOW}={host}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did: requests finished (failed ones too), seconds from the first to the last, p99 in milliseconds."""

    requests: int
    failures: int
    seconds: float
    p99: float

    @property
    def error_rate(self) -> float:
        """Share of requests that failed, 0 to 1."""
        return self.failures / self.requests if self.requests else 1.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        return (
            f"{self.requests} requests in {self.seconds:.1f} s ({self.rate:.0f}/s), "
            f"{self.failures} failed, p99 {self.p99:.0f} ms"
        )


@dataclass(frozen=True, slots=True)
class Criteria:
    """What to achieve. ``p99``: milliseconds; ``requests``: at least so many, ``within`` seconds; ``rate``: at least so
    many per second, throughout; 0 leaves one out."""

    p99: float
    error_rate: float = 0.01
    requests: int = 0
    within: float = 0.0
    rate: float = 0.0

    def misses(self, outcome: Outcome) -> list[str]:
        """A line for each thing that was not achieved; empty when the run passed."""
        found = []
        if outcome.error_rate > self.error_rate:
            found.append(f"error rate {outcome.error_rate:.2%}, allowed {self.error_rate:.2%}")
        if outcome.p99 > self.p99:
            found.append(f"p99 {outcome.p99:.0f} ms, allowed {self.p99:.0f} ms")
        if outcome.requests < self.requests:
            found.append(f"{outcome.requests} requests, wanted {self.requests}")
        if self.within and outcome.seconds > self.within:
            found.append(f"took {outcome.seconds:.1f} s, allowed {self.within:.1f} s")
        if outcome.rate < self.rate:
            found.append(f"{outcome.rate:.1f} requests/s, wanted {self.rate:.1f}")
        return found
