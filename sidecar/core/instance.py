"""An instance of a service: what a registry finds, and what endpoints are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

#: What a service's own sidecars are registered as ends with this, and has this tag.
SIDECAR_SUFFIX: Final = "-sidecar"
SIDECAR_TAG: Final = "sidecar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance of a service as a registry knows it.

    ``state`` is ``healthy`` or ``warning`` (unhealthy ones are not handed out); ``weight`` is the one that goes
    with that state. ``hostname`` is the name that ``host`` was found for, where a registry or the configuration gave a
    name instead of an address (:mod:`sidecar.endpoints.names`). ``sidecar``: one stands there, and is believed when it
    says that its app did not get a request; ``admin`` is the port of its admin API there (0: not known).
    ``service``: it was found under that name, in place of the one that its upstream has.
    """

    host: str
    port: int
    id: str = ""
    weight: int = 1
    state: str = "healthy"
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = field(default_factory=dict)
    hostname: str = ""
    sidecar: bool = False
    admin: int = 0
    service: str = ""


#: Called with the whole new set whenever it differs from the last one (also with an empty one).
OnChange = Callable[[tuple[Instance, ...]], None]
