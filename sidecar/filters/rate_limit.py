"""Refuses what comes faster than a rate limit allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sidecar.config import declared
from sidecar.config.declared import Settings
from sidecar.config.kinds import BROKEN
from sidecar.config.values import Integer, Rate, RateKey
from sidecar.core.replies import Reply
from sidecar.exchange.filter import Filter, Site
from sidecar.exchange.story import milliseconds
from sidecar.resilience.token_bucket import KeyedBuckets, TokenBucket

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.request import Request


class RateLimitSettings(Settings):
    """``rate`` tokens per second, at most ``burst`` of them, one bucket per ``key``."""

    short = "rate"

    rate: float = declared.key(Rate(), "How fast tokens come back.", example="100/s")
    burst: int = declared.key(
        Integer(1, 1_000_000), "The most tokens there can be.", example=200, told="one second's worth"
    )
    key: str = declared.key(
        RateKey(),
        "What has a bucket of its own: all together, each client, each path, each header value.",
        default="none",
    )

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        given.setdefault("burst", max(1, math.ceil(given["rate"])))

    @staticmethod
    def check(given: Sequence[Any], protocol: str) -> None:
        for fields in given:
            counted = fields.value("key")
            if protocol != "http" and counted not in (BROKEN, "none", "ip"):
                fields.places["key"].report(f"is not for protocol {protocol}", found=f'"{counted}"', allowed="none, ip")


class RateLimit(Filter):
    """One token bucket, or one for each key. Stands before the bulkhead: what is refused must not take up a place in
    its queue."""

    name: ClassVar[str] = "rate_limit"
    settings_class: ClassVar[Any] = RateLimitSettings
    doc: ClassVar[str] = (
        "At most so many requests (tcp, amqp: connections) in a time; more are answered 429 (tcp, amqp: closed)."
    )
    key_docs: ClassVar[dict[str, str]] = {
        "inbound": "Admission by rate; there is none unless it is given.",
        "outbound": "There is none unless it is given.",
    }
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp", "amqp")
    replies: ClassVar[dict[str, int]] = {"rate_limited": 429}

    def __init__(self, config: RateLimitSettings, site: Site) -> None:
        super().__init__(config, site)
        self._clock = clock = site.clock
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
            config = self.config
            x.note(
                "rate_limit",
                {"rate": config.rate, "burst": config.burst, "key": config.key, "wait_ms": milliseconds(wait)},
            )
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
