"""Requests that were acknowledged and that nobody delivers: the configuration has no queue for them any more."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.http_queue.record import file_name
from sidecar.http_queue.settings import QueueSettings

if TYPE_CHECKING:
    from sidecar.config.schema import Config

logger = logging.getLogger("sidecar.queue")

_SUFFIX: Final = "~queue.db"


def report(config: Config) -> None:
    """Log what is stored in the folders of this configuration's queues, and in the default one, in files that none of
    its listeners reads. Those that another process has in use are its own affair."""
    used: set[Path] = set()
    folders = {Path(QueueSettings().path)}
    for name, listener in (("", config.inbound), *config.upstreams.items()):
        if listener is None:
            continue
        for it in (listener, *listener.routes):
            if (queue := it.policies.get("queue")) is not None:
                folders.add(Path(queue.path))
                used_name = file_name(name or config.service.name, "outbound" if name else "inbound")
                used.add(Path(queue.path) / f"{used_name}.db")
    for folder in sorted(folders):
        for file, count in _stored(folder, used):
            logger.warning(
                "stored requests are delivered by nobody: no listener of this configuration has a queue for them",
                extra={"file": str(file), "requests": count},
            )


def _stored(folder: Path, used: set[Path]) -> Iterator[tuple[Path, int]]:
    try:
        files = sorted(it for it in folder.iterdir() if it.name.endswith(_SUFFIX) and it not in used)
    except OSError:
        return  # there is none, or it is not for us
    for file in files:
        count = _count(file)
        if count:
            yield file, count


def _count(file: Path) -> int:
    """How many requests wait in a file; 0: none, or it is in use, or unreadable."""
    import sqlite3

    try:
        with file.with_name(file.name + ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=0.2)) as sql:
                sql.execute("PRAGMA locking_mode = EXCLUSIVE")
                return int(sql.execute("SELECT count(*) FROM request").fetchone()[0])
    except (OSError, sqlite3.Error) as error:
        logger.debug("%s: %s", file, error)
        return 0
