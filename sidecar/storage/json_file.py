"""Small JSON files that outlive a restart: written whole, for this user only."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

logger = logging.getLogger("sidecar.amqp")

#: Seconds between two savings of what has changed.
SAVE_SECONDS: Final = 1.0
_VERSION: Final = 1


class Notebook:
    """One file. A reader finds a whole version of it, never a half. A file with other content is set aside under a
    name of its own. Nothing here raises: what cannot be written is logged, and lost with the process."""

    __slots__ = ("_failing", "_max_bytes", "_path", "_wall", "_what")

    def __init__(self, path: Path, what: str, max_bytes: int, wall: Callable[[], float]) -> None:
        self._path = path
        #: The file's purpose, for the log.
        self._what = what
        self._max_bytes = max_bytes
        self._wall = wall
        self._failing = False

    def read(self) -> dict[str, object] | None:
        """Read the file; None without content. Blocks."""
        path = self._path
        try:
            with path.open("rb") as file:
                data = file.read(self._max_bytes + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("%s cannot be read and begins empty: %s", self._what, error)
            return None
        try:
            if len(data) > self._max_bytes:
                raise ValueError(f"more than {self._max_bytes} bytes")
            content = json.loads(data)
            if not isinstance(content, dict) or content.get("version") != _VERSION:
                raise ValueError("not a file of this version")
        except (ValueError, RecursionError) as error:
            self.set_aside(str(error))
            return None
        return content

    def set_aside(self, reason: str) -> None:
        """Keep a broken file under another name, for people, and begin anew."""
        aside = self._path.with_name(f"{self._path.name}.corrupt-{int(self._wall())}")
        try:
            os.replace(self._path, aside)
        except OSError as error:
            logger.warning("%s is corrupt (%s), and could not be set aside: %s", self._what, reason, error)
        else:
            logger.warning("%s is corrupt (%s); it begins empty, the old one is kept as %s", self._what, reason, aside)

    def write(self, content: dict[str, object]) -> bool:
        """Replace the content. Blocks until it is on disk; returns False when it could not be written."""
        data = json.dumps({"version": _VERSION, **content}, separators=(",", ":")).encode()
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)  # its mode might be anything
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.replace(fresh, self._path)
        except OSError as error:
            if not self._failing:
                self._failing = True
                logger.warning("%s cannot be written: %s", self._what, error)
            return False
        if self._failing:
            self._failing = False
            logger.info("%s is written again", self._what)
        return True


class Kept:
    """Data that is kept in a :class:`Notebook`."""

    __slots__ = ("dirty", "notebook")

    def __init__(self, notebook: Notebook | None) -> None:
        #: Where; ``None``: it lives as long as the process.
        self.notebook = notebook
        #: It has changed since it was saved.
        self.dirty = False

    def content(self) -> dict[str, object]:
        """Return the content to write."""
        raise NotImplementedError


class Saving:
    """Writes changed files, off the loop, every second, and once more at the end."""

    def __init__(self, kept: Sequence[Kept]) -> None:
        self._kept = kept
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="amqp notebooks")

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        await self.save()

    async def save(self) -> None:
        """Write changed files now. One that cannot be written is tried again the next time."""
        for kept in self._kept:
            notebook = kept.notebook
            if kept.dirty and notebook is not None:
                kept.dirty = False
                if not await asyncio.to_thread(notebook.write, kept.content()):
                    kept.dirty = True

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await self.save()
