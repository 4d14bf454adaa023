"""Asks the sidecars in front of endpoints for their load, and tells the balancer what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sidecar.exchange.filter import Filter
from sidecar.exchange.load_report import ASK, BEGIN, FIELD, read

if TYPE_CHECKING:
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request


class LoadReport(Filter):
    """Only for upstreams whose balancer goes by it. What was asked for is taken out before the app sees it; the
    upstream's own report, which a client may have asked for, passes."""

    name: ClassVar[str] = "load_report"
    sides: ClassVar[tuple[str, ...]] = ("outbound",)

    def on_request(self, x: Request) -> None:
        x.head.add(ASK, b"1")

    def on_answer(self, x: Request, head: ResponseHead) -> None:
        value = head.take(FIELD, BEGIN)
        if value is None or x.attempt is None:
            return
        report = read(value)
        if report is not None:
            x.cluster.balancer.reported(x.attempt.endpoint, report)
