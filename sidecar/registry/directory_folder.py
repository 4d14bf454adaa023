"""A registry folder on disk: ``<service>/<instance id>.json``, one file per instance, rewritten as a heartbeat.

Plain blocking calls; :mod:`sidecar.registry.directory` makes them in a thread. Files are replaced as a whole (written
beside and renamed), so nobody ever reads half of one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidecar.core.instance import SIDECAR_SUFFIX, Instance
from sidecar.registry.directory_record import SUFFIX, Record, decode, file_name, is_file_name
from sidecar.registry.directory_root import Root, entries, is_own, open_folder, read_file, replace
from sidecar.registry.validate import MAX_INSTANCES
from sidecar.resilience.token_bucket import TokenBucket

log = logging.getLogger("sidecar.registry")

#: Seconds between two rewrites of one's own file.
HEARTBEAT = 2.0
#: Seconds without a rewrite after which an instance counts as gone: three heartbeats.
STALE = 3 * HEARTBEAT
#: Seconds after which anybody removes a stale file.
LITTER = 600.0
#: Bytes of a service's files that are read and remembered; what is beyond is skipped.
MAX_BYTES = 8 << 20

_Version = tuple[int, int, int]


@dataclass(slots=True)
class _Seen:
    version: _Version
    record: Record | None
    size: int
    #: When, on this process's clock, the version was seen first.
    since: float


class Folder:
    """The folder at ``path``. ``clock`` never goes back, ``wall`` is Unix time; both give seconds.

    Whether a file is fresh is judged by seeing it change, so a wrong or jumping wall clock costs at most one
    heartbeat. Only for a file never seen before does its time stamp have to do.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._root = Root(path)
        self._clock = clock
        self._wall = wall
        self._seen: dict[str, dict[str, _Seen]] = {}
        #: What may be litter, by its path below the registry, and its time stamp.
        self._litter: dict[str, int] = {}
        self._lines = TokenBucket(0.1, 32, clock())

    def prepare(self) -> None:
        """See :meth:`sidecar.registry.directory_root.Root.prepare`."""
        self._root.prepare()

    def check(self) -> None:
        """Raises OSError when the registry itself cannot be opened."""
        with self._root.open():
            pass

    def write(self, service: str, id: str, content: bytes) -> None:
        """Create or replace an instance's file. Raises OSError."""
        with self._root.service(file_name(service), create=True) as folder:
            replace(folder, file_name(id) + SUFFIX, content)

    def remove(self, service: str, id: str) -> None:
        """Remove an instance's file, and the service's folder when it was the last. Raises OSError."""
        name = file_name(service)
        try:
            with self._root.service(name) as folder:
                os.unlink(file_name(id) + SUFFIX, dir_fd=folder)
        except FileNotFoundError:
            pass
        with self._root.open() as root, suppress(OSError):  # not empty
            os.rmdir(name, dir_fd=root)

    def read(self, service: str) -> tuple[Instance, ...]:
        """The usable instances of a service: fresh and not critical, in a stable order. Raises OSError when the
        registry or the service's folder cannot be read; files that make no sense are skipped, with a log line."""
        name = file_name(service)
        before = self._seen.get(name, {})
        after: dict[str, _Seen] = {}
        room = MAX_BYTES
        try:
            with self._root.service(name) as folder:
                for entry in entries(folder):
                    if entry.name.startswith(".") or not entry.name.endswith(SUFFIX):
                        continue
                    seen = self._look(folder, entry, before.get(entry.name), service, room)
                    if seen is not None:
                        after[entry.name] = seen
                        room -= seen.size
                    if len(after) == MAX_INSTANCES:
                        break
        except FileNotFoundError:
            self.check()
        if after:
            self._seen[name] = after
        else:
            self._seen.pop(name, None)
        now = self._clock()
        found = [
            seen.record.instance
            for seen in after.values()
            if seen.record is not None and now - seen.since < STALE and seen.record.instance.state != "critical"
        ]
        return tuple(sorted(found, key=lambda instance: (instance.id, instance.host, instance.port)))

    def keep(self, services: Collection[str]) -> None:
        """Forget what was seen of other services than these."""
        names = {file_name(service) for service in services}
        for name in [name for name in self._seen if name not in names]:
            del self._seen[name]

    def tidy(self) -> None:
        """Remove what was left behind by those who could not: files of the kind that :meth:`write` makes, older than
        :data:`LITTER` by their time stamp, that did not change since the last call either; and folders that are empty
        then. Everything else stays, and links are not followed. Each removal is logged. Raises OSError when the
        registry's folder cannot be read."""
        litter: dict[str, int] = {}
        with self._root.open() as root:
            for service in [entry.name for entry in entries(root) if entry.is_dir(follow_symlinks=False)]:
                with suppress(OSError):  # not ours to tidy, or gone
                    litter |= self._tidy(root, service)
        self._litter = litter

    def _tidy(self, root: int, service: str) -> dict[str, int]:
        litter: dict[str, int] = {}
        removed = False
        folder = open_folder(root, service)
        try:
            for entry in list(entries(folder)):
                path = f"{service}/{entry.name}"
                with suppress(OSError):
                    info = entry.stat(follow_symlinks=False)
                    if self._wall() - info.st_mtime < LITTER or not is_file_name(entry.name):
                        continue
                    if self._litter.get(path) != info.st_mtime_ns:
                        litter[path] = info.st_mtime_ns
                    elif is_own(folder, service, entry.name):
                        os.unlink(entry.name, dir_fd=folder)
                        removed = True
                        log.info("registry: removed %s, stale for %.0f s", path, self._wall() - info.st_mtime)
        finally:
            os.close(folder)
        if removed and not litter:
            os.rmdir(service, dir_fd=root)
            log.info("registry: removed the folder of %s, which was empty", service)
        return litter

    def sidecars(self) -> tuple[Instance, ...]:
        """The sidecars that are registered as services of their own, stale ones included. Raises OSError."""
        return tuple(it.instance for it in self._records(lambda name: name.endswith(SIDECAR_SUFFIX)))

    def services(self) -> dict[str, frozenset[str]]:
        """The names of all services that have a file, stale ones included, with their tags. Raises OSError."""
        found: dict[str, frozenset[str]] = {}
        for it in self._records(lambda name: not name.startswith(".")):
            found[it.service] = found.get(it.service, frozenset()) | frozenset(it.instance.tags)
        return found

    def _records(self, wanted: Callable[[str], bool]) -> Iterator[Record]:
        """What the files of the services with a wanted name say, as far as it makes sense: bounded in number and
        bytes. Raises OSError."""
        count, room = 0, MAX_BYTES
        with self._root.open() as root:
            names = sorted(it.name for it in entries(root) if wanted(it.name))[:MAX_INSTANCES]
        for name in names:
            with suppress(OSError), self._root.service(name) as folder:
                for entry in entries(folder):
                    if entry.name.startswith(".") or not entry.name.endswith(SUFFIX):
                        continue
                    with suppress(OSError, ValueError):  # the watch of a service says what is wrong with its files
                        data = read_file(folder, entry.name)
                        room -= len(data)
                        record = decode(data)
                        if file_name(record.service) == name:
                            count += 1
                            yield record
                    if room < 0 or count >= MAX_INSTANCES:
                        return

    def _look(
        self, folder: int, entry: os.DirEntry[str], before: _Seen | None, service: str, room: int
    ) -> _Seen | None:
        try:
            info = entry.stat(follow_symlinks=False)
        except OSError:
            return None  # removed this moment
        version = (info.st_mtime_ns, info.st_ino, info.st_size)
        if before is not None and before.version == version and before.size <= room:
            return before
        record = None
        size = 0
        try:
            if info.st_size > room:
                raise ValueError(f"the files of {service} have more than {MAX_BYTES} bytes together")
            data = read_file(folder, entry.name)
            size = len(data)
            record = decode(data)
            if record.service != service or file_name(record.instance.id) + SUFFIX != entry.name:
                record = None
                raise ValueError("its service and id are not those that its path stands for")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if before is None or before.record is not None:  # one line, however often it is rewritten
                # Names are anybody's, and new ones can be made for ever.
                level = logging.DEBUG if self._lines.take(self._clock()) else logging.WARNING
                path = f"{file_name(service)}/{entry.name}"
                log.log(level, "registry: %s is skipped: %s", ascii(path)[1:-1], error)
        since = self._clock()
        if before is None:
            since -= max(0.0, self._wall() - info.st_mtime)
        return _Seen(version, record, size, since)
