"""Writes what is exported: once, or whenever it has changed."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecar.cli.export import haproxy, kong, prometheus
from sidecar.cli.export.mesh import Mesh, Source
from sidecar.cli.export.table import TableSettings
from sidecar.registry import RegistryError, Settings, create

KINDS: Final[dict[str, Callable[[Mesh], str]]] = {
    "kong": kong.render,
    "haproxy": haproxy.render,
    "prometheus": prometheus.render,
}
#: Seconds between two looks at the registry, and the longest that one may take.
PAUSE: Final = 2.0
ANSWER: Final = 10.0


class Output:
    """Where it goes: a file (empty: standard output) and, if wanted, Kong's admin API. Only what differs from the last
    text is written; after a failure it is tried again the next time."""

    def __init__(self, file: str, push: str = "") -> None:
        self._file = file
        self._push = push
        self._last: str | None = None
        self._pushed: str | None = None

    def write(self, text: str) -> bool:
        """Whether anything was to be done. Raises OSError, with a text for people."""
        changed = False
        if text != self._last:
            if not self._file:
                sys.stdout.write(text)
                sys.stdout.flush()
                changed = True
            elif not _has(self._file, text):
                replace(Path(self._file), text)
                changed = True
            self._last = text
        if self._push and text != self._pushed:
            push(self._push, text)
            self._pushed = text
            changed = True
        return changed

    def __str__(self) -> str:
        return " and ".join(it for it in (self._file or "standard output", self._push) if it)


def _has(file: str, text: str) -> bool:
    try:
        return Path(file).read_text() == text
    except (OSError, ValueError):
        return False


def replace(path: Path, text: str) -> None:
    """Replace a file as a whole, so that nobody reads half of it; a file that is mounted by itself cannot be replaced
    and is written over. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        try:
            os.replace(temporary, path)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        path.write_text(text)
    finally:
        Path(temporary).unlink(missing_ok=True)


def push(url: str, text: str) -> None:
    """Hand a whole configuration to Kong's ``POST /config``. Raises OSError with what Kong said."""
    request = urllib.request.Request(
        f"{url.rstrip('/')}/config", json.dumps({"config": text}).encode(), {"content-type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER) as answer:
            answer.read(1 << 20)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(2048).decode("utf-8", "replace")
        raise OSError(f"{url} refuses it with {error.code}: {said}") from None
    except urllib.error.URLError as error:
        raise OSError(f"{url} cannot be reached: {error.reason}") from None


def export(
    kind: str, table: TableSettings, settings: Settings, output: Output, *, targets: bool, watch: bool
) -> int:  # fmt: skip
    """The command, up to its exit code."""
    return asyncio.run(_export(kind, table, settings, output, targets, watch))


async def _export(
    kind: str, table: TableSettings, settings: Settings, output: Output, targets: bool, watch: bool
) -> int:
    try:
        registry = create(settings)
    except RegistryError as error:
        print(f"sidecar export: {error}", file=sys.stderr)
        return 1
    source = Source(table, registry, targets=targets, sidecars=kind == "prometheus")
    try:
        if watch:
            await _follow(KINDS[kind], source, output)
            return 0
        problem = await once(KINDS[kind], source, output)
        if problem:
            print(f"sidecar export: {problem}", file=sys.stderr)
        return 1 if problem else 0
    finally:
        if registry is not None:
            await registry.close()


async def once(render: Callable[[Mesh], str], source: Source, output: Output) -> str:
    """Ask and write; what went wrong, or nothing."""
    try:
        async with asyncio.timeout(ANSWER):
            text = render(await source.ask())
    except TimeoutError:
        return f"the registry has not answered within {ANSWER:g} s"
    except OSError as error:
        return f"the registry cannot be asked: {error}"
    try:
        if await asyncio.to_thread(output.write, text) and str(output) != "standard output":
            print(f"sidecar export: written to {output}", file=sys.stderr)
    except OSError as error:
        return f"it cannot be written: {error}"
    return ""


async def _follow(render: Callable[[Mesh], str], source: Source, output: Output) -> None:
    """Until a signal. What goes wrong is said once, until it is something else; the file stays as it was."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    told = ""
    while not ended.is_set():
        problem = await once(render, source, output)
        if problem != told:
            print(f"sidecar export: {problem or 'all is well again'}", file=sys.stderr)
            told = problem
        try:
            async with asyncio.timeout(PAUSE):
                await ended.wait()
        except TimeoutError:
            continue
