"""The route table: which paths of a gateway lead to which service, and how.

A file of its own, read with the same errors as a sidecar's configuration. Services can add a route to it by a tag of
their registration, ``route:/api/v1/tasks``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sidecar.config.containers import Fields, ListOf
from sidecar.config.declared import Settings, key, section
from sidecar.config.kinds import BROKEN
from sidecar.config.load import load_as
from sidecar.config.values import NAME, Boolean, Duration, Method, Rate, Text

#: A tag of this form gives a service a route of its own.
TAG: Final = "route:"
#: Routes of a table, and those that tags add.
MOST: Final = 1000

_PATH: Final = Text(
    "a path of letters, digits and . _ ~ : @ % + , = - / (no *: all that begins with it is meant)",
    r"/[A-Za-z0-9._~:@%+,=/-]{0,255}",
)


class RouteSettings(Settings):
    """A path and what it leads to."""

    path: str = key(_PATH, "All paths that begin with it.", example="/api/v1/tasks")
    service: str = key(NAME, "Its name in the registry.", example="task-decomposition")
    methods: tuple[str, ...] = key(ListOf(Method(), maximum=16), "Only these; by default all.", default=())
    strip: bool = key(Boolean(), "Whether the app sees the path without this prefix.", default=False)
    stream: bool = key(
        Boolean(), "Answers that go on for long are passed on as they come, and may be silent for ten minutes.",
        default=False,
    )  # fmt: skip
    timeout: float = key(Duration("100ms", "1d"), "The longest silence of an answer.", told="60s; with stream 10m")
    health: str = key(
        _PATH, "What the gateway asks the service's instances for, to see whether they are well.", default="",
        told="that of another route of the service, else /health",
    )  # fmt: skip
    rate_limit: float | None = key(Rate(), "At most so many requests from one client.", default=None, example="100/s")

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        given.setdefault("timeout", 600.0 if given.get("stream") else 60.0)


class TableSettings(Settings):
    """Routes, and what goes for the whole gateway."""

    free = True

    routes: tuple[RouteSettings, ...] = key(
        ListOf(section(RouteSettings), maximum=MOST), "Longer paths go before shorter ones.", default=()
    )
    domain: str = key(
        Text("a DNS domain", r"[A-Za-z0-9]([A-Za-z0-9.-]{0,200}[A-Za-z0-9])?"),
        "Where the registry's DNS has services: NAME.service.DOMAIN.",
        default="consul",
    )
    consul_dns: str = key(
        Text("host:port", r"[A-Za-z0-9_.-]{1,253}:[0-9]{1,5}"), "Consul's DNS, as the gateway reaches it.",
        default="consul:8600",
    )  # fmt: skip
    otlp: str = key(
        Text("a URL", r"https?://[A-Za-z0-9_.:\[\]-]{1,253}(/[A-Za-z0-9_./-]{0,200})?"),
        "Where the gateway sends its spans, OTLP over HTTP; without it, it sends none.",
        default="",
    )  # fmt: skip


TABLE: Final = section(TableSettings)


def read(path: str) -> TableSettings:
    """The table of a file. Raises :class:`~sidecar.config.errors.ConfigError` with all that is wrong in it."""
    table: TableSettings = load_as(TABLE, path, _check)
    return table


def _check(fields: Fields) -> None:
    """No two routes for the same requests; no service with two ways to be asked how it is."""
    seen: dict[tuple[str, str], str] = {}
    health: dict[str, str] = {}
    for route in fields.get("routes") or ():
        if not isinstance(route, Fields) or BROKEN in (path := route.value("path"), name := route.value("service")):
            continue
        for method in route.value("methods") or ("",) if route.value("methods") is not BROKEN else ():
            if (path, method) in seen:
                route.places["path"].report(
                    "stands there twice", found=f'"{path}", which leads to {seen[path, method]} already'
                )
                break
            seen[path, method] = name
        asked = route.get("health")
        if asked and health.setdefault(name, asked) != asked:
            route.places["health"].report(
                "is not what another route of this service has", found=f'"{asked}"', allowed=f'"{health[name]}"'
            )


def routes(table: TableSettings, tags: Mapping[str, Iterable[str]]) -> list[RouteSettings]:
    """All routes, those of ``tags`` (service → its tags in the registry) behind those of the table, which win; the most
    specific ones first. Tags that make no sense are left out."""
    found = list(table.routes)
    taken = {route.path for route in found}
    for service in sorted(tags):
        for tag in sorted(tags[service]):
            path = tag.removeprefix(TAG)
            if path == tag or path in taken or not _usable(service, path) or len(found) >= 2 * MOST:
                continue
            taken.add(path)
            found.append(RouteSettings(path=path, service=service, timeout=60.0))
    return sorted(found, key=lambda route: (-len(route.path), route.path, route.methods))


def health(routes: Iterable[RouteSettings]) -> str:
    """What a service with these routes is asked for."""
    return next((route.health for route in routes if route.health), "/health")


def limit(rate: float) -> tuple[int, int]:
    """A rate per second as so many requests in so many seconds: a second, a minute or an hour."""
    for seconds in (1, 60, 3600):
        count = rate * seconds
        if round(count) >= 1 and abs(count - round(count)) < 1e-6:
            break
    return max(1, math.ceil(count - 1e-6)), seconds


def _usable(service: str, path: str) -> bool:
    return bool(
        re.fullmatch(r"/[A-Za-z0-9._~/-]{0,255}", path) and re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,128}", service)
    )
