"""What there is to see of a canary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidecar.agent.canary import Canary
from sidecar.resilience import rollout


def view_of(canary: Canary) -> dict[str, Any]:
    """All of it, as plain JSON."""
    now, judge = canary.now, canary.judge
    judged = None if judge is None else judge.view() | {"shared": canary.pool.heard}
    return {
        "subset": canary.settings.subset,
        "phase": now.phase if now is not None else "unknown",
        "weight": canary.weight,
        "step": now.step(canary.settings.steps) if now is not None else 0,
        "steps": list(canary.settings.steps),
        "attempt": now.attempt if now is not None else 0,
        "revision": now.revision if now is not None else 0,
        "reason": now.reason if now is not None else "",
        "by": now.by if now is not None else "",
        "at": now.at if now is not None else None,
        "waits_for": _waits(canary),
        "told": canary.broken is None,
        "judged_s": round(judge.judged(canary.timing.clock()), 1) if judge is not None else 0.0,
        "judged": judged,
    }


def doubts(view: Mapping[str, Any]) -> list[str]:
    """What an operator should know of it, a phrase each; ``view`` is what :func:`view_of` says."""
    if view["phase"] == rollout.ROLLED_BACK:
        return [f"the canary {view['subset']} was rolled back: {view['reason']}"]
    if str(view["waits_for"]).startswith("an operator"):
        return [f"the canary {view['subset']} waits for {view['waits_for']}"]
    return []


def _waits(canary: Canary) -> str:
    if canary.unreadable:
        return f"an operator: its state cannot be read, {canary.unreadable}"
    now, judge, verdict = canary.now, canary.judge, canary.verdict
    if now is None or judge is None:
        return verdict.waits if now is None else ""
    if now.phase == rollout.PAUSED:
        return "an operator: it is paused"
    if verdict.waits:
        cut = "; the registry is away, so others tell nothing now" if canary.pool.away else ""
        return verdict.waits + cut
    if verdict.good:
        left = canary.settings.each - judge.judged(canary.timing.clock())
        if left > 0:
            return f"the end of the step, in {left:.0f} s"
        return "an operator: it can be promoted" if canary.settings.promote == "manual" else "the registry"
    return ""
