"""The story: what is done to the mesh, in which order, with which expected result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.core.text import counted
from sidecar.demo.mesh import INSTANCES, RESET_TIMEOUT, Mesh
from sidecar.demo.observe import Observer
from sidecar.demo.traffic import Traffic, quantile

#: Seconds: how long each scene is shown.
STEADY = 5.0
KILLED = 4.0
BACK = 3.0
DOWN = 2.0
WELL = 2.0
#: Seconds within which traffic has to have left a dead instance.
LEAVE = 1.0
#: How soon a refusal by the breaker has to have reached the client: as a share of what an answer takes (medians).
REFUSE = 0.5
VICTIM = "tasks-2"
PHASES = ("steady", "killed", "back", "model down", "model back")


@dataclass(frozen=True, slots=True)
class Check:
    """An expectation, and whether it was met; ``text`` has the figure."""

    text: str
    good: bool


class Story:
    """Tells it once: :meth:`tell`. ``on_event`` is called with each new line of :attr:`events`, also with a new
    chapter's (``chapter`` is then true)."""

    def __init__(
        self,
        mesh: Mesh,
        observer: Observer,
        tasks: Traffic,
        model: Traffic,
        on_event: Callable[[float, str, bool], None],
    ) -> None:
        self.mesh = mesh
        self.observer = observer
        self.tasks = tasks
        self.model = model
        self._on_event = on_event
        self.started = time.monotonic()
        self.chapter = 0
        self.title = "The mesh has started"
        self.caption = ""
        self.events: list[tuple[float, str]] = []
        self.checks: list[Check] = []
        #: Seconds, for the summary; None: did not happen.
        self.left_after: float | None = None
        self.back_after: float | None = None
        self.opened_after: float | None = None
        self.closed_after: float | None = None

    @property
    def clock(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self.started

    async def tell(self) -> None:
        """Tell all chapters. Raises :class:`~sidecar.demo.mesh.MeshError` when a process ends by itself."""
        await self._steady()
        await self._kill_one()
        await self._bring_back()
        await self._kill_the_model()
        await self._revive_the_model()

    # -- the chapters ----------------------------------------------------------------------------------------------

    async def _steady(self) -> None:
        self._begin("steady", "Steady traffic", "web's sidecar found three instances of tasks and balances over them.")
        await self._pause(STEADY)
        tally = self.tasks.phases["steady"]
        shares = [tally.instances[name] / max(1, sum(tally.instances.values())) for name in INSTANCES]
        self._no_errors("steady", "with everything well")
        self._expect(
            all(0.2 <= share <= 0.47 for share in shares),
            "balanced over three instances: " + ", ".join(f"{share:.0%}" for share in shares),
        )

    async def _kill_one(self) -> None:
        self._begin(
            "killed",
            f"{VICTIM} is killed",
            "Its service and its sidecar get SIGKILL. What was under way is retried elsewhere; clients notice nothing.",
        )
        killed = time.monotonic()
        self.mesh.tasks[VICTIM].kill()
        self._event(f"{VICTIM}: SIGKILL for the service and its sidecar")
        self.left_after = await self._until(lambda: VICTIM not in self.observer.tasks.in_rotation, 5.0, killed)
        if self.left_after is not None:
            self._event(f"{VICTIM}: out of the rotation after {_ms(self.left_after)}")
        await self._pause(KILLED)
        self._no_errors("killed", "while an instance died")
        self._expect(
            self.left_after is not None and self.left_after < LEAVE,
            f"traffic left the dead instance after {_ms(self.left_after)}",
        )

    async def _bring_back(self) -> None:
        self._begin(
            "back",
            f"{VICTIM} comes back",
            "Nobody tells web: the instance registers once its own sidecar finds it well, and gets its share again.",
        )
        began = time.monotonic()
        self.mesh.tasks[VICTIM].start()
        self._event(f"{VICTIM}: started again")
        self.back_after = await self._until(lambda: self.tasks.latest.get(VICTIM, 0.0) > began, 15.0, began)
        if self.back_after is not None:
            self._event(f"{VICTIM}: found, and answering again, {self.back_after:.1f} s after its start")
        await self._pause(BACK)
        self._no_errors("back", "while it came back")
        self._expect(self.back_after is not None, f"traffic came back after {_s(self.back_after)}")

    async def _kill_the_model(self) -> None:
        self._begin(
            "model down",
            "The only model is killed",
            "There is no other instance to go to. After five failures the breaker opens: calls are refused at once, "
            "with circuit_open.",
        )
        killed = time.monotonic()
        self.mesh.model.app.kill()
        self._event("model: SIGKILL for the service; its sidecar lives on")
        self.opened_after = await self._until(lambda: self.observer.model.breaker == "open", 8.0, killed)
        if self.opened_after is not None:
            self._event(f"model: the breaker opened after {_s(self.opened_after)}")
        await self._pause(DOWN)
        tally = self.model.phases["model down"]
        refused, usual = quantile(tally.refusals, 0.5), quantile(self.model.phases["steady"].latencies, 0.5)
        self._expect(self.opened_after is not None, f"the breaker opened after {_s(self.opened_after)}")
        self._expect(
            bool(tally.refusals) and refused < REFUSE * usual,
            f"{counted(len(tally.refusals), 'call')} refused at once: {_ms(refused)}; answers took {_ms(usual)}",
        )
        self._no_errors("model down", "for tasks, while the model was down")

    async def _revive_the_model(self) -> None:
        self._begin(
            "model back",
            "The model comes back",
            f"{RESET_TIMEOUT:g} s after it opened, the breaker lets three trial calls through. All well: it closes.",
        )
        began = time.monotonic()
        self.mesh.model.app.start()
        self._event("model: started again")
        states: list[str] = []

        def closed() -> bool:
            state = self.observer.model.breaker
            if not states or states[-1] != state:
                states.append(state)
                if state == "half_open":
                    self._event("model: the breaker is half-open, trial calls go through")
            return state == "closed"

        self.closed_after = await self._until(closed, 15.0, began)
        if self.closed_after is not None:
            self._event(f"model: the breaker closed, {self.closed_after:.1f} s after the start")
        await self._pause(WELL)
        answered = self.model.latest.get("model", 0.0) > began
        self._expect(
            self.closed_after is not None and answered,
            f"the breaker closed {_s(self.closed_after)} after the model's start, and the model answers",
        )
        self._no_errors("model back", "for tasks, while the model came back")

    # -- how it is told --------------------------------------------------------------------------------------------

    def _begin(self, phase: str, title: str, caption: str) -> None:
        self.tasks.phase = self.model.phase = phase
        self.chapter += 1
        self.title = title
        self.caption = caption
        self._on_event(self.clock, f"{self.chapter}/{len(PHASES)}  {title}. {caption}", True)

    def _event(self, text: str) -> None:
        self.events.append((self.clock, text))
        self._on_event(self.clock, text, False)

    def _expect(self, good: bool, text: str) -> None:
        self.checks.append(Check(text, good))

    def _no_errors(self, phase: str, when: str) -> None:
        tally = self.tasks.phases.get(phase)
        errors = dict(tally.errors) if tally else {"no traffic": 0}
        requests = tally.requests if tally else 0
        self._expect(not errors, f"{errors or 0} errors in {requests} requests {when}")

    async def _until(self, condition: Callable[[], bool], seconds: float, since: float) -> float | None:
        """Return the seconds from ``since`` until the condition was seen; None when it came too late."""
        while not condition():
            if time.monotonic() - since > seconds:
                return None
            self.mesh.check_alive()
            await asyncio.sleep(0.01)
        return time.monotonic() - since

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.mesh.check_alive()
            await asyncio.sleep(0.1)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
