"""The mesh's own sidecars, which are only read."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

#: Seconds that an answer may take, and the most bytes of it that are read.
TIMEOUT: Final = 10.0
MAX_ANSWER: Final = 16 * 1024 * 1024


class PeerError(Exception):
    """It did not answer, or not so that it can be understood; the text says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; ``seconds`` until its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def type(self) -> str:
        """The media type, without its parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def json(self) -> dict[str, Any]:
        """The object in it. Raises :class:`PeerError`."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise PeerError("what answers is not the admin API of such a sidecar")
        return found


class Peer:
    """One sidecar's admin API at ``url``."""

    def __init__(self, url: str, token: str, http: aiohttp.ClientSession) -> None:
        self.url = url.rstrip("/")
        #: What it is called, as soon as that is known.
        self.name = self.url.partition("://")[2]
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = http

    async def get(self, path: str, accept: str = "*/*", *, first: bool = False) -> Reply:
        """Ask for a page; ``first``: only the beginning of one that does not end. Raises :class:`PeerError`."""
        headers = {**self._headers, "Accept": accept}
        began = time.perf_counter()
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                self._http.get(self.url + path, headers=headers, allow_redirects=False) as answer,
            ):
                body = await answer.content.readany() if first else await answer.content.read(MAX_ANSWER)
                while not first and not answer.content.at_eof() and len(body) < MAX_ANSWER:
                    body += await answer.content.read(MAX_ANSWER - len(body))
                return Reply(answer.status, answer.headers, body, time.perf_counter() - began)
        except TimeoutError as error:
            raise PeerError(f"no answer within {TIMEOUT:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PeerError(str(error) or type(error).__name__) from error

    async def ask(self, path: str) -> dict[str, Any]:
        """The object that a path answers with, whatever the status. Raises :class:`PeerError`."""
        reply = await self.get(path)
        if reply.status in (401, 403):
            raise PeerError("the admin token is needed, or this is not it: --token-file FILE, or SIDECAR_ADMIN_TOKEN")
        if reply.status not in (200, 503):
            raise PeerError(f"{path} answers {reply.status}")
        return reply.json()

    async def upstreams(self) -> list[dict[str, Any]]:
        """Its upstreams. Raises :class:`PeerError`."""
        return list(objects((await self.ask("/upstreams")).get("upstreams")))


def objects(value: object) -> Iterator[dict[str, Any]]:
    """The objects in what should be a list of them."""
    if isinstance(value, list):
        yield from (it for it in value if isinstance(it, dict))
