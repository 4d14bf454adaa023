"""Section 4: a breaker opens, keeps requests away, and closes again; and no breaker of the mesh is open."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from sidecar.cli.validate.findings import Section
from sidecar.cli.validate.lab import BREAKER, RESET, SEEN, THRESHOLD, Lab, seen
from sidecar.cli.validate.peers import PeerError, objects
from sidecar.cli.validate.run import Run

#: Requests while it is open: none of them may reach an instance.
_REFUSED: Final = 5


async def check(run: Run, section: Section) -> None:
    """First the given sidecars, by reading; then a breaker of the validation's own is opened, and left to close."""
    for peer, upstream in await run.upstreams(section):
        name = upstream.get("name")
        breakers = [it for it in (upstream.get("breaker"), *objects(upstream.get("route_breakers"))) if it]
        for breaker in breakers:
            if isinstance(breaker, dict):
                route = f" {breaker['path']}" if breaker.get("path") else ""
                _state(f"{peer.name}: {name}{route}", f"{peer.url}/upstreams/{name}/breaker/auto", breaker, section)
    lab = await run.lab(section)
    if lab is None:
        return
    run.doing("opening a breaker")
    try:
        if await _opens(lab, section):
            await _closes(run, lab, section)
    except PeerError as error:
        section.bad("own sidecar", str(error), "it has stopped answering meanwhile")
    finally:
        for instance in lab.instances:
            instance.failing = False


def _state(label: str, release: str, breaker: dict[str, Any], section: Section) -> None:
    state = breaker.get("state")
    held = breaker.get("held")
    if state != "open":
        section.good("breaker", f"{label} is {str(state).replace('_', '-')}")
    elif breaker.get("forced") == "open" or isinstance(held, dict):
        by = held if isinstance(held, dict) else {}
        why = f": {by.get('reason')}" if by.get("reason") else ""
        step = f"when that is over: curl -X POST {release}"
        section.bad("breaker", f"{label} is held open by {by.get('by') or 'somebody'}{why}", step)
    else:
        evidence = f"{label} is open for {breaker.get('open_seconds')} s, {breaker.get('failures')} failures in a row"
        section.bad("breaker", evidence, "mend what fails: sidecar why --error circuit_open; it closes by itself")


async def _opens(lab: Lab, section: Section) -> bool:
    """Whether it opens after exactly as many failures as it should, and lets nothing through then."""
    for instance in lab.instances:
        instance.failing = True
    failures = [(await lab.call(BREAKER))[0] for _ in range(THRESHOLD)]
    asked = sum(it.asked for it in lab.instances)
    refusals = await asyncio.gather(*(lab.call(BREAKER) for _ in range(_REFUSED)))
    through = sum(it.asked for it in lab.instances) - asked
    state = await _breaker(lab)
    if failures != [500] * THRESHOLD or state == "closed":
        section.bad("opens", f"after {THRESHOLD} failures (answered {failures}) it is {state}",
                    "the breaker does not do what it says: a fault to report")  # fmt: skip
        return False
    section.good("opens", f"after {THRESHOLD} failures in a row, as configured")
    wrong = [error or str(status) for status, error, _ in refusals if (status, error) != (503, "circuit_open")]
    # After the reset timeout one request may try, however long these have taken.
    if len(wrong) > 1 or through > 1:
        section.bad("keeps away", f"{through} of {_REFUSED} requests reached an instance; answered {wrong}",
                    "the breaker does not do what it says: a fault to report")  # fmt: skip
        return False
    section.good("keeps away", f"{_REFUSED - len(wrong)} requests answered circuit_open at once, none passed on")
    return True


async def _closes(run: Run, lab: Lab, section: Section) -> None:
    for instance in lab.instances:
        instance.failing = False
    run.doing("waiting for the breaker to close")

    async def well() -> bool:
        return (await lab.call(BREAKER))[0] == 200 and await _breaker(lab) == "closed"

    took = await seen(well, SEEN + RESET)
    if took is None:
        section.bad("closes", f"it is {await _breaker(lab)} although the instances are well again",
                    "the breaker does not do what it says: a fault to report")  # fmt: skip
    else:
        section.good(
            "closes", f"by itself {took:.2f} s after the instances were well again (reset timeout {RESET:g} s)"
        )


async def _breaker(lab: Lab) -> str:
    found = (await lab.upstream(BREAKER)).get("breaker")
    return str(found.get("state")) if isinstance(found, dict) else "switched off"
