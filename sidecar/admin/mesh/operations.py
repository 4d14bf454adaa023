"""``GET /mesh`` and ``GET /mesh/self``: who calls whom, and this sidecar's part of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from sidecar.admin.commands import Commands
from sidecar.admin.mesh.gather import PATH, Gathering
from sidecar.admin.mesh.summary import Recent, Summary, tell, understand
from sidecar.core import operations
from sidecar.core.json_schema import COUNT, FLAG, NUMBER, TEXT, array, or_null, record
from sidecar.core.operations import REFUSED, Answer, Contribution, Operation
from sidecar.net.peer_client import PeerClient

_FIGURES: Final = {key: or_null(NUMBER) for key in ("rate", "error_rate", "p50_ms", "p99_ms")}
_SIDECAR: Final = record(id=TEXT, admin=TEXT, status=TEXT, problem=TEXT)
_SERVICE: Final = record(
    name=TEXT, kind={"type": "string", "enum": ["service", "outside"]}, instances=COUNT, **_FIGURES, status=TEXT,
    problem=TEXT, sidecars=array(_SIDECAR),
)  # fmt: skip
_EDGE: Final = record(**{"from": TEXT, "to": TEXT}, protocol=TEXT, **_FIGURES, status=TEXT, problem=TEXT, silent=FLAG)
_PASSED: Final[dict[str, Any]] = {"seconds": NUMBER, "requests": COUNT, "errors": COUNT, "counts": array(COUNT)}
_CALL: Final = record(to=TEXT, protocol=TEXT, status=TEXT, problem=TEXT, **_PASSED)


class Api:
    """The handlers. ``recent`` is what has just passed an upstream, or came in (None)."""

    def __init__(self, commands: Commands, recent: Callable[[str | None], Recent | None]) -> None:
        self._commands = commands
        self._recent = recent
        client = PeerClient(lambda: commands.access().token, time.time)
        self._gathering = Gathering(commands.peers, self._own, client.get, time.monotonic)

    def contribution(self) -> Contribution:
        """What the admin API serves."""
        return Contribution(
            (
                Operation("GET", "/mesh", "Who calls whom, gathered from the sidecars that the registry knows",
                          self.mesh, {200: "services and edges", **REFUSED}, "Mesh", private=True),
                Operation("GET", PATH, "This sidecar's part of that, as other sidecars ask for it", self.own,
                          {200: "what came in and what was called", **REFUSED}, "MeshSelf", private=True),
            ),
            {
                "Mesh": record(seen_by=TEXT, problem=TEXT, services=array(_SERVICE), edges=array(_EDGE),
                               left_out=COUNT),
                "MeshSelf": record(service=TEXT, id=TEXT, status=TEXT, **_PASSED, calls=array(_CALL)),
            },
        )  # fmt: skip

    async def mesh(self, call: operations.Call) -> Answer:
        """Answer ``GET /mesh``."""
        return Answer(await self._gathering.map())

    async def own(self, call: operations.Call) -> Answer:
        """Answer ``GET /mesh/self``."""
        return Answer(tell(self._commands, self._recent))

    def _own(self) -> Summary:
        told = tell(self._commands, self._recent)
        return understand(told, "", told["service"])
