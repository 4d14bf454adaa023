"""What the admin API can ask of the sidecar: plain functions, which the agent hands in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.admin.auth import Access
from sidecar.admin.holds import Wish
from sidecar.admin.snapshots import PeerSnapshot, SidecarSnapshot, UpstreamSnapshot
from sidecar.core.events import Event
from sidecar.core.health import Health
from sidecar.core.stats import ListenerStats


class ReloadRefused(Exception):
    """The configuration file cannot be used, and nothing has changed. The text says all of it; ``problems`` are path
    and message of each."""

    def __init__(self, text: str, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__(text)
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """Each may be called at any time."""

    #: Who may do what, at present.
    access: Callable[[], Access]
    #: How the sidecar is, and the names of its upstreams.
    snapshot: Callable[[], SidecarSnapshot]
    upstreams: Callable[[], Sequence[str]]
    #: What the port of the app has counted, if it has one; and what that of an upstream has.
    inbound: Callable[[], ListenerStats | None]
    upstream_stats: Callable[[str], ListenerStats]
    #: How one of them is.
    upstream: Callable[[str], UpstreamSnapshot]
    #: The effective configuration, without secrets.
    config: Callable[[], Mapping[str, Any]]
    #: The paths of its keys that are not as by default.
    chosen: Callable[[], Sequence[str]]
    #: Prometheus' page for an Accept field, and its content type.
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]]
    #: Check the app now.
    check_app: Callable[[], Awaitable[Health]]
    #: Connect to endpoints of an upstream now ("deep" health).
    probe: Callable[[str], Awaitable[Health]]
    #: Hold all breakers of an upstream ``open`` or ``close``, or leave them to themselves (``auto``); who wants that.
    force_breakers: Callable[[str, str, Wish], None]
    #: Read the configuration file again and apply it; what changed, a line each. Raises :class:`ReloadRefused`.
    reload: Callable[[], Awaitable[Sequence[str]]]
    #: Read it and change nothing; what would be changed. Raises :class:`ReloadRefused` when the file is wrong.
    rehearse: Callable[[], Awaitable[Mapping[str, Any]]]
    #: Begin to drain, as SIGTERM does; who asked for that.
    drain: Callable[[str], None]
    #: The same before the app ends: returns when nothing comes in any more.
    drain_inbound: Callable[[str], Awaitable[None]]
    #: What has changed since the event of that number (0: all that is remembered), the oldest first.
    events: Callable[[int], Sequence[Event]]
    #: Set the least severe level that is logged; who wants that. Raises :class:`ValueError`.
    set_log_level: Callable[[str, str], None]
    #: Likewise, which exchanges get a line, until the next reload that changes it. Raises :class:`ValueError`.
    #: As ``log.access`` in a file, and who wants it; what it is now, in the same way. Raises :class:`ValueError`.
    set_access_log: Callable[[object, str], object]
    #: The other sidecars that the registry knows. Raises OSError or TimeoutError when it cannot be asked.
    peers: Callable[[], Awaitable[Sequence[PeerSnapshot]]]
