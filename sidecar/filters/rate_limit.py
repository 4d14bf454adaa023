"""Refuses what comes faster than a rate limit allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sidecar.config.model import RateLimit as Config
from sidecar.proxy.errors import Reply
from sidecar.resilience.token_bucket import KeyedBuckets, TokenBucket

if TYPE_CHECKING:
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.http1.exchange import HttpExchange


class RateLimit:
    """One token bucket, or one for each key. Stands before the bulkhead: what is refused must not take up a place in
    its queue."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._bucket = TokenBucket(config.rate, config.burst, clock())
        self._keyed: KeyedBuckets | None = None
        self._header = b""
        self._kind = config.key
        self._message = f"more than {config.rate:g} requests per second"
        if config.key != "none":
            self._keyed = KeyedBuckets(config.rate, config.burst, clock)
            self._message += f" for one {config.key}"
        if config.key.startswith("header:"):
            self._header = config.key.removeprefix("header:").lower().encode()

    def on_request(self, x: Exchange) -> Reply | None:
        if self._keyed is None:
            wait = self._bucket.take(self._clock())
        else:
            wait = self._keyed.take(self._key(x))
        if wait:
            return Reply("rate_limited", self._message, wait)
        return None

    def _key(self, x: Exchange | HttpExchange) -> bytes | str:
        if self._kind == "ip":
            return x.client_ip
        head = getattr(x, "head")  # noqa: B009 - the other kinds are refused for TCP by the configuration
        if self._header:
            value: bytes = head.get(self._header) or b""
            return value
        path: bytes = head.path
        return path
