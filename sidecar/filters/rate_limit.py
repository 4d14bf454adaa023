"""Refuses what comes faster than a rate limit allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from sidecar.config import declared
from sidecar.config.declared import Settings
from sidecar.config.kinds import BROKEN
from sidecar.config.values import Boolean, Integer, Rate, RateKey
from sidecar.core.replies import Reply
from sidecar.exchange.filter import Filter, Site, Wait
from sidecar.exchange.phases import PENDING
from sidecar.exchange.story import milliseconds
from sidecar.resilience.shared_limit import SharedLimit
from sidecar.resilience.token_bucket import KeyedBuckets, TokenBucket

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.request import Request


#: Seconds after which a request goes on that waits for an answer which must have come long before: see SharedLimit.
_BACKSTOP: Final = 5.0


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
    shared: bool = declared.key(
        Boolean(),
        "One limit for all sidecars that have this port, kept in Redis: see the section redis.",
        default=False,
        example=True,
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
        #: In place of both: the limit that sidecars share. A rehearsal has none.
        self.shared: SharedLimit | None = None
        if config.shared and site.shared is not None:
            self.shared = site.shared(config.rate, config.burst, config.key)
        elif kind == "none":
            self._bucket = TokenBucket(config.rate, config.burst, clock())
        else:
            self._keyed = KeyedBuckets(config.rate, config.burst, clock)
        whose = {"none": "", "ip": " from one address", "path": " for one path"}.get(kind, f" with the same {header}")
        self._message = f"more requests{whose} than the {_readable(config.rate)} that are allowed"

    def on_request(self, x: Exchange) -> Reply | Wait | None:
        if self._keyed is None:
            bucket = self._bucket
            if bucket is None:
                return self._take_shared(x)
            wait = bucket.take(self._clock())
        else:
            wait = self._keyed.take(self._key(x))
        if wait:
            return self.refusal(x, wait)
        return None

    def view(self) -> dict[str, Any]:
        return self.shared.view() if self.shared is not None else {}

    def refusal(self, x: Exchange, wait: float) -> Reply:
        """The answer to one too many; ``wait`` is the seconds until the next would pass."""
        config = self.config
        detail = {"rate": config.rate, "burst": config.burst, "key": config.key, "wait_ms": milliseconds(wait)}
        shared = self.shared
        if shared is not None:
            detail["shared"] = shared.on_failure if shared.away else "redis"
            detail["sidecars"] = shared.sidecars
            if shared.away and shared.on_failure == "refuse":
                x.note("rate_limit", detail)
                return Reply("rate_limited", "Redis, which keeps the limit of all sidecars, is away", wait)
        x.note("rate_limit", detail)
        return Reply("rate_limited", self._message, wait)

    def _take_shared(self, x: Exchange) -> Reply | Wait | None:
        shared = self.shared
        assert shared is not None
        key: bytes | str = self._key(x) if shared.keyed else b""
        wait = shared.take(key)
        if wait == 0.0:
            return None
        if wait > 0.0:
            return self.refusal(x, wait)
        suspended = Wait(self._clock() + _BACKSTOP)
        shared.join(key, _Asking(self, x, suspended))
        return suspended

    def _key(self, x: Exchange) -> bytes | str:
        """What the bucket is chosen by. Everybody without the header shares one."""
        if self._by_ip:
            return x.client_ip
        head = cast("Request", x).head  # the configuration allows other keys for HTTP only
        if self._header:
            return head.get(self._header) or b""
        return head.path


class _Asking:
    """An exchange that waits for the answer about its token: :class:`sidecar.resilience.shared_limit.Waiter`."""

    __slots__ = ("_filter", "_suspended", "_x")

    def __init__(self, filter: RateLimit, x: Exchange, suspended: Wait) -> None:
        self._filter = filter
        self._x = x
        self._suspended = suspended

    def decide(self, wait: float) -> bool:
        x = self._x
        if x.phase != PENDING or x.suspended is not self._suspended:
            return False  # its client has left
        if wait:
            x.reply(self._filter.refusal(x, wait))
        else:
            x.grant()
        return True


def _readable(rate: float) -> str:
    """A rate in the unit that the configuration would give it in."""
    return f"{rate:.10g} per second" if rate >= 1 else f"{rate * 60:.4g} per minute"
