"""``sidecar tap``: prints the exchanges of a running sidecar as they end."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from sidecar.cli.admin_client import Admin, CommandError, token
from sidecar.core.text import printable

DONE: Final = 0
FAILED: Final = 1

_RED: Final = "\x1b[31m"
_YELLOW: Final = "\x1b[33m"
_PLAIN: Final = "\x1b[0m"
#: Characters of a line.
_LONGEST: Final = 2000


def tap(url: str, token_file: str, asked: Mapping[str, str], *, as_json: bool) -> int:
    """Print what the sidecar at ``url`` tells, until it ends, has told as many as were asked for, or Ctrl-C."""
    query = urlencode({key: value for key, value in asked.items() if value})
    try:
        with Admin(url, token(token_file), "--admin URL").answer("GET", f"/tap?{query}") as answer:
            _print(answer, as_json=as_json)
    except CommandError as error:
        print(f"sidecar tap: {error}", file=sys.stderr)
        return FAILED
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        print(f"sidecar tap: {url} has broken off: {error}", file=sys.stderr)
        return FAILED
    except (LookupError, TypeError, AttributeError, RecursionError):
        print(f"sidecar tap: what answers at {url} is not a sidecar's admin API", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        pass
    return DONE


def _print(answer: http.client.HTTPResponse, *, as_json: bool) -> None:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    while line := answer.readline():
        if line.strip():
            print(line.decode().rstrip("\n") if as_json else text(json.loads(line), colour=colour), flush=True)


def text(it: Mapping[str, Any], *, colour: bool = False) -> str:
    """An exchange as one line: when, how it ended, what it was, to where, how long it took, its id."""
    if "dropped" in it:
        return f"… {it['dropped']} more, faster than they could be shown"
    status = int(it["status"])
    code = str(it.get("error") or it.get("peer_error") or "")
    words = [
        str(it["ts"])[11:23],
        str(status or "-").rjust(3),
        f"{float(it['duration']) * 1000:9.1f} ms",
        str(it["direction"])[:3].ljust(3),
        str(it["upstream"]),
        f"{it['method']} {it.get('target', '')}".rstrip(),
        f"→ {it['endpoint']}" if "endpoint" in it else "",
        code + (f" ({it['cause']})" if it.get("cause") else ""),
        f"{it['attempts']} tries" if int(it.get("attempts", 1)) > 1 else "",
        str(it.get("request_id", "")),
    ]
    line = printable("  ".join(word for word in words if word), _LONGEST)
    if colour and (code or status >= 500):
        return f"{_RED}{line}{_PLAIN}"
    return f"{_YELLOW}{line}{_PLAIN}" if colour and status >= 400 else line
