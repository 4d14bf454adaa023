"""Sets the deadline of an exchange before anything in it can wait; no later than its caller says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sidecar.config.declared import Settings, key
from sidecar.config.values import Duration
from sidecar.core.replies import Reply
from sidecar.exchange.filter import Filter, Site
from sidecar.exchange.times import Times

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange


#: Over TCP, silence is no fault unless it is said to be: subscribers wait, and queries take their time.
_BY_PROTOCOL: Final = {"tcp": {"idle": 0.0}}


class TimeoutSettings(Settings):
    """Seconds; 0 switches one off (``connect`` and ``request`` excepted)."""

    short = "request"
    by_protocol = _BY_PROTOCOL

    connect: float = key(
        Duration(), "To connect.", default=1.0, example="1s", told="1s, or request where that is shorter"
    )
    request: float = key(
        Duration(),
        "Until the head of the answer, waiting and retries included. While an upload keeps to limits.body_rate, "
        "from its latest byte on.",
        default=30.0,
        example="30s",
        protocols=("http",),
    )
    idle: float = key(
        Duration(zero=True),
        "The longest silence in either direction; a peer that still reads what it was sent is not silent. 0: any.",
        default=300.0,
        example="5m",
        told="5m; for protocol tcp 0",
        protocols=("http", "tcp"),  # whether a peer still lives is what AMQP's own heartbeats are for
    )
    total: float = key(
        Duration(zero=True), "The whole exchange; off by default, so that long streams live.", default=0.0
    )
    head: float = key(
        Duration(zero=True),
        "For a client to send its request head, from the first byte on; amqp: to finish its handshake.",
        default=10.0,
        protocols=("http", "amqp"),
        route="is not for a route: which route it is, is known only after the head",
    )
    keepalive: float = key(
        Duration(zero=True),
        "How long an unused connection to an endpoint is kept.",
        default=4.0,
        protocols=("http",),
        route="is not for a route: connections are kept by the listener",
    )

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        if "request" in given:
            given.setdefault("connect", min(TimeoutSettings.connect, given["request"]))

    @staticmethod
    def check(given: Sequence[Any], protocol: str) -> None:
        for fields in given:
            if protocol != "http" or "connect" not in fields or not fields.known("request"):
                continue
            connect, request = fields["connect"], fields.value("request")
            if connect > request:
                fields.places["connect"].report(
                    "is longer than request, of which it is a part",
                    found=f"connect {connect:g} s, request {request:g} s",
                    allowed="connect at most as long as request",
                )


class Timeout(Filter):
    """``timeout.request`` from the beginning to the answer's head. The other times (connect, idle, total, and the
    share of one try) belong to phases, and the exchange itself reads them where the phase begins. A caller's own
    deadline (``x-sidecar-deadline``) can only make it shorter; what has no time left is answered at once."""

    name: ClassVar[str] = "timeout"
    settings_class: ClassVar[Any] = TimeoutSettings
    doc: ClassVar[str] = "How long each phase may take."
    key_docs: ClassVar[dict[str, str]] = {
        "inbound": "How long each phase may take; connect is to the app.",
        "route": "In place of the listener's.",
    }
    optional: ClassVar[bool] = False
    by_default: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp", "amqp")

    def __init__(self, config: TimeoutSettings, site: Site) -> None:
        super().__init__(config, site)
        self.times = Times(config.connect, config.request, config.idle, config.total, config.head, config.keepalive)
        self._request: float = min(config.request, config.total) if config.total else config.request

    def patience(self) -> float:
        return self.times.request

    def on_request(self, x: Exchange) -> Reply | None:
        x.deadline = x.started + self._request
        if x.granted < self._request:
            x.deadline = x.started + x.granted
            if not x.granted:
                x.note("no_time_left", {})
                return Reply("timeout", "its caller has no time left for it")
        return None
