"""The workspaces: folders on disk, a record of each in Redis, and no more than the limit.

Whoever is killed in the middle leaves a folder without a record, never a record without a folder: a folder is made
before its record is written, and goes after it. So what has no record at the start is taken away, with its processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from examples.common.redis import Redis
from examples.workspace_isolation.limits import Limits
from examples.workspace_isolation.process import end_all

LIMIT = 10
#: Folders that are made beforehand.
POOL = 3
RECORDS = "workspace-isolation:workspaces"
SHARED = "shared"


class Full(Exception):
    """There are as many workspaces as there may be."""


@dataclass(frozen=True, slots=True)
class Workspace:
    id: str
    owner: str
    kind: str  # process, docker, or shared
    created: str
    limits: Limits
    folder: Path

    def document(self) -> dict[str, object]:
        """As it is answered, and kept in Redis."""
        return {
            "id": self.id, "owner": self.owner, "kind": self.kind, "created": self.created,
            "limits": self.limits.document(), "folder": str(self.folder),
        }  # fmt: skip


class Workspaces:
    def __init__(self, root: Path, redis: Redis) -> None:
        self.root = root.resolve()
        self._redis = redis
        self.all: dict[str, Workspace] = {}
        self.pool: list[Path] = []
        self._filling: asyncio.Task[None] | None = None
        self._one_change = asyncio.Lock()

    # -- the start and the end

    async def recover(self) -> dict[str, object]:
        """Take up what there was, and clean up behind a service that was killed. Return what was found; a workspace is
        lost when its folder is not there."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = await self._redis.ask("HGETALL", RECORDS)
        assert isinstance(found, list)
        lost = []
        for name, text in zip(found[::2], found[1::2], strict=True):
            it = self._of_record(json.loads(text))
            if it.folder.is_dir():
                self.all[it.id] = it
            else:
                lost.append(it.id)
                await self._redis.ask("HDEL", RECORDS, name)
        there = {it.name for it in self.root.iterdir()}
        # Commands of a service that was killed, too: nobody has their output.
        ended = await asyncio.to_thread(end_all, self.root, there)
        stray = there - self.all.keys() - {SHARED}
        for name in stray:
            await asyncio.to_thread(shutil.rmtree, self.root / name, ignore_errors=True)
        self._fill()
        return {
            "workspaces": sorted(self.all),
            "lost": lost,
            "folders_removed": sorted(stray),
            "processes_ended": ended,
        }

    def _of_record(self, record: dict[str, object]) -> Workspace:
        limits = record["limits"]
        assert isinstance(limits, dict)
        texts = {name: str(record[name]) for name in ("id", "owner", "kind", "created")}
        return Workspace(**texts, limits=Limits(**limits), folder=self.root / texts["id"])

    def end_processes(self) -> None:
        """The service ends; the workspaces stay."""
        if self._filling is not None:
            self._filling.cancel()
        end_all(self.root, {*self.all, SHARED})

    # -- what is asked of it

    async def create(self, name: str, owner: str, kind: str, limits: Limits) -> tuple[Workspace, bool]:
        """A workspace of that id, and whether it is new. Raises Full, and OSError when Redis is away."""
        async with self._one_change:
            if name in self.all:  # asked for twice: a message that comes again
                return self.all[name], False
            if len(self.all) >= LIMIT:
                raise Full
            created = datetime.now(UTC).isoformat(timespec="milliseconds")
            it = Workspace(name, owner, kind, created, limits, self.root / name)
            if self.pool:
                self.pool.pop().rename(it.folder)
            else:
                _furnish(it.folder)
            try:
                await self._redis.ask("HSET", RECORDS, it.id, json.dumps(it.document()))
            except BaseException:
                await asyncio.to_thread(shutil.rmtree, it.folder, ignore_errors=True)
                raise
            self.all[it.id] = it
        self._fill()
        return it, True

    async def destroy(self, name: str) -> bool:
        """Whether there was one. Raises OSError when Redis is away; then it stays."""
        async with self._one_change:
            it = self.all.get(name)
            if it is None:
                return False
            await self._redis.ask("HDEL", RECORDS, name)
            del self.all[name]
            await asyncio.to_thread(end_all, self.root, {name})
            await asyncio.to_thread(shutil.rmtree, it.folder, ignore_errors=True)
            return True

    def shared(self) -> Workspace:
        """The one for all who take it when there is none of their own to be had. It is no secret from any of them."""
        folder = self.root / SHARED
        if not folder.is_dir():
            _furnish(folder)
        return Workspace(SHARED, "", SHARED, "", Limits(), folder)

    # -- the pool

    def _fill(self) -> None:
        if self._filling is None or self._filling.done():
            self._filling = asyncio.create_task(self._fill_up())

    async def _fill_up(self) -> None:
        while len(self.pool) < POOL:
            folder = self.root / f"pool-{os.urandom(6).hex()}"
            await asyncio.to_thread(_furnish, folder)
            self.pool.append(folder)


def _furnish(folder: Path) -> None:
    for it in (folder, folder / "home", folder / "tmp"):
        it.mkdir(mode=0o700)
