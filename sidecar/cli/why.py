"""``sidecar why``: why a request went as it did, as a running sidecar tells it; without an id, the newest ones."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from sidecar.cli.admin_client import Admin, CommandError, token
from sidecar.core.text import printable

TOLD: Final = 0
#: Nothing is known of that request, or the sidecar cannot be asked.
NOT_TOLD: Final = 1

_BOLD, _DIM, _RED, _YELLOW, _GREEN, _CYAN = "1", "2", "31", "33", "32", "36"
#: What stands in front of an event anyway.
_PLACE: Final = ("at_ms", "what", "service")
#: The longest text of one value on a line.
_LONGEST: Final = 300


class Paint:
    """Colours, on a terminal."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, text: object, style: str) -> str:
        shown = plain(text)
        return f"\x1b[{style}m{shown}\x1b[0m" if self._colour and shown else shown


def plain(text: object) -> str:
    """Text of others, which may not control the terminal."""
    return printable(str(text), _LONGEST)


def why(request_id: str, url: str, token_file: str, asked: Mapping[str, str], *, as_json: bool) -> int:
    """Print the story of that request, or with an empty id a list of the newest: ``asked`` narrows it down."""
    try:
        admin = Admin(url, token(token_file), "--admin URL")
        query = urlencode({name: value for name, value in asked.items() if value})
        path = f"/why/{quote(request_id, safe='')}" if request_id else f"/why?{query}"
        found = admin.ask("GET", path)
    except CommandError as error:
        print(f"sidecar why: {error}", file=sys.stderr)
        return NOT_TOLD
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return TOLD
    paint = Paint(sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    try:
        lines = story(found, paint) if request_id else recent(found, paint)
    except (LookupError, TypeError, ValueError, AttributeError):
        print(f"sidecar why: what answers at {url} is not a sidecar's admin API", file=sys.stderr)
        return NOT_TOLD
    print("\n".join(lines))
    return TOLD


def story(told: Mapping[str, Any], paint: Paint) -> list[str]:
    """The lines about one request."""
    lines = [
        f"{_verdict(told, paint)}  {paint(_what(told), _BOLD)}",
        f"{'request':<9}{paint(told['request_id'], _BOLD)}  {paint(told.get('began', ''), _DIM)}",
        f"{'cause':<9}{paint(told['cause'], _BOLD)}",
        f"{'setting':<9}{paint(told['setting'] or 'no setting would change it', _CYAN if told['setting'] else _DIM)}",
    ]
    if told.get("trace_id"):
        lines.append(f"{'trace':<9}{paint(told['trace_id'], _DIM)}")
    hops: Sequence[Mapping[str, Any]] = told.get("hops", ())
    if len(hops) > 1:
        lines.append("")
        lines += [f"  {number}. {_hop(it, paint)}" for number, it in enumerate(hops, 1)]
    events: Sequence[Mapping[str, Any]] = told["events"]
    services = {event.get("service") for event in events}
    lines += ["", f"{'at':>11}  what happened"]
    for event in events:
        lines += _event(event, paint, told=len(services) > 1)
    if told.get("events_left_out"):
        lines.append(f"{'':>11}  {told['events_left_out']} more are not kept")
    return lines


def recent(told: Mapping[str, Any], paint: Paint) -> list[str]:
    """A line for each request, the newest first."""
    requests: Sequence[Mapping[str, Any]] = told["requests"]
    if not requests:
        if not told["records"]:
            return ["nothing is remembered: why.records is 0"]
        return [f"nothing of that kind among the {told['remembered']} requests that are remembered"]
    lines = []
    for it in requests:
        head = f"{paint(it['began'], _DIM)}  {_verdict(it, paint)}  {paint(it['request_id'], _BOLD)}"
        lines += [f"{head}  {plain(_what(it))}", f"    {plain(it['cause'])}"]
    return [*lines, "", "sidecar why ID tells the whole story of one"]


def _verdict(it: Mapping[str, Any], paint: Paint) -> str:
    """How it ended: the status, and the code if the answer was a sidecar's own."""
    status, error = it.get("status"), str(it.get("error") or "")
    style = _RED if error or (isinstance(status, int) and status >= 500) else _YELLOW
    if not error and isinstance(status, int) and 0 < status < 400:
        style = _GREEN
    return paint(f"{status or '---'} {error}".rstrip(), style)


def _what(it: Mapping[str, Any]) -> str:
    """What it was, and where it went."""
    where = "inbound" if it.get("direction") == "inbound" else f"to {it.get('upstream')}"
    request = " ".join(str(it[key]) for key in ("method", "path") if it.get(key))
    if it.get("kind") == "message":
        request = f"message to {it.get('exchange') or 'the default exchange'} {it.get('routing_key', '')}".rstrip()
    parts = [f"{request or it.get('protocol', 'a request')} {where}"]
    if it.get("duration_ms") is not None:
        parts.append(f"{it['duration_ms']:g} ms")
    if isinstance(it.get("attempts"), int) and it["attempts"] > 1:
        parts.append(f"{it['attempts']} tries")
    return ", ".join(parts)


def _hop(it: Mapping[str, Any], paint: Paint) -> str:
    if it.get("problem"):
        return f"{paint(it.get('at', '?'), _BOLD)}  {paint(it['problem'], _YELLOW)}"
    where = paint(it.get("service", "?"), _BOLD)
    return f"{where}  {_verdict(it, paint)}  {plain(_what(it))}: {plain(it.get('cause'))}"


def _event(event: Mapping[str, Any], paint: Paint, *, told: bool) -> list[str]:
    """An event on a line of its own; what there was to choose from on more lines."""
    what = str(event["what"]).replace("_", " ")
    service = f"{paint(event.get('service', ''), _CYAN)}  " if told else ""
    single = {key: it for key, it in event.items() if key not in _PLACE and not isinstance(it, list | dict)}
    details = "  ".join(f"{paint(key, _DIM)} {plain(_value(it))}" for key, it in single.items())
    lines = [f"{float(event['at_ms']):>8.1f} ms  {service}{paint(what, _BOLD)}  {details}".rstrip()]
    for key, items in event.items():
        if isinstance(items, list):
            lines += [f"{'':>13}{paint(key, _DIM)} {plain(_flat(item))}" for item in items]
    return lines


def _flat(item: object) -> str:
    if isinstance(item, Mapping):
        return ", ".join(f"{key} {_value(it)}" for key, it in item.items())
    return str(item)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
