from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from support.agents import RunningAgent, upstream
from support.live import run


class Page(HTMLParser):
    """The links and the texts of a page, and whether every element that was opened was closed."""

    _ENDLESS = ("meta", "link", "br", "!doctype")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name == "href" and value]
        if tag not in self._ENDLESS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_it_shows_how_things_are_and_links_to_the_rest(tmp_path: Path) -> None:
    async def main() -> None:
        upstreams = {"ollama": upstream(), "qdrant": upstream(circuit_breaker="off"), "neo4j": upstream()}
        async with RunningAgent(tmp_path, upstreams=upstreams) as it:
            await it.ask("POST", "/upstreams/neo4j/breaker/open")
            status, fields, body = await it.ask("GET", "/", Accept="text/html")
            assert status == 200
            assert fields["content-type"] == "text/html; charset=utf-8"
            page = Page(body.decode())
            assert page.open == []
            text = re.sub(r"\s+", " ", page.text)
            assert "web web-" in text
            assert "ready" in text
            assert re.search(r"ollama healthy 127\.0\.0\.1:0 closed 1 of 1 0 0 0 ms", text)
            assert re.search(r"qdrant healthy 127\.0\.0\.1:0 off", text)
            assert re.search(r"neo4j unhealthy 127\.0\.0\.1:0 open", text)
            assert "/upstreams/ollama" in page.links
            for link in page.links:
                assert (await it.ask("GET", link))[0] == 200, link

    run(main)


def test_without_upstreams_there_is_no_table_of_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path) as it:
            body = (await it.ask("GET", "/", Accept="text/html"))[2].decode()
            assert "Upstreams" not in body
            assert Page(body).open == []

    run(main)


def test_it_needs_nothing_from_anywhere_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}) as it:
            _, fields, body = await it.ask("GET", "/", Accept="text/html")
            assert "default-src 'none'" in fields["content-security-policy"]
            assert b"http://" not in body
            assert b"https://" not in body
            assert re.findall(rb"<script[^>]*>", body) == re.findall(
                rb'<script type="module" src="/dashboard/\w+/app/main.js">', body
            )
            assert b"style=" not in body
            assert b"require-trusted-types-for 'script'" in fields["content-security-policy"].encode()

    run(main)
