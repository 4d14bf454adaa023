"""Finds out now, instead of from traffic, whether an upstream's endpoints can be reached."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

from sidecar.core.health import Health
from sidecar.core.text import counted
from sidecar.endpoints.endpoint import Endpoint
from sidecar.net.causes import words_for
from sidecar.net.shortage import SHORTAGE, is_local

#: The most endpoints that are connected to for one answer: enough to know, and no storm of connections.
MOST = 32


async def probe(endpoints: Sequence[Endpoint], patience: float) -> Health:
    """Connect to the endpoints (to :data:`MOST` of them, drawn at random, when there are more), all at once and for at
    most ``patience`` seconds: healthy when all take a connection, a warning when some do."""
    if not endpoints:
        return Health("unhealthy", "no endpoints are known")
    asked = endpoints if len(endpoints) <= MOST else random.sample(endpoints, MOST)
    try:
        found = await asyncio.gather(*(_problem(endpoint, patience) for endpoint in asked))
    except OSError as error:
        SHORTAGE.met(error)
        return Health("warning", f"could not be found out: {error.strerror}, on this host")
    problems = Counter(text for text in found if text)
    good = len(asked) - problems.total()
    status = "healthy" if good == len(asked) else "warning" if good else "unhealthy"
    more = f" (of {len(endpoints)} that are known)" if len(asked) < len(endpoints) else ""
    verb = "takes connections" if good == 1 else "take connections"
    return Health(status, f"{good} of {counted(len(asked), 'endpoint')}{more} {verb}{_told(problems)}")


def _told(problems: Counter[str]) -> str:
    """Why the others do not: the most frequent reasons."""
    return "".join(f"; {text} ({number})" for text, number in problems.most_common(3))


async def _problem(endpoint: Endpoint, patience: float) -> str:
    """Why it cannot be connected to; empty when it can."""
    try:
        async with asyncio.timeout(patience):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
        if is_local(error):
            raise
        return words_for(error)
    writer.close()
    return ""
