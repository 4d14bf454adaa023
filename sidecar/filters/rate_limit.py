"""Refuses what comes faster than a rate limit allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, cast

from sidecar.config.model import RateLimit as Config
from sidecar.core.replies import Reply
from sidecar.exchange.filter import Filter
from sidecar.resilience.token_bucket import KeyedBuckets, TokenBucket

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.request import Request


class RateLimit(Filter):
    """One token bucket, or one for each key. Stands before the bulkhead: what is refused must not take up a place in
    its queue."""

    name: ClassVar[str] = "rate_limit"

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self._clock = clock
        kind, _, header = config.key.partition(":")
        self._by_ip = kind == "ip"
        self._header = header.lower().encode()
        self._bucket: TokenBucket | None = None
        self._keyed: KeyedBuckets | None = None
        if kind == "none":
            self._bucket = TokenBucket(config.rate, config.burst, clock())
        else:
            self._keyed = KeyedBuckets(config.rate, config.burst, clock)
        whose = {"none": "", "ip": " from one address", "path": " for one path"}.get(kind, f" with the same {header}")
        self._message = f"more requests{whose} than the {_readable(config.rate)} that are allowed"

    def on_request(self, x: Exchange) -> Reply | None:
        if self._keyed is None:
            assert self._bucket is not None
            wait = self._bucket.take(self._clock())
        else:
            wait = self._keyed.take(self._key(x))
        if wait:
            return Reply("rate_limited", self._message, wait)
        return None

    def _key(self, x: Exchange) -> bytes | str:
        """What the bucket is chosen by. Everybody without the header shares one."""
        if self._by_ip:
            return x.client_ip
        head = cast("Request", x).head  # the configuration allows other keys for HTTP only
        if self._header:
            return head.get(self._header) or b""
        return head.path


def _readable(rate: float) -> str:
    """A rate in the unit that the configuration would give it in."""
    return f"{rate:.10g} per second" if rate >= 1 else f"{rate * 60:.4g} per minute"
