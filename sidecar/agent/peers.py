"""The other sidecars that the registry knows, as they are registered (:func:`sidecar.agent.settings.of_probes`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sidecar.admin.snapshots import PeerSnapshot
from sidecar.core.address import Address
from sidecar.core.instance import SIDECAR_SUFFIX, SIDECAR_TAG, Instance
from sidecar.registry import Registry

#: Services that one may say it calls.
_MOST: Final = 64
_LONGEST: Final = 128


async def others(registry: Registry | None, host: str, port: int) -> Sequence[PeerSnapshot]:
    """Ask the registry for all but the one that is registered at ``host`` and ``port``. Raises OSError or
    TimeoutError."""
    if registry is None:
        return ()
    found = await registry.sidecars()
    return [peer for it in found if (it.host, it.port) != (host, port) and (peer := peer_of(it)) is not None]


def peer_of(it: Instance) -> PeerSnapshot | None:
    """What an instance says of the sidecar that it is; None: it is none of ours."""
    service, port = it.meta.get("service", ""), it.meta.get("admin_port", "")
    if not service or len(service) > _LONGEST or SIDECAR_TAG not in it.tags:
        return None
    known = port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536
    calls = [name for name in it.meta.get("calls", "").split(",") if name and name[0] != "+" and len(name) <= _LONGEST]
    return PeerSnapshot(
        service=service,
        id=it.id.removesuffix(SIDECAR_SUFFIX),
        admin=str(Address(it.host, int(port))) if known else "",
        calls=calls[:_MOST],
    )
