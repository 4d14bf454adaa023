"""``sidecar top``: what a sidecar's upstreams do, or the whole mesh, once a second.

In a terminal it stays in place; elsewhere it is plain lines."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sidecar.cli import mesh
from sidecar.cli.admin_client import MAX_ANSWER, Admin, CommandError, token
from sidecar.cli.status import columns
from sidecar.core.text import printable

DONE: Final = 0
FAILED: Final = 1
PERIOD: Final = 1.0

#: The alternate screen without a cursor, and back (xterm's control sequences).
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"


def top(url: str, token_file: str, *, of_mesh: bool, count: int) -> int:
    """Show it until ``q``, Ctrl-C, or ``count`` looks (0: any number)."""
    try:
        admin = Admin(url, token(token_file), "--admin URL", "application/json" if of_mesh else "text/event-stream")
        with _terminal() as live:
            return _run(admin, url, of_mesh, count, live)
    except CommandError as error:
        print(f"sidecar top: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return DONE


def _run(admin: Admin, url: str, of_mesh: bool, count: int, live: bool) -> int:
    looks = 0
    while True:
        try:
            found = admin.ask("GET", "/mesh") if of_mesh else _snapshot(admin)
            shown = mesh.lines(found, mesh.colours()) if of_mesh else lines(found, mesh.colours())
        except CommandError:
            if not live or not looks:
                raise
            shown = [f"{url} does not answer; trying on"]
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise CommandError(f"what answers at {url} is not a sidecar's admin API") from error
        looks += 1
        _show(shown, live)
        if count and looks >= count:
            return DONE
        if _quit(PERIOD, live):
            return DONE


def _snapshot(admin: Admin) -> Mapping[str, Any]:
    """The state that ``/events`` begins with."""
    try:
        with admin.answer("GET", "/events") as answer:
            while line := answer.readline(MAX_ANSWER):
                if line.startswith(b"data: "):
                    found: Mapping[str, Any] = json.loads(line[6:])
                    return found
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(f"the sidecar has broken off: {getattr(error, 'strerror', None) or error}") from error
    raise CommandError("the sidecar has broken off")


def lines(found: Mapping[str, Any], colour: bool) -> list[str]:
    """One sidecar."""
    rows = [["UPSTREAM", ">RATE", ">ERRORS", ">P50", ">P99", ">ACTIVE", ">WAITING", "BREAKER", "HEALTH", "WHY"]]
    inbound = found.get("inbound")
    if inbound:
        rows.append(["(inbound)", *mesh.figures(inbound), str(inbound["active"]), str(inbound["pending"]), ""])
        app = found.get("app") or {"status": "", "output": ""}
        rows[-1] += mesh.judged(
            {**inbound, "status": app["status"]}, "" if app["status"] == "healthy" else app["output"]
        )
    for name, it in found["upstreams"].items():
        breaker = it["breaker"]["state"].replace("_", "-") if it["breaker"] else "off"
        why = "" if it["status"] == "healthy" else it["output"]
        rows.append(
            [name, *mesh.figures(it), str(it["active"]), str(it["pending"]), breaker, *mesh.judged(it, why)]
        )  # fmt: skip
    head = f"{found['service']}  {found['phase']}  {found['status']}"
    return [printable(head, 200), "", *columns(rows, colour)]


def _show(shown: list[str], live: bool) -> None:
    if not live:
        print("\n".join([*shown, ""]), flush=True)
        return
    size = shutil.get_terminal_size()
    most = max(size.lines - 2, 1)
    kept = shown[:most] + ([f"… {len(shown) - most} more lines"] if len(shown) > most else [])
    clock = time.strftime("%H:%M:%S")
    # No line may wrap, or the screen would scroll.
    text = "\x1b[?7l\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in kept) + f"{clock}  q ends\x1b[K\x1b[J\x1b[?7h"
    sys.stdout.write(text)
    sys.stdout.flush()


def _quit(seconds: float, live: bool) -> bool:
    """Wait so long; whether q was pressed meanwhile."""
    if not live:
        time.sleep(seconds)
        return False
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin], [], [], left)
        if ready:
            typed = os.read(sys.stdin.fileno(), 64)
            if not typed or set(typed) & set(b"qQ\x03\x04"):
                return True
    return False


@contextlib.contextmanager
def _terminal() -> Iterator[bool]:
    """Take the terminal, and give it back as it was in every case; whether there is one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        yield False
        return
    import termios
    import tty

    def end(number: int, _: object) -> None:
        raise KeyboardInterrupt

    before = termios.tcgetattr(sys.stdin)
    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(_ENTER)
        yield True
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()
        with contextlib.suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
