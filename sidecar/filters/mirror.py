"""Sends copies of a share of the requests to another upstream, and throws its answers away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from sidecar.config.declared import Settings, key
from sidecar.config.values import NAME, Integer, Share, Size
from sidecar.core.replies import ProtocolError
from sidecar.exchange.filter import Filter, Site

if TYPE_CHECKING:
    from sidecar.exchange.request import Request

#: What a share may lack of a whole request, as sums of fractions are not exact.
_NEARLY: Final = 1e-9


class MirrorSettings(Settings):
    """A copy goes out when the original is over, so it neither slows nor fails that."""

    short = "upstream"

    upstream: str = key(NAME, "The upstream of this sidecar that gets the copies.", example="shadow")
    share: float = key(Share(), "Such a share of the requests is copied.", default=1.0, example="10%")
    max_body: int = key(
        Size("1B", "1MiB", zero=True), "Requests with a larger body are not copied; as much is kept of each.",
        default=65536, example="64KiB",
    )  # fmt: skip
    max_requests: int = key(
        Integer(1, 10_000), "Copies that are under way at once; what is beyond is dropped.", default=100
    )


class Mirror(Filter):
    """Stands where everything about the exchange is known. Copied is what was sent to the upstream, whatever became of
    it there; not what was refused, nor what is a copy itself, or is to be sent again (a stored request)."""

    name: ClassVar[str] = "mirror"
    settings_class: ClassVar[Any] = MirrorSettings
    doc: ClassVar[str] = "Copies of requests for another upstream, whose answers are thrown away."
    key_docs: ClassVar[dict[str, str]] = {"outbound": f"{doc} There are none unless it is given."}
    sides: ClassVar[tuple[str, ...]] = ("outbound",)
    refused: ClassVar[str] = "is for upstreams only: mirror where this service is called"

    config: MirrorSettings

    #: Sends a copy (:func:`sidecar.http.mirror.copy`), and tells those from others. Set by the assembly.
    copy: Any = None
    is_copy: Any = None

    def __init__(self, config: MirrorSettings, site: Site) -> None:
        super().__init__(config, site)
        self._mirrored = site.stats.mirrored
        #: The part of a copy that is owed; it begins anywhere, as sidecars that start together should not all copy the
        #: same moment's requests.
        self._owed = site.rng.random()
        self._under_way = 0

    def adapt(self, config: MirrorSettings) -> bool:
        """Other settings, for what ends from now on."""
        self.config = config
        return True

    def view(self) -> dict[str, Any]:
        return {"upstream": self.config.upstream, "under_way": self._under_way, **self._mirrored}

    def on_end(self, x: Request) -> None:
        if not x.attempts or x.head.upgrade or self.copy is None or self.is_copy(x):
            return
        self._owed += self.config.share
        if self._owed < 1.0 - _NEARLY:
            return
        self._owed -= 1.0
        if not x.request_done:
            self._mirrored["incomplete"] += 1
        elif not x.replayable or x.kept_size > self.config.max_body:
            self._mirrored["too_large"] += 1
        elif self._under_way >= self.config.max_requests:
            self._mirrored["dropped"] += 1
        else:
            self._under_way += 1
            # From the event loop: the original's client has its answer, and those behind it are served first.
            x.listener.loop.call_soon(self._send, x)

    def _send(self, x: Request) -> None:
        try:
            self.copy(self.config.upstream, x, self._done)
        except ProtocolError:
            self._done(0, "")

    def _done(self, status: int, error: str) -> None:
        self._under_way -= 1
        self._mirrored["failed" if error or not 0 < status < 500 else "answered"] += 1
