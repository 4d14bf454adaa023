"""Errors that an upstream answers: 4xx and 5xx, of its app or of the sidecar in front of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.core.replies import NOT_DELIVERED, known
from sidecar.exchange.one_hop import of_app, tries_of_peer

if TYPE_CHECKING:
    from sidecar.exchange.attempt import Attempt
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request


def judge(x: Request, attempt: Attempt, head: ResponseHead) -> None:
    """Tell the cluster what such an answer says about the endpoint (nothing, if the error is the client's), and
    remember the code of a peer sidecar, and that it has given up."""
    status, endpoint = head.status, attempt.endpoint
    x.retried = attempt.retried = tries_of_peer(head)
    if status >= 500 and x.retried < 0:
        x.retried = of_app(x)
    code = head.peer_error
    if code:
        attempt.peer_error = told = known(code)
        x.listener.stats.peer_errors[told] += 1
    if status < 500:
        x.cluster.succeeded(endpoint)
    elif code:
        x.cluster.failed(endpoint, code in NOT_DELIVERED, "peer", f"its sidecar answered {status} {attempt.peer_error}")
    elif status != 503 or not x.chain.patient:
        x.cluster.failed(endpoint, False, "status", f"it answered {status}")
