"""``sidecar status``: what a running sidecar is doing, as a table.

A container's HEALTHCHECK runs it every few seconds, so it imports little.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

#: Seconds that each question may take, and the most bytes of an answer that are read.
TIMEOUT: Final = 5.0
MAX_ANSWER: Final = 16 * 1024 * 1024

_GREEN, _YELLOW, _RED, _BOLD = "32", "33", "31", "1"
_COLOURS: Final = {
    "ready": _GREEN, "healthy": _GREEN, "closed": _GREEN, "up": _GREEN,
    "starting": _YELLOW, "draining": _YELLOW, "warning": _YELLOW, "half-open": _YELLOW,
    "blocked": _YELLOW, "away": _YELLOW, "full": _YELLOW, "slow": _YELLOW,
    "failing": _RED, "no answer": _RED,
    "stopped": _RED, "unhealthy": _RED, "open": _RED, "ejected": _RED, "down": _RED,
}  # fmt: skip


class StatusError(Exception):
    """The sidecar could not be asked; the text says why and what to do, in one line."""


def show_status(admin_url: str) -> int:
    """Print how the sidecar with this admin API is. 0: it is ready and not unhealthy; 1: it is not, or it cannot be
    asked."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    try:
        asked = Asked(admin_url)
        lines = table(asked, colour)
    except StatusError as error:
        print(f"sidecar status: {error}", file=sys.stderr)
        return 1
    except (LookupError, TypeError, ValueError, AttributeError):
        print(f"sidecar status: {_not_ours(admin_url)}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0 if asked.well else 1


class Asked:
    """What the admin API answered. Raises :class:`StatusError`."""

    def __init__(self, admin_url: str) -> None:
        base = admin_url.rstrip("/")
        if not base.startswith(("http://", "https://")):
            raise StatusError(f"{admin_url!r} is not the URL of an admin API; one looks like http://127.0.0.1:15000")
        # No proxy, whatever the environment says: this goes to a host's own loopback.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        self.health = self._mapping(base, "/health")
        self.ready = self._mapping(base, "/ready").get("ready") is True
        upstreams = self._mapping(base, "/upstreams").get("upstreams")
        if not isinstance(upstreams, list):
            raise StatusError(_not_ours(base))
        self.upstreams: list[Mapping[str, Any]] = upstreams
        self.amqp: list[Mapping[str, Any]] = []
        if any(upstream.get("protocol") == "amqp" for upstream in upstreams):
            self.amqp = self._mapping(base, "/amqp")["upstreams"]
        self.registry: Mapping[str, Any] | None = self.health["registry"]
        self.well = self.ready and self.health.get("status") in ("healthy", "warning")

    def _mapping(self, base: str, path: str) -> Mapping[str, Any]:
        try:
            content = json.loads(self._get(base, path))
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise StatusError(_not_ours(base))
        return content

    def _get(self, base: str, path: str) -> bytes:
        try:
            with self._open(base + path, timeout=TIMEOUT) as answer:
                found: bytes = answer.read(MAX_ANSWER)
                return found
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 503:  # not ready, or unhealthy: that is an answer
                    return error.read(MAX_ANSWER)
                raise StatusError(f"{_not_ours(base)} ({path} answered {error.code})") from error
        except urllib.error.URLError as error:
            raise StatusError(_unreachable(base, error.reason)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StatusError(_unreachable(base, error)) from error


def _not_ours(base: str) -> str:
    return f"what answers at {base} is not a sidecar's admin API; see admin.bind in its configuration"


def _unreachable(base: str, reason: object) -> str:
    said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return f"cannot reach {base}: {said}; is the sidecar running, and is this its admin.bind? (--admin URL)"


def table(asked: Asked, colour: bool) -> list[str]:
    """The lines to print."""
    health = asked.health
    app = health.get("app") or {}
    registry = "none"
    if asked.registry is not None:
        registry = f"{asked.registry['url']}, " + _paint("up" if asked.registry["up"] else "down", colour)
    waiting = f"waits: {health['waiting_for']}" if health.get("waiting_for") else ""
    name, instance = str(health.get("service", "")), str(health.get("id", ""))
    rows = [
        ("service", f"{_bold(name, colour)}  {printable(instance)}"),
        ("phase", f"{_paint(str(health.get('phase', '')), colour)}  {printable(waiting)}".rstrip()),
        ("health", _paint(str(health.get("status", "")), colour)),
        ("app", f"{_paint(str(app.get('status', '')), colour)}  {printable(str(app.get('output', '')))}".rstrip()),
        ("registry", registry),
    ]
    rows += [("FAULTS", _painted(printable(str(text)), _RED, colour)) for text in health.get("faults") or ()]
    lines = [f"{label:<10}{text}" for label, text in rows]
    if asked.upstreams:
        lines += ["", *columns(_upstream_rows(asked.upstreams), colour)]
        endpoints = _endpoint_rows(asked.upstreams)
        if len(endpoints) > 1:
            lines += ["", *columns(endpoints, colour)]
    subsets = _subset_rows(asked.upstreams)
    if len(subsets) > 1:
        lines += ["", *columns(subsets, colour)]
    canaries = _canary_rows(asked.upstreams)
    if len(canaries) > 1:
        lines += ["", *columns(canaries, colour)]
    held = _held_rows(asked.upstreams)
    if len(held) > 1:
        lines += ["", *columns(held, colour)]
    queued = _queued_rows(asked.upstreams)
    if len(queued) > 1:
        lines += ["", *columns(queued, colour)]
    filters = _filter_rows(asked.upstreams)
    if len(filters) > 1:
        lines += ["", *columns(filters, colour)]
    amqp = asked.amqp
    for block in (_amqp_rows(amqp, asked.upstreams), _waiting_rows(amqp), _queue_rows(amqp), _spool_rows(amqp)):
        if len(block) > 1:
            lines += ["", *columns(block, colour)]
    return lines


def _upstream_rows(upstreams: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["UPSTREAM", "HEALTH", "BREAKER", ">ACTIVE", ">REQUESTS", ">ERRORS", ">RETRIES", ">P50", ">P99"]]
    for upstream in upstreams:
        stats, breaker = upstream["stats"], upstream["breaker"]
        codes: Mapping[str, int] = stats["requests"]
        rows.append(
            [
                str(upstream["name"]),
                str(upstream["health"]),
                str(breaker["state"]).replace("_", "-") if breaker else "off",
                str(stats["active"]),
                str(sum(codes.values())),
                str(sum(count for code, count in codes.items() if code[0] >= "5")),
                str(sum(stats["retries"].values())),
                _ms(stats["p50_ms"]),
                _ms(stats["p99_ms"]),
            ]
        )
    return rows


def _held_rows(upstreams: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["UPSTREAM", "BREAKER HELD", "BY", "UNTIL", "REASON"]]
    rows += [
        [str(upstream["name"]), str(breaker["forced"]), *(str(held[key] or "-") for key in ("by", "until", "reason"))]
        for upstream in upstreams
        if (breaker := upstream["breaker"]) and (held := breaker.get("held"))
    ]
    return rows


def _endpoint_rows(upstreams: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    errors = any(endpoint.get("last_error") for upstream in upstreams for endpoint in upstream["endpoints"])
    rows = [["UPSTREAM", "ENDPOINT", "ID", "STATE", ">WEIGHT", ">ACTIVE", *(["LAST ERROR"] if errors else [])]]
    rows += [
        [
            str(upstream["name"]),
            f"{endpoint['hostname']} ({endpoint['address']})" if endpoint.get("hostname") else str(endpoint["address"]),
            str(endpoint["id"]) or "-",
            _state(endpoint),
            str(endpoint["weight"]),
            str(endpoint["active"]),
            *([_last_error(endpoint.get("last_error"))] if errors else []),
        ]
        for upstream in upstreams
        for endpoint in upstream["endpoints"]
    ]
    return rows


def _canary_rows(upstreams: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["UPSTREAM", "CANARY", "PHASE", ">WEIGHT", ">STEP", "WHY", "WAITS FOR"]]
    for upstream in upstreams:
        if it := upstream.get("canary"):
            step = [f"{it['weight']}%", f"{it['step']} of {len(it['steps'])}", it["reason"], it["waits_for"]]
            rows.append([str(cell or "-") for cell in (upstream["name"], it["subset"], it["phase"], *step)])
    return rows


def _subset_rows(upstreams: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["UPSTREAM", "SUBSET", ">SHARE", ">ENDPOINTS", ">REQUESTS", ">ERRORS", ">P50", ">P99"]]
    rows += [
        [
            str(upstream["name"]),
            str(subset["name"]),
            f"{subset['share']:.1%}",
            str(subset["usable"])
            if subset["usable"] == subset["endpoints"]
            else f"{subset['usable']} of {subset['endpoints']}",
            str(sum(subset["requests"].values())),
            str(sum(count for code, count in subset["requests"].items() if code[0] >= "5")),
            _ms(subset["p50_ms"]),
            _ms(subset["p99_ms"]),
        ]
        for upstream in upstreams
        for subset in upstream.get("subsets", ())
    ]
    return rows


def _state(endpoint: Mapping[str, Any]) -> str:
    if endpoint["ejected"]:
        ejection = endpoint.get("ejection")
        return f"ejected ({ejection['reason']})" if ejection else "ejected"
    share = endpoint.get("share", 1)
    return f"{endpoint['state']} ({share:.0%})" if 0 < share < 1 else str(endpoint["state"])


def _last_error(error: Mapping[str, Any] | None) -> str:
    return f"{error['text']} ({error['at']})" if error else "-"


def _queued_rows(upstreams: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    outcomes = ("delivered", "failed", "expired", "refused")
    rows = [["UPSTREAM", ">QUEUED", ">SIZE", *(f">{outcome.upper()}" for outcome in outcomes)]]
    rows += [
        [
            str(upstream["name"]),
            str(queue["requests"]),
            size(queue["bytes"]),
            *(str(queue["outcomes"].get(outcome, 0)) for outcome in outcomes),
        ]
        for upstream in upstreams
        if (queue := upstream["stats"]["queue"]) is not None
    ]
    return rows


def _filter_rows(upstreams: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["UPSTREAM", "FILTER", "WHAT", ">VALUE"]]
    rows += [
        [str(upstream["name"]), str(name), str(what), str(value)]
        for upstream in upstreams
        for name, shown in upstream["stats"].get("filters", {}).items()
        for what, value in _flat(shown)
    ]
    return rows


def _flat(shown: Mapping[str, Any]) -> Iterator[tuple[str, int | float | str]]:
    """What a filter shows, with ``shed.low`` for what stands below ``shed``."""
    for what, value in shown.items():
        if isinstance(value, int | float | str):
            yield what, value
        elif isinstance(value, dict):
            yield from ((f"{what}.{key}", inner) for key, inner in value.items() if isinstance(inner, int | float))


def _amqp_rows(ports: Sequence[Mapping[str, Any]], upstreams: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    away = {upstream["name"] for upstream in upstreams if upstream["health"] == "unhealthy"}
    rows = [
        ["AMQP", "BROKER", ">CONNECTIONS", ">CHANNELS", ">CONSUMERS", ">UNACKED", ">STALLED", ">PUBLISHED", ">HELD"]
    ]
    rows += [
        [
            str(port["name"]),
            "blocked" if port["blocked"] else "away" if port["detached"] or port["name"] in away else "free",
            *(str(port[key]) for key in ("connections", "channels", "consumers", "unacked", "stalled")),
            str(sum(exchange["published"] for exchange in port["exchanges"])),
            str(port["held"]["messages"]),
        ]
        for port in ports
    ]
    return rows


def _waiting_rows(ports: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["AMQP", "HELD FOR", ">MESSAGES"]]
    rows += [
        [str(port["name"]), str(waiting["what"]), str(waiting["messages"])]
        for port in ports
        for waiting in port["held"]["waiting_for"]
    ]
    return rows


def _queue_rows(ports: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["AMQP", "VHOST", "QUEUE", ">DEPTH", ">LOW", ">HIGH", ">CONSUMERS", "STATE"]]
    rows += [
        [
            str(port["name"]),
            str(queue["vhost"]),
            str(queue["queue"]),
            *("-" if queue[key] is None else str(queue[key]) for key in ("depth", "low", "high", "consumers")),
            str(queue["problem"]) or ("full" if queue["full"] else "free"),
        ]
        for port in ports
        for queue in port["queues"]
    ]
    return rows


def _spool_rows(ports: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["AMQP", ">SPOOLED", ">SIZE", ">OF", ">REPLAYED", ">EXPIRED", ">DEAD LETTERS", "STATE"]]
    rows += [
        [
            str(port["name"]),
            str(spool["messages"]),
            size(spool["bytes"]),
            size(spool["max_bytes"]),
            str(spool["replayed"]),
            str(spool["expired"]),
            str(spool["dead_letters"]["messages"]),
            _spool_state(spool),
        ]
        for port in ports
        if (spool := port["spool"]) is not None
    ]
    return rows


def _spool_state(spool: Mapping[str, Any]) -> str:
    if spool["problem"]:
        return str(spool["problem"])
    if spool["messages"] and spool["obstacles"]:
        return f"waits: {spool['obstacles'][0]['problem']}"
    return "full" if spool["full"] else "fine"


def size(count: int) -> str:
    """Bytes, as people say it."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1023.95:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def columns(rows: list[list[str]], colour: bool) -> list[str]:
    """Aligned columns; a heading that begins with ``>`` has its column on the right."""
    right = [heading.startswith(">") for heading in rows[0]]
    cells = [[heading.removeprefix(">") for heading in rows[0]]] + [[printable(c) for c in row] for row in rows[1:]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(right))]
    lines = []
    for row in cells:
        # Painted after padding: escape sequences have no width.
        padded = [
            (cell.rjust(width) if to_right else cell.ljust(width)).replace(cell, _paint(cell, colour), 1)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def printable(text: str) -> str:
    """Names come from configurations and registries; none may control the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _paint(word: str, colour: bool) -> str:
    return _painted(printable(word), _COLOURS.get(word.partition(" (")[0], ""), colour)


def _painted(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if colour and style else text


def _bold(text: str, colour: bool) -> str:
    text = printable(text)
    return f"\x1b[{_BOLD}m{text}\x1b[0m" if colour else text


def _ms(value: float) -> str:
    if not value:
        return "-"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
