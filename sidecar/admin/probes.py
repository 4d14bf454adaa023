"""The listener for machines: a few read-only operations of the admin API, on an address that others can reach.

It has a server and a bound on connections of its own, so whatever comes in here never takes room from operators.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sidecar.admin.auth import Access
from sidecar.admin.commands import Commands
from sidecar.admin.connection_limit import Door
from sidecar.admin.operations import Api
from sidecar.admin.server import AdminServer, Application, serve
from sidecar.core.address import Address
from sidecar.core.operations import Answer, Call

#: What scrapers, orchestrators and load balancers ask for. Deep checks are left out: each one costs connections.
SERVED: Final = ("/ready", "/health", "/health/{service}", "/metrics")
#: Connections at once: some scrapers and health checkers, each with one that it keeps.
MAX_CONNECTIONS: Final = 64

_NOWHERE: Final = f"only {', '.join(SERVED[:-1])} and {SERVED[-1]} are here; the rest is on the admin API, admin.bind"


async def start_probes(commands: Commands, bind: Address, door: Door | None = None) -> AdminServer:
    """Serve at ``bind``. Raises :class:`OSError` when that cannot be bound."""
    door = door or Door(MAX_CONNECTIONS)
    api = Api(commands)

    async def health(call: Call) -> Answer:
        """As the admin API, without the registry's address: that is configuration."""
        found = await api.health(call)
        if found.data["registry"] is not None:
            del found.data["registry"]["url"]
        return found

    operations = [
        replace(it, handler=health) if it.path == "/health" else it for it in api.operations() if it.path in SERVED
    ]
    # No token: there is nothing here that needs one.
    return await serve(Application(operations, lambda: Access(bind.host), door, _NOWHERE), bind, door)
