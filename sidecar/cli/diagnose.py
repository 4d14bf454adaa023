"""``sidecar diagnose``: prints what a running sidecar has found out about itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from sidecar.cli.admin_client import Admin, CommandError, RefusedError, token
from sidecar.cli.checklist import LONGEST, finding_lines
from sidecar.core.text import printable

WELL: Final = 0
BAD: Final = 1
MISUSED: Final = 2


def diagnose(upstream: str, url: str, token_file: str, *, as_json: bool) -> int:
    """Ask the sidecar at ``url``, print, and return the exit code. That it cannot be asked is a finding, too."""
    try:
        path = "/diagnose" + (f"?upstream={quote(upstream, safe='')}" if upstream else "")
        found: Mapping[str, Any] = Admin(url, token(token_file), "--admin URL").ask("GET", path)
    except RefusedError as error:  # there is no such upstream
        print(f"sidecar diagnose: {error}", file=sys.stderr)
        return MISUSED
    except CommandError as error:
        found = _not_asked(url, str(error))
    try:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        text = "\n".join(lines(found, colour=colour))
    except (LookupError, TypeError, AttributeError, ValueError):
        print(f"sidecar diagnose: what answers at {url} is not a sidecar's admin API", file=sys.stderr)
        return BAD
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else text)
    return WELL if found.get("well") is True else BAD


def _not_asked(url: str, why: str) -> Mapping[str, Any]:
    step = "is the sidecar running? its log says why it has ended; admin.bind in its file says where it can be asked"
    if "admin token" in why:
        step = "ask again with the token that admin.token in its file is, or names"
    finding = {"check": "admin", "upstream": None, "result": "bad", "evidence": why, "step": step}
    return {"service": None, "id": url, "well": False, "seconds": 0.0, "findings": [finding]}


def _in_groups(findings: Sequence[Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], int]:
    """Order them by what they are about: the sidecar, then each upstream in its turn."""
    order: list[object] = [None, *(it["upstream"] for it in findings)]
    return lambda it: order.index(it["upstream"])


def lines(found: Mapping[str, Any], *, colour: bool = False) -> Iterator[str]:
    """The findings, to read: those about the sidecar, then each upstream's."""
    findings: Sequence[Mapping[str, Any]] = found["findings"]
    width = max((len(str(it["check"])) for it in findings), default=0)
    about = found["id"] if found["service"] is None else f"{found['service']} ({found['id']})"
    yield printable(str(about), LONGEST)
    last = None
    for it in sorted(findings, key=_in_groups(findings)):
        if it["upstream"] != last:
            last = it["upstream"]
            yield ""
            yield printable(str(last), LONGEST)
        yield from finding_lines(it["check"], it["result"], str(it["evidence"]), it["step"] or "", width, colour=colour)
    bad = sum(1 for it in findings if it["result"] == "bad")
    yield ""
    yield "all is well" if not bad else f"{bad} of {len(findings)} checks found something"
