"""What the app dials before it is known where that is: the port is bound, and who connects waits.

The kernel has those connections, with what they have sent already: :data:`sidecar.net.listen.BACKLOG` for each port,
and more of them wait in their own hosts. So nothing of ours grows with them, and once a port accepts, nothing is
different on it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.agent.clusters import RunningUpstream

logger = logging.getLogger("sidecar.agent")

#: Seconds after which ports accept in any case: three times what a registry has before the sidecar is ready without it.
#: Who has waited is told then that there is no endpoint.
GRACE: Final = 15.0


class Early:
    """The ports that do not accept yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop, grace: float = GRACE) -> None:
        self._loop = loop
        self._grace = grace
        self._held: dict[RunningUpstream, asyncio.TimerHandle] = {}

    def hold(self, upstream: RunningUpstream) -> None:
        """Have its listener, which does not listen yet, accept nothing until its endpoints are known."""
        upstream.listener.hold()
        self._held[upstream] = self._loop.call_later(self._grace, self._in_vain, upstream)
        upstream.on_known = lambda: self.release(upstream)

    def end(self) -> None:
        """All of them accept from now on."""
        for upstream in list(self._held):
            self.release(upstream)

    def _in_vain(self, upstream: RunningUpstream) -> None:
        logger.warning(
            "upstream %s: its endpoints are not known yet; who has connected waits no longer", upstream.config.name
        )
        self.release(upstream)

    def release(self, upstream: RunningUpstream) -> None:
        """It accepts from now on, if it does not already."""
        upstream.on_known = None
        timer = self._held.pop(upstream, None)
        if timer is not None:
            timer.cancel()
            upstream.listener.release()
