"""The keys about the workload itself."""

from __future__ import annotations

from typing import Any, Final

from sidecar.config import cross_schema
from sidecar.config.addresses import Host, HostPort
from sidecar.config.containers import ListOf, MapOf
from sidecar.config.declared import Settings, key, section
from sidecar.config.values import HOST_FIELD, NAME, NOT_BUILT, Boolean, Duration, Integer, Text
from sidecar.core.address import Address

_REFUSED: Final = {"grpc": f"{NOT_BUILT}; supported: http, tcp"}


class Check(Settings):
    """How the sidecar finds out whether its app is well: a request, or else a TCP connection."""

    refused = _REFUSED
    short = "http"
    cross = cross_schema.check()

    http: str | None = key(
        Text("a path that begins with /", r"/[^\x00-\x20\x7f#]{0,2047}"),
        "Path to get.",
        default=None,
        example="/health",
    )
    host: str = key(
        HOST_FIELD,
        "Host to ask for, where the app answers to some only (Django's ALLOWED_HOSTS).",
        default="",
        example="app.example",
        told="the address of service.app",
    )
    tcp: bool = key(Boolean(), "Connect only; what happens without http too.", default=False)
    interval: float = key(Duration("10ms", "24h"), "From one check to the next.", default=10.0, example="10s")
    timeout: float = key(Duration(), "The longest a check may take.", default=5.0, example="5s")
    deregister_critical_service_after: float = key(
        Duration("1s", "720h"),
        "Take it out of the registry when it was unwell for so long (Consul: 1m or more).",
        default=60.0,
        example="1m",
    )


class Weights(Settings):
    """The share of traffic this instance asks for."""

    passing: int = key(Integer(1, 65535), "While it is healthy.", default=10)
    warning: int = key(Integer(1, 65535), "While its check warns.", default=1)


_CHECK: Final = section(Check)
_WEIGHTS: Final = section(Weights)


class Service(Settings):
    """The workload that this sidecar is attached to."""

    short = "name"

    name: str = key(NAME, "Name others find it by.", example="task-decomposition")
    id: str = key(
        Text("a name of letters, digits, . _ - (at most 255, not starting with a dot)", r"(?!\.)[A-Za-z0-9._-]{1,255}"),
        "Name of this one instance.",
        example="task-decomposition-1",
        told="<name>-<host>-<inbound port>",
    )
    address: str = key(
        Host(),
        "Host that others dial.",
        example="10.0.0.5",
        told="that of inbound.bind, or this host's outgoing address",
    )
    app: Address | None = key(
        HostPort(), "Where the app itself listens; needed for inbound.", default=None, example="127.0.0.1:8080"
    )
    tags: tuple[str, ...] = key(
        ListOf(Text("a tag", r"[^\x00-\x1f\x7f]{1,255}"), maximum=256),
        "Tags in the registry.",
        default=(),
        example=["ai", "v1"],
    )
    meta: dict[str, str] = key(
        # Consul's own bounds: 64 pairs, keys of 128 characters, values of 512.
        MapOf(
            Text("letters, digits, _ - (at most 128)", r"[A-Za-z0-9_-]{1,128}"),
            Text("text of at most 512 characters", r"[^\x00-\x1f\x7f]{0,512}", empty=True),
            maximum=64,
        ),
        "Key-value pairs in the registry.",
        default={},
        example={"version": "1.0"},
    )
    weights: Weights = key(_WEIGHTS, _WEIGHTS.doc, default=Weights())
    check: Check = key(_CHECK, _CHECK.doc, default=Check())  # type: ignore[assignment]

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        """The loader fills these in: they depend on inbound and on the host."""
        given.setdefault("id", "")
        given.setdefault("address", "")
