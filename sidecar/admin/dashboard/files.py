"""The dashboard's files, as a browser gets them: compressed once, and for good.

Their address has a version in it, made of everything that they hold: so a browser may keep them for ever, and a page
never meets modules of another version. They import each other by relative addresses, which keep the version.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.core.operations import Call, Contribution, NotKnown, Operation, Page

STATIC: Final = Path(__file__).parent / "static"
#: Files that are served, by the ends of their names.
MEDIA: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
#: What every page needs at once. Others of these folders are fetched when they are imported.
_FIRST: Final = re.compile(r"(app|ui|pages)/[\w-]+\.js|vendor/(htm|preact[\w-]*)\.js")

#: Nothing but what comes from here, and no text ever becomes markup or code. ``form-action``, ``base-uri`` and
#: ``frame-ancestors`` do not follow ``default-src``.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_FOR_EVER: Final = {"Cache-Control": "private, max-age=31536000, immutable", "Vary": "Accept-Encoding"}


class File(NamedTuple):
    """One file: its Content-Type, and its bytes as they are and compressed."""

    media: str
    plain: bytes
    small: bytes


class Files:
    """All files below ``folder``, by ``folder/name``. They are read when they are first asked for."""

    def __init__(self, folder: Path = STATIC) -> None:
        self._folder = folder
        self._loading: asyncio.Lock = asyncio.Lock()
        self._all: Mapping[str, File] = {}
        self._version = ""

    def contribution(self) -> Contribution:
        """Return the operation that serves them."""
        path = "/dashboard/{version}/{folder}/{file}"
        return Contribution(
            (
                Operation("GET", path, "A file of the dashboard", self.serve,
                          {200: "the file", 404: "there is none of that version and name"},
                          pages=tuple(kind.partition(";")[0] for kind in MEDIA.values())),
            ),
            {},
        )  # fmt: skip

    async def load(self) -> None:
        """Read and compress them, in a thread, once."""
        async with self._loading:
            if not self._all:
                self._version, self._all = await asyncio.to_thread(_read, self._folder)

    async def serve(self, call: Call) -> Page:
        """Answer with one of them."""
        await self.load()
        found = self._all.get(f"{call.parts['folder']}/{call.parts['file']}")
        if found is None or call.parts["version"] != self._version:
            raise NotKnown("the dashboard has no such file in this version; load the page at / again")
        if "gzip" in call.accept_encoding:
            return Page(found.small, found.media, {**_FOR_EVER, "Content-Encoding": "gzip"})
        return Page(found.plain, found.media, _FOR_EVER)

    async def head(self) -> str:
        """Return the elements with which a page fetches them."""
        from html import escape  # with all names of characters: 0.4 MiB

        await self.load()
        base = f"/dashboard/{self._version}"
        first = (name for name in self._all if _FIRST.fullmatch(name) and name != "app/main.js")
        return "\n".join(
            (
                f'<link rel="icon" href="{base}/style/favicon.svg" type="image/svg+xml">',
                f'<link rel="stylesheet" href="{base}/style/dashboard.css">',
                *(f'<link rel="modulepreload" href="{base}/{escape(name)}">' for name in first),
                f'<script type="module" src="{base}/app/main.js"></script>',
            )
        )

    @property
    def names(self) -> Sequence[str]:
        """Those that have been read."""
        return tuple(self._all)


def _read(folder: Path) -> tuple[str, Mapping[str, File]]:
    """Return the version of all files, and each of them."""
    import gzip  # for the dashboard alone, which most sidecars never show
    import hashlib

    digest = hashlib.sha256()
    found = {}
    for path in sorted(folder.glob("*/*")):
        media = MEDIA.get(path.suffix)
        if media is None:
            continue
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        digest.update(b"%s\0%d\0" % (name.encode(), len(data)))
        digest.update(data)
        found[name] = File(media, data, gzip.compress(data, 9, mtime=0))
    return digest.hexdigest()[:16], found
