"""What the sections share: the given sidecars, the registry, and the validation's own sidecar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from sidecar.cli.validate.findings import Section
from sidecar.cli.validate.lab import Lab, LabError
from sidecar.cli.validate.lookup import Lookup, lookup
from sidecar.cli.validate.peers import Peer, PeerError
from sidecar.registry import Settings


@dataclass(slots=True)
class Run:
    """``settings`` are the registry's; None: which one it is could not be found out, and ``problem`` says why.
    ``doing`` shows what is under way."""

    peers: list[Peer]
    http: aiohttp.ClientSession
    settings: Settings | None
    registry_url: str
    doing: Callable[[str], None]
    problem: str = ""
    lenient: bool = False
    lookup: Lookup | None = None
    #: The registry has been asked, and did not answer: what needs it is not tried.
    registry_away: bool = False
    _lab: Lab | None = None
    _failure: str = ""

    def open_registry(self) -> None:
        """Prepare to ask the registry."""
        if self.settings is not None:
            self.lookup = lookup(self.settings)

    async def lab(self, section: Section) -> Lab | None:
        """The validation's own sidecar, started by the first that needs it; None: there is none, which ``section`` is
        told."""
        if self.settings is None or (self.registry_away and not self.lenient):
            section.none("own sidecar", f"not started: {self.problem or 'the registry does not answer'}")
            return None
        if self._lab is None:
            self.doing("starting a sidecar of its own")
            usable = None if self.registry_away else self.lookup
            self._lab = Lab(self.settings, self.registry_url, usable, self.http)
            try:
                await self._lab.start()
            except LabError as error:
                self._failure = str(error)
        if self._failure:
            step = "on this host, does `sidecar run` start with this registry? CONSUL_HTTP_TOKEN has to be set for ACLs"
            section.bad("own sidecar", self._failure, step)
            return None
        return self._lab

    async def upstreams(self, section: Section) -> list[tuple[Peer, dict[str, object]]]:
        """All upstreams of the given sidecars; of one that does not answer, ``section`` is told."""
        found: list[tuple[Peer, dict[str, object]]] = []
        for peer in self.peers:
            try:
                found += [(peer, it) for it in await peer.upstreams()]
            except PeerError as error:
                section.bad(peer.name, str(error), "is this sidecar running, and is this its admin.bind?")
        return found

    async def close(self) -> list[str]:
        """End and take out all that is the validation's own; what is left all the same, a line each."""
        lab, self._lab = self._lab, None
        left = await lab.close() if lab is not None else []
        if self.lookup is not None:
            await self.lookup.close()
            self.lookup = None
        return left
