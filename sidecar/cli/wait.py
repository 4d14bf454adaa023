"""``sidecar wait``: until a running sidecar is ready, for scripts and for what starts after it."""

from __future__ import annotations

import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Final

#: Seconds between two questions, and the longest that an answer may take.
PAUSE: Final = 0.1
ANSWER: Final = 2.0
#: Seconds after which it says what it waits for, and again.
TOLD: Final = 2.0


def wait(
    admin_url: str,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Ask until the sidecar with this admin API is ready. 0: it is; 1: it was not within ``seconds``."""
    base = admin_url.rstrip("/")
    if not base.startswith(("http://", "https://")):
        print(
            f"sidecar wait: {admin_url!r} is not the URL of an admin API; one looks like http://127.0.0.1:15000",
            file=sys.stderr,
        )
        return 2
    # No proxy, whatever the environment says: this goes to a host's own loopback.
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    began = clock()
    told = began
    while True:
        problem = _problem(ask, f"{base}/ready", max(0.05, min(ANSWER, seconds)))
        if not problem:
            return 0
        now = clock()
        if now - began >= seconds:
            print(f"sidecar wait: {base} was not ready within {seconds:g} s: {problem}", file=sys.stderr)
            return 1
        if now - told >= TOLD:
            told = now
            print(f"sidecar wait: {base}: {problem}; waiting for {seconds - (now - began):.0f} s more", file=sys.stderr)
        sleep(min(PAUSE, max(0.0, seconds - (now - began))))


def _problem(ask: Callable[..., http.client.HTTPResponse], url: str, timeout: float) -> str:
    """Why it is not ready; empty when it is."""
    try:
        with ask(url, timeout=timeout) as answer:
            return "" if answer.status == 200 else f"it answers {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            try:
                said = json.loads(error.read(65536))
                return str(said.get("waiting_for") or said.get("phase") or f"it answers {error.code}")
            except (OSError, http.client.HTTPException, ValueError, AttributeError, RecursionError):
                return f"it answers {error.code}"
    except urllib.error.URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(getattr(error, "strerror", None) or error or type(error).__name__)
