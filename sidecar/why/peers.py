"""Asks the next sidecars for their part of a story: a short question each, bounded in time, size and depth.

Their addresses come from a registry. So they get a proof that we have the admin token, never the token; no redirect is
followed; and what they say is made safe (:mod:`sidecar.why.peer_answer`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sidecar.core.secret import Secret
from sidecar.net.peer_client import PeerClient
from sidecar.why.peer_answer import BadAnswer, read

#: Hops of one story, and sidecars that are asked at one hop.
MOST_HOPS: Final = 4
MOST_PEERS: Final = 4
#: Seconds that all hops behind this one have: each one gives the next less than it has itself.
SECONDS: Final = 1.0
#: Bytes of an answer, its head included.
MOST_BYTES: Final = 65536
#: What is said of a sidecar to the second of two who ask for one id.
BUSY: Final = "its sidecar is being asked for another client just now; ask again"

#: What a sidecar said, or why it said nothing.
Said = Mapping[str, Any] | str


class Peers:
    """``token`` is our own admin token, ``wall`` gives Unix time."""

    def __init__(self, token: Callable[[], Secret], wall: Callable[[], float]) -> None:
        self._client = PeerClient(token, wall)
        #: Ids that are being asked for: each once at a time, so that a story that leads back here ends.
        self._asking: set[str] = set()

    def leads_back(self, request_id: str) -> bool:
        """Whether that id is being asked for from here."""
        return request_id in self._asking

    async def ask(self, addresses: Sequence[str], request_id: str, hops: int) -> Mapping[str, Said]:
        """What the sidecars whose admin APIs are there say of that request; ``hops``: how many there may be in all
        behind this one."""
        hops = min(hops, MOST_HOPS)
        if not addresses or hops < 1:
            return {}
        if request_id in self._asking:
            return dict.fromkeys(addresses, BUSY)
        asked = list(dict.fromkeys(addresses))[-MOST_PEERS:]
        self._asking.add(request_id)
        try:
            said = await asyncio.gather(*(self._ask(address, request_id, hops) for address in asked))
        finally:
            self._asking.discard(request_id)
        return dict(zip(asked, said, strict=True))

    async def _ask(self, address: str, request_id: str, hops: int) -> Said:
        seconds = SECONDS * hops / MOST_HOPS
        try:
            async with asyncio.timeout(seconds):
                status, body = await self._client.get(address, f"/why/{request_id}", f"hops={hops - 1}", MOST_BYTES)
        except TimeoutError:
            return f"its sidecar did not answer within {seconds:g} s"
        except (OSError, ValueError) as error:
            return f"its sidecar could not be asked: {getattr(error, 'strerror', None) or type(error).__name__}"
        if status == 404:
            return "its sidecar remembers nothing of this request"
        if status in (401, 403):
            return "its sidecar has another admin token"
        if status != 200:
            return f"its sidecar answered {status}"
        try:
            return read(body)
        except BadAnswer as error:
            return str(error)
