"""What is told of a cluster's endpoints: events, which are lines of the log, too, and what there was to choose from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.core.events import EVENTS
from sidecar.core.text import counted
from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.endpoints.endpoint import Endpoint

logger: Final = logging.getLogger("sidecar.upstreams")

#: Endpoints that are told of when a choice is explained.
MOST_CANDIDATES: Final = 20


def ejected(name: str, endpoint: Endpoint, seconds: float) -> None:
    """It has left the rotation for a while."""
    last = endpoint.last_error
    EVENTS.tell(
        logger, logging.WARNING, "ejection",
        f"{name}: {endpoint.where} is ejected for {seconds:.1f} s: {endpoint.ejection}",
        name, endpoint=endpoint.address, reason=endpoint.ejected_for, cause=last.kind if last is not None else "",
        seconds=round(seconds, 1), failures=endpoint.failures,
    )  # fmt: skip


def readmitted(name: str, endpoint: Endpoint, why: str) -> None:
    """It is back."""
    EVENTS.tell(
        logger, logging.INFO, "readmission", f"{name}: {endpoint.where} is in the rotation again: {why}",
        name, endpoint=endpoint.address,
    )  # fmt: skip


def checked(name: str, endpoint: Endpoint, before: str) -> None:
    """Active checks say something else of it than before."""
    found = endpoint.checked
    output = found.output if found is not None else ""
    EVENTS.tell(
        logger, logging.WARNING if endpoint.state == "unhealthy" else logging.INFO, "check",
        f"{name}: {endpoint.where} is {endpoint.state} and was {before}: {output}",
        name, endpoint=endpoint.address, state=endpoint.state, before=before, output=output,
    )  # fmt: skip


def came_and_went(
    name: str, before: Mapping[tuple[str, int], Endpoint], after: Mapping[tuple[str, int], Endpoint]
) -> None:
    """The set is another one."""
    came = [endpoint.address for address, endpoint in after.items() if address not in before]
    gone = [endpoint.address for address, endpoint in before.items() if address not in after]
    if came or gone:
        EVENTS.tell(
            logger, logging.INFO if after else logging.WARNING, "endpoints",
            f"{name}: {counted(len(came), 'endpoint')} came, {len(gone)} went; there are {len(after)}",
            name, came=came, gone=gone, endpoints=len(after),
        )  # fmt: skip


def candidates(endpoints: Sequence[Endpoint], balancer: Balancer, now: float, wall: float) -> list[dict[str, Any]]:
    """What there was to choose from, for people and as plain JSON: at most :data:`MOST_CANDIDATES`."""
    found: list[dict[str, Any]] = []
    for endpoint in endpoints[:MOST_CANDIDATES]:
        told: dict[str, Any] = {"endpoint": endpoint.address, "state": endpoint.state, "weight": endpoint.weight}
        if endpoint.subset:
            told["subset"] = endpoint.subset
        if endpoint.failures:
            told["failures"] = endpoint.failures
        if endpoint.ejected_until > now:
            told["ejected_ms"] = round((endpoint.ejected_until - now) * 1000)
            told["ejected_for"] = endpoint.ejected_for
            told["ejection"] = endpoint.ejection
        if endpoint.checked is not None and endpoint.checked.status != "healthy":
            told["check"] = endpoint.checked.output
        if endpoint.share < 1.0:
            told["share"] = round(endpoint.share, 3)
        told |= balancer.known(endpoint)
        error = endpoint.last_error
        if error is not None:
            told["last_error"] = error.kind
            told["last_error_ms_ago"] = round((wall - error.at) * 1000)
        found.append(told)
    return found
