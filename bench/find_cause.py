"""Finding causes on the dashboard: ``python -m bench.find_cause [FAULT …]``, about two minutes.

For each fault a mesh of ten real services with their sidecars; users ask ``web``. Then a real Chromium goes the way of
docs/troubleshooting.md, from the address ``/`` of the sidecar of ``web``, by clicking: each page is looked at for the
cause, and if it is not there, the next click is made. Printed are the clicks, how long each page took until it said
what it says, and what that was. Reading is up to people: three or four pages are some ten seconds each.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from playwright.sync_api import Browser, Page

from support.browser import Watched, chromium
from support.ten import Ten, ten

#: Seconds between a fault and the operator's first look.
BEFORE: Final = 10.0
#: What is clicked, one after the other: a page of the menu, or a link on the page.
CLICKS: Final = ("Failures", "first cause", "Mesh", "Look")


class Fault(NamedTuple):
    """``cause`` is found where a page says it: a pattern of the page's text."""

    what: str
    cause: str
    stage: Callable[[Ten], None]
    changes: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - never changed


def _hold(mesh: Ten) -> None:
    url = f"{mesh.sidecars['backend'].admin}/upstreams/billing/breaker/open"
    body = json.dumps({"by": "ops", "reason": "billing is being moved", "for": "1h"}).encode()
    urllib.request.urlopen(urllib.request.Request(url, body, method="POST")).close()


FAULTS: Final = {
    "errors": Fault(
        "the app of chroma answers 500",
        r"in the sidecar of chroma: the app at \S+ itself answered 500|^\S+chroma\n+\d+ % of what comes in fails",
        lambda mesh: mesh.apps.fault("chroma", status=500),
    ),
    "slow": Fault(
        "the app of chroma answers after 900 ms",
        r"^\S+chroma\n+one answer in a hundred takes [^;\n]*$",
        lambda mesh: mesh.apps.fault("chroma", ms=900),
    ),
    "gone": Fault(
        "the sidecar of ollama is killed",
        r"^\S+ollama\n+its sidecar could not be asked: [^;\n]*$|\d+ refused the connection",
        lambda mesh: mesh.sidecars["ollama"].kill(),
    ),
    "limit": Fault(
        "notify lets one request in five seconds in",
        r"rate_limited|over the rate limit",
        lambda mesh: None,
        {"notify": {"inbound": {"bind": "127.0.0.1:0", "rate_limit": {"rate": "12/m", "burst": 1}}}},
    ),
    "held": Fault(
        "somebody holds the breaker of backend to billing open, and has forgotten it",
        r"billing is held open by ops, until \S+: billing is being moved",
        _hold,
    ),
}


def main() -> None:
    """Go each way, and print it."""
    wanted = sys.argv[1:] or list(FAULTS)
    with chromium() as browser:
        for name in wanted:
            with tempfile.TemporaryDirectory() as folder, ten(Path(folder), FAULTS[name].changes) as mesh:
                _walk(browser, name, FAULTS[name], mesh)


def _walk(browser: Browser, name: str, fault: Fault, mesh: Ten) -> None:
    print(f"\n{name}: {fault.what}", flush=True)
    fault.stage(mesh)
    time.sleep(BEFORE)
    admins = {sidecar.admin: service for service, sidecar in mesh.sidecars.items()}
    with Watched(browser, mesh.sidecars["web"].admin, viewport={"width": 1480, "height": 900}) as it:
        page = it.page
        began = time.monotonic()
        page.goto(f"{it.url}/")
        clicks = 0
        for click in (None, *CLICKS):
            if click is not None:
                if not _click(page, click):
                    continue
                clicks += 1
            found, said, seconds = _look(page, fault.cause)
            where = admins.get(page.url.split("/#")[0].rstrip("/"), "?")
            heading = page.locator("h1").first.inner_text()
            print(f"  {clicks} clicks, {seconds:.1f} s: {where} · {heading}: {said}")
            if found:
                print(f"  found after {clicks} clicks; {time.monotonic() - began:.1f} s without reading")
                return
        print("  not found")


def _click(page: Page, what: str) -> bool:
    """Whether there was something to click."""
    if what == "Look":
        link = page.locator(".troubles a").first
    elif what == "first cause":
        link = page.locator("main tbody a").first
    else:
        link = page.get_by_role("navigation").get_by_role("link", name=re.compile(rf"^{what}\b"))
    page.wait_for_timeout(500)
    if not link.count():
        return False
    link.click()
    return True


def _look(page: Page, cause: str) -> tuple[bool, str, float]:
    """Whether the page says the cause within five seconds, what it says first, and how long that took."""
    began = time.monotonic()
    page.locator("main h1").wait_for()
    page.locator(".troubles, .calm, .cause, main tbody, main .empty").first.wait_for()
    shown = time.monotonic() - began
    text = ""
    while time.monotonic() - began < 5:
        text = page.locator("body").inner_text()
        if found := re.search(cause, text, re.MULTILINE):
            story = page.locator(".cause")
            said = story.inner_text() if story.count() else found[0]
            return True, " ".join(said.split()), time.monotonic() - began
        page.wait_for_timeout(100)
    first = page.locator(".troubles li, .calm, .cause, main tbody tr, main .empty").first
    return False, " ".join(first.inner_text().split()), shown


if __name__ == "__main__":
    main()
