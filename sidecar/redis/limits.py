"""Limits that sidecars share, in Redis: two scripts, and who has asked how much."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any, Final

from sidecar.redis.client import Client, Script
from sidecar.redis.resp import ErrorReply, Reply
from sidecar.resilience.shared_limit import Lease, SharedLimit

logger = logging.getLogger("sidecar.redis")

#: The generic cell rate algorithm (ITU-T I.371): all that is kept of a bucket is the time at which it will be full. The
#: clock is Redis' own. Microseconds; rounded up to what a double can still tell apart in our century, a quarter, so
#: that rounding never grants. Nothing that is stored is believed to be a sensible number.
TAKE: Final = Script("""\
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full = tonumber(redis.call('GET', KEYS[1]) or now) or now
if not (full >= now) then full = now end
full = math.min(full, now + (burst + 1) * interval)
local granted = math.min(math.floor((now + burst * interval - full) / interval + 0.001), wanted)
if granted > 0 then
    full = math.ceil((full + granted * interval) * 4) / 4
    redis.call('SET', KEYS[1], string.format('%.2f', full), 'PX', string.format('%.0f', (full - now) / 1000 + 1))
end
return {granted, string.format('%.0f', math.max(full + interval - now - burst * interval, 0))}
""")
#: Who shares a limit: each sidecar says so from time to time, and is told how many did lately.
ANNOUNCE: Final = Script("""\
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2] * 2)
return redis.call('ZCARD', KEYS[1])
""")
#: A question that any server has to be able to answer.
PROBE: Final = (TAKE, "sidecar:limit:probe", ("1000", 1, 1))

#: Seconds between two announcements of a limit, and for which one counts.
ANNOUNCED: Final = 2.0
KNOWN: Final = 7
#: Answers of which the highest counts: a Redis that has lost its memory hears of all of them only bit by bit.
ANSWERS: Final = 4
#: Sidecars of one limit that are believed in.
MOST_SIDECARS: Final = 100_000
#: What became of questions to Redis, and how requests went without it.
OUTCOMES: Final = ("granted", "refused", "failed", "local", "refuse", "allow")


class SharedLimits:
    """All of one sidecar's, which calls itself ``identity``. ``in_use`` lists those that filters have at present.
    ``on_failure`` and ``sidecars`` are as for :class:`SharedLimit`."""

    def __init__(
        self,
        client: Client,
        identity: str,
        in_use: Callable[[], Iterable[SharedLimit]],
        random: Callable[[], float],
        on_failure: str = "local",
        sidecars: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.counts: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self.on_failure = on_failure
        self._identity = identity
        self._in_use = in_use
        self._random = random
        self._sidecars = sidecars
        self._clock = clock
        #: By a limit's name, how many sidecars share it, as it was heard lately.
        self._heard: dict[str, deque[int]] = {}
        self._task = asyncio.get_running_loop().create_task(self._announce(), name="shared limits")

    def limit(self, name: str, rate: float, burst: int, key: str) -> SharedLimit:
        """The limit of that name. With another rate, burst or key it is another one: it must not go on from a bucket
        that was filled by different rules."""
        rules = blake2b(f"{name} {rate!r} {burst} {key}".encode(), digest_size=8).hexdigest()
        shown = "".join(c if c.isalnum() or c in "-_.:" else "_" for c in name[:128])
        return SharedLimit(
            f"sidecar:limit:{shown}:{rules}", rate, burst, key != "none", self.ask, self._clock, self._random,
            self.counts, self.on_failure, self._sidecars,
        )  # fmt: skip

    def ask(self, limit: SharedLimit, lease: Lease, tokens: int) -> bool:
        """Ask Redis for so many tokens. Return False when it is away."""
        counts = self.counts

        def then(reply: Reply) -> None:
            found = _numbers(reply, tokens)
            if found is None:
                counts["failed"] += 1
                limit.failed(lease)
                return
            counts["granted" if found[0] else "refused"] += 1
            limit.answered(lease, *found)

        name = f"{limit.name}:{lease.digest}" if limit.keyed else limit.name
        return self.client.run(TAKE, name, (repr(1e6 / limit.rate), limit.burst, tokens), then)

    def changed(self, up: bool) -> None:
        """A server is away, or back."""
        for limit in self._in_use():
            if up:
                limit.away = False
            else:
                limit.lost()

    async def close(self) -> None:
        """Ask nothing more."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.client.close()

    async def _announce(self) -> None:
        await self.client.answered()
        while True:
            try:
                used = list(self._in_use())
                names = {limit.name for limit in used}
                self._heard = {name: heard for name, heard in self._heard.items() if name in names}
                for limit in used:
                    self._tell(limit)
            except Exception:
                logger.exception("shared limits could not be announced")
            await asyncio.sleep(ANNOUNCED * (0.75 + 0.5 * self._random()))

    def _tell(self, limit: SharedLimit) -> None:
        def then(reply: Reply) -> None:
            if isinstance(reply, int):
                heard = self._heard.setdefault(limit.name, deque(maxlen=ANSWERS))
                heard.append(min(max(reply, 1), MOST_SIDECARS))
                limit.sidecars = max(heard)

        self.client.run(ANNOUNCE, f"{limit.name}:sidecars", (self._identity, KNOWN), then)


def _numbers(reply: Reply, tokens: int) -> tuple[int, float] | None:
    """What :data:`TAKE` has returned: tokens, and the seconds until there is another; None: it is no such thing."""
    if isinstance(reply, ErrorReply) or not isinstance(reply, list) or len(reply) != 2:
        return None
    granted, again = reply
    if not isinstance(granted, int) or not isinstance(again, bytes) or not again.isdigit() or len(again) > 17:
        return None
    return min(max(granted, 0), tokens), int(again) / 1e6


def as_dict(limits: SharedLimits) -> dict[str, Any]:
    """How it is, as JSON can hold it."""
    client = limits.client
    return {"up": client.up, "where": client.where, "trouble": client.trouble or None, "checks": dict(limits.counts)}
