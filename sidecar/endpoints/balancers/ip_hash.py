"""One client, one endpoint: by the client's address."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import log
from typing import TYPE_CHECKING, ClassVar, Final

from sidecar.endpoints.balancers.balancer import Balancer

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint


class IpHash(Balancer):
    """The same endpoint for the same key, in every process: highest random weight hashing (Thaler, Ravishankar,
    "Using name-based mappings to increase hit rates", 1998), weighted. When an endpoint leaves, only its own keys
    move; when one joins, it takes its share from all and nothing else moves."""

    __slots__ = ("_chosen", "_endpoints")

    weighs: ClassVar[bool] = True
    hashes: ClassVar[bool] = True

    #: How many keys' choices are remembered; a sidecar's clients are few, its own app above all.
    REMEMBERED: Final = 4096

    def __init__(self) -> None:
        self._endpoints: Sequence[Endpoint] = ()
        self._chosen: dict[str, Endpoint] = {}

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._chosen.clear()

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        # Only for the usual set; a retry is handed what is left of it.
        if endpoints is not self._endpoints:
            return self._highest(endpoints, key)
        endpoint = self._chosen.get(key)
        if endpoint is None:
            if len(self._chosen) >= self.REMEMBERED:
                self._chosen.clear()
            endpoint = self._chosen[key] = self._highest(endpoints, key)
        return endpoint

    @staticmethod
    def _highest(endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        best = endpoints[0]
        highest = -1.0
        for endpoint in endpoints:
            digest = blake2b(f"{endpoint.address} {key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
            # 52 bits, so that the half that keeps it away from 0 and 1 is not rounded off.
            uniform = ((int.from_bytes(digest) >> 12) + 0.5) / (1 << 52)
            score = endpoint.weight / -log(uniform)
            if score > highest:
                highest = score
                best = endpoint
        return best
