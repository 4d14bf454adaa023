"""What has to fit together in the steps of fallbacks: each does one thing, and none leads back to where it began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sidecar.config.containers import Fields
from sidecar.config.errors import nearest
from sidecar.config.kinds import BROKEN, Place

#: What a step can do.
_KINDS: Final = ("upstream", "stale", "answer")
#: Fields that are about framing or the connection, or that only the sidecar gives.
_NOT_GIVEN: Final = frozenset(
    ("connection", "content-length", "date", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
     "upgrade", "x-request-id")
)  # fmt: skip


def check(root: Fields) -> None:
    """Report what is wrong with the steps of all upstreams."""
    upstreams: Mapping[str, Any] = root.get("upstreams", {})
    leads: dict[str, list[tuple[str, Place]]] = {}
    for name, upstream in upstreams.items():
        if not isinstance(upstream, Fields):
            continue
        for step in _steps(upstream):
            _one_thing(step)
            _answer(step)
            target = step.get("upstream")
            if target is not None and leads_there(name, target, step.places["upstream"], upstreams):
                leads.setdefault(name, []).append((target, step.places["upstream"]))
    _no_circles(leads)


def _steps(upstream: Fields) -> Iterator[Fields]:
    for fields in (upstream, *upstream.get("routes", ())):
        if isinstance(fields, Fields):
            yield from (step for step in fields.get("fallback", ()) if isinstance(step, Fields))


def _one_thing(step: Fields) -> None:
    given = [kind for kind in _KINDS if kind in step.places]
    if len(given) != 1:
        step.place.report(
            "does more than one thing" if given else "does not say what answers",
            found=" and ".join(given),
            allowed=f"one of {', '.join(_KINDS)}",
        )


def _answer(step: Fields) -> None:
    answer = step.section_of("answer")
    if answer is None:
        return
    for name in answer.get("headers", {}):
        if name in _NOT_GIVEN or name.startswith("x-sidecar-"):
            answer.places["headers"].report(
                "has a field that the sidecar itself adds, or none may have", found=name, allowed="any other header"
            )
    status = answer.value("status")
    if status in (204, 304) and answer.get("body"):
        answer.places["body"].report(f"is not for the status {status}", allowed="no body, or another status")


def leads_there(name: str, target: str, place: Place, upstreams: Mapping[str, Any]) -> bool:
    """Whether what an upstream of that name is asked may be sent to that other one."""
    if target == name:
        place.report("is the upstream itself", found=target, allowed="another upstream")
        return False
    if target not in upstreams:
        others = [it for it in upstreams if it != name]
        place.report(
            "is no upstream of this sidecar", found=target, allowed=", ".join(others) or "none: there is no other one",
            nearest=nearest(target, others),
        )  # fmt: skip
        return False
    other = upstreams[target]
    protocol = other.value("protocol") if isinstance(other, Fields) else BROKEN
    if protocol not in (BROKEN, "http"):
        place.report("speaks another protocol", found=f"{target}: {protocol}", allowed="an upstream of protocol http")
        return False
    return True


def _no_circles(leads: Mapping[str, list[tuple[str, Place]]]) -> None:
    """Report each step that leads to an upstream from which other steps lead back."""
    for name, steps in leads.items():
        for target, place in steps:
            path = _path(target, name, leads)
            if path and name == min(path):  # each circle once
                place.report(
                    "leads in a circle", found=" → ".join([name, *path]), allowed="steps that end at an upstream"
                )


def _path(start: str, goal: str, leads: Mapping[str, list[tuple[str, Place]]]) -> list[str]:
    """The upstreams on a way from one to another, both included; empty: there is none."""
    seen = {start}
    ways = [[start]]
    while ways:
        way = ways.pop()
        if way[-1] == goal:
            return way
        for target, _ in leads.get(way[-1], ()):
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return []
