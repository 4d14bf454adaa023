"""Section 6: the sidecars' pages, and what belongs to them, are served."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Final
from urllib.parse import urljoin, urlsplit

from sidecar.cli.validate.findings import Section
from sidecar.cli.validate.peers import Peer, PeerError
from sidecar.cli.validate.run import Run
from sidecar.core.text import counted

#: The most files of a page that are asked for.
_FILES: Final = 50
_LINKS: Final = ("stylesheet", "icon", "modulepreload")


class _Files(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        it = {name: value or "" for name, value in attrs}
        if tag in ("script", "img") and it.get("src"):
            self.found.append(it["src"])
        elif tag == "link" and set(it.get("rel", "").split()) & set(_LINKS) and it.get("href"):
            self.found.append(it["href"])


async def check(run: Run, section: Section) -> None:
    """Each given sidecar's page, its files, its description and its events."""
    for peer in run.peers:
        run.doing(f"reading the page of {peer.name}")
        try:
            await _page(peer, section)
            await _described(peer, section)
        except PeerError as error:
            section.bad("page", f"{peer.name}: {error}", "is this sidecar running, and is this its admin.bind?")


async def _page(peer: Peer, section: Section) -> None:
    page = await peer.get("/", "text/html")
    if page.status != 200 or page.type != "text/html" or b"</title>" not in page.body:
        section.bad("page", f"{peer.name}: / answers {page.status} with {page.type or 'nothing'}, not with a page",
                    "does something stand between here and the admin API?")  # fmt: skip
        return
    policy = page.headers.get("Content-Security-Policy", "")
    if "default-src 'none'" not in policy:
        section.bad("page", f"{peer.name}: / has no Content-Security-Policy of the sidecar's",
                    "something between here and the admin API takes it away")  # fmt: skip
        return
    section.good("page", f"{peer.name}: {len(page.body)} bytes, with its policy", policy)
    files = _Files()
    files.feed(page.body.decode("utf-8", "replace"))
    bad = []
    own = urlsplit(peer.url).netloc
    wanted = [it for it in dict.fromkeys(files.found) if not it.startswith("data:")][:_FILES]
    for name in wanted:
        try:
            at = urlsplit(urljoin(f"{peer.url}/", name))
        except ValueError:
            bad.append(f"{name} is no URL")
            continue
        if at.netloc != own:
            bad.append(f"{name} is another host's")
            continue
        got = await peer.get(at.path + (f"?{at.query}" if at.query else ""))
        if got.status != 200 or not got.body:
            bad.append(f"{name} answers {got.status}")
    if bad:
        section.bad("files", f"{peer.name}: {'; '.join(bad[:5])}", "is the package installed as a whole?")
    elif wanted:
        section.good("files", f"{peer.name}: {counted(len(wanted), 'file')} of the page", ", ".join(wanted))


async def _described(peer: Peer, section: Section) -> None:
    found = await peer.get("/openapi.json")
    paths = found.json().get("paths") if found.status == 200 else None
    if not isinstance(paths, dict):
        section.bad("openapi", f"{peer.name}: /openapi.json answers {found.status}", "see the sidecar's log")
        return
    section.good("openapi", f"{peer.name}: {counted(len(paths), 'path')} described")
    if "/events" not in paths:
        return
    events = await peer.get("/events", "text/event-stream", first=True)
    if events.status == 200 and events.type == "text/event-stream" and events.body:
        section.good("events", f"{peer.name}: the live stream has begun")
    elif events.status in (401, 403):
        section.bad("events", f"{peer.name}: /events wants the admin token",
                    "--token-file FILE, or SIDECAR_ADMIN_TOKEN")  # fmt: skip
    else:
        section.bad("events", f"{peer.name}: /events answers {events.status} with {events.type or 'nothing'}",
                    "does something between here and the admin API hold streams up?")  # fmt: skip
