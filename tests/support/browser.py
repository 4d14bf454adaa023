"""A real Chromium for tests of the dashboard, and a page that remembers everything that it did wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, expect, sync_playwright

from support.patience import PATIENCE
from support.processes import missing

#: It asks nothing of the world, and works as root in a container.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions",
]  # fmt: skip

expect.set_options(timeout=PATIENCE * 1000)

#: Each violation of the policy becomes a line of the console.
_WATCH = """document.addEventListener("securitypolicyviolation", (it) =>
    console.error(`policy violated: ${it.violatedDirective} ${it.blockedURI}`));"""


def binary() -> str:
    """Where the system's Chromium is."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    missing("there is no chromium: install the package chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """One that runs."""
    path = binary()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page of a dashboard in a context of its own. ``options`` are those of the context: ``color_scheme``,
    ``viewport``, ``java_script_enabled`` and so on."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.context: BrowserContext = browser.new_context(**{"reduced_motion": "reduce", **options})
        self.context.set_default_timeout(PATIENCE * 1000)
        self.page: Page = self.context.new_page()
        #: What must not be: errors of the console, and requests to other hosts.
        self.faults: list[str] = []
        #: What was fetched: the path, and bytes of its body over the wire.
        self.fetched: dict[str, int] = {}
        self.page.add_init_script(_WATCH)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(f"thrown: {error}"))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("response", self._answered)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def _asked(self, url: str) -> None:
        if not url.startswith(self.url) and not url.startswith("data:"):
            self.faults.append(f"another host was asked: {url}")

    def _answered(self, response: Response) -> None:
        self.fetched[response.url.removeprefix(self.url)] = int(response.headers.get("content-length", 0))

    def open(self, path: str = "", heading: str = "") -> Page:
        """Go to a page of the dashboard, as ``upstreams/name``, and wait for its heading."""
        self.page.goto(f"{self.url}/#/{path}")
        if heading:
            self.page.get_by_role("heading", level=1, name=heading, exact=True).wait_for()
        return self.page

    def serious(self, *rules: str) -> list[str]:
        """What axe finds on the page that keeps people from using it; of these rules only, if there are any. The
        context must have ``bypass_csp``."""
        options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
        found = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{it['id']}: {it['help']} ({it['nodes'][0]['html'][:200]})"
            for it in found
            if it["impact"] in ("serious", "critical")
        ]
