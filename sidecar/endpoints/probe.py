"""Finds out now, instead of from traffic, whether an upstream's endpoints can be reached."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from sidecar.core.health import Health
from sidecar.core.text import counted
from sidecar.endpoints.endpoint import Endpoint
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
        good = sum(await asyncio.gather(*(_connects(endpoint, patience) for endpoint in asked)))
    except OSError as error:
        SHORTAGE.met(error)
        return Health("warning", f"could not be found out: {error.strerror}, on this host")
    status = "healthy" if good == len(asked) else "warning" if good else "unhealthy"
    more = f" (of {len(endpoints)} that are known)" if len(asked) < len(endpoints) else ""
    verb = "takes connections" if good == 1 else "take connections"
    return Health(status, f"{good} of {counted(len(asked), 'endpoint')}{more} {verb}")


async def _connects(endpoint: Endpoint, patience: float) -> bool:
    try:
        async with asyncio.timeout(patience):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
        if is_local(error):
            raise
        return False
    writer.close()
    return True
