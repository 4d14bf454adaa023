"""``POST /upstreams/{name}/canary/{action}``: an operator moves a canary, in all sidecars that share it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from sidecar.core.json_schema import COUNT, TEXT, record
from sidecar.core.operations import REFUSED, Answer, Call, Contribution, NotKnown, Operation

if TYPE_CHECKING:
    from sidecar.agent.canary import Canary

logger = logging.getLogger("sidecar.canary")

_SCHEMAS: Final = {
    "CanaryState": record(phase=TEXT, weight=COUNT | {"description": "percent"}, revision=COUNT, reason=TEXT, by=TEXT)
}


class CanaryOperations:
    """The handler. ``canaries`` gives those of all upstreams, by name; None: it has none."""

    def __init__(self, canaries: Callable[[], Mapping[str, Canary | None]]) -> None:
        self._canaries = canaries

    def contribution(self) -> Contribution:
        """Return the operation."""
        return Contribution(
            (
                Operation(
                    "POST", "/upstreams/{name}/canary/{action}",
                    "Give a canary its next step (promote), let it stay where it is (pause) or go on, or begin anew "
                    "when it is over (resume), or give it nothing any more (rollback); in all sidecars that share it",
                    self.act,
                    {
                        200: "what it is now",
                        404: "there is no such upstream, it has no canary, or there is no such action",
                        409: "not in this state, or somebody else was faster: look again",
                        503: "the registry cannot be asked, or has not said what came of it: look again",
                        **REFUSED,
                    },
                    "CanaryState",
                ),
            ),
            _SCHEMAS,
        )  # fmt: skip

    async def act(self, call: Call) -> Answer:
        """Answer it."""
        name, action = call.parts["name"], call.parts["action"]
        canary = self._canaries().get(name)
        if canary is None:
            there = ", ".join(it for it, found in self._canaries().items() if found is not None) or "none"
            raise NotKnown(f"{name[:80]!r} has no canary; these have one: {there}")
        from sidecar.agent.canary import Away, Conflict  # it has been imported by then
        from sidecar.resilience.rollout import ACTIONS, NotNow, summary

        if action not in ACTIONS:
            raise NotKnown(f"{action[:80]!r} is nothing that can be done with a canary: {', '.join(ACTIONS)}")
        by = f"an operator at {call.client}" if call.client else "an operator"
        try:
            state = await canary.act(action, by)
        except (NotNow, Conflict) as error:
            return Answer({"error": "not_now", "message": f"the canary of {name}: {error}"}, 409)
        except Away as error:
            return Answer({"error": "registry_away", "message": f"the canary of {name}: {error}"}, 503)
        logger.info(
            "%s: %s by hand: %s", name, action, summary(state), extra={"upstream": name, "client": call.client or ""}
        )
        now = canary.now or state
        return Answer(
            {"phase": now.phase, "weight": now.weight, "revision": now.revision, "reason": now.reason, "by": now.by}
        )
