"""A registry folder on disk: ``<service>/<instance id>.json``, one file per instance, rewritten as a heartbeat.

Plain blocking calls; :mod:`sidecar.registry.directory` makes them in a thread. Files are replaced as a whole (written
beside and renamed), so nobody ever reads half of one.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from sidecar.registry.api import Instance
from sidecar.registry.directory_record import MAX_SIZE, SUFFIX, Record, decode, file_name
from sidecar.registry.errors import RegistryError

log = logging.getLogger("sidecar.registry")

#: Seconds between two rewrites of one's own file.
HEARTBEAT = 2.0
#: Seconds without a rewrite after which an instance counts as gone: three heartbeats.
STALE = 3 * HEARTBEAT
#: Seconds after which anybody removes a stale file.
LITTER = 600.0
#: Files looked at in one folder, and services in the registry; what is beyond is ignored.
MAX_FILES = 4096
MAX_SERVICES = 4096

_Version = tuple[int, int, int]


@dataclass(slots=True)
class _Seen:
    version: _Version
    record: Record | None
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
        self._path = path
        self._clock = clock
        self._wall = wall
        self._seen: dict[Path, dict[str, _Seen]] = {}
        self._litter: dict[Path, int] = {}

    def prepare(self) -> None:
        """Create the folder if it is missing and see whether it can be written. Raises :class:`RegistryError`."""
        probe = self._path / f".probe-{os.getpid()}"
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RegistryError(
                f"registry: the folder {self._path} cannot be used: {error.strerror or error}; it has to exist, or its "
                f"parent has to let user {os.getuid()} create it, and this user must be allowed to write to it"
            ) from error

    def write(self, service: str, id: str, content: bytes) -> None:
        """Create or replace an instance's file. Raises OSError."""
        folder = self._path / file_name(service)
        name = file_name(id) + SUFFIX
        temporary = folder / f".{name}.{os.getpid()}"
        try:
            _write(temporary, content)
        except FileNotFoundError:
            # The first one here, or the last one took the folder along. Others may write to it as to the registry.
            folder.mkdir(exist_ok=True)
            folder.chmod(stat.S_IMODE(self._path.stat().st_mode))
            _write(temporary, content)
        temporary.replace(folder / name)

    def remove(self, service: str, id: str) -> None:
        """Remove an instance's file, and the service's folder when it was the last. Raises OSError."""
        folder = self._path / file_name(service)
        (folder / (file_name(id) + SUFFIX)).unlink(missing_ok=True)
        try:
            folder.rmdir()
        except OSError:
            pass  # not empty

    def read(self, service: str) -> tuple[Instance, ...]:
        """The usable instances of a service: fresh and not critical, in a stable order. Raises OSError when the
        registry's folder cannot be read; files that make no sense are skipped, with a line in the log."""
        folder = self._path / file_name(service)
        before = self._seen.get(folder, {})
        after: dict[str, _Seen] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or not entry.name.endswith(SUFFIX):
                        continue
                    seen = self._look(entry, before.get(entry.name), service)
                    if seen is not None:
                        after[entry.name] = seen
                    if len(after) == MAX_FILES:
                        break
        except FileNotFoundError:
            self._path.stat()  # raises when the registry itself is gone
        if after:
            self._seen[folder] = after
        else:
            self._seen.pop(folder, None)
        now = self._clock()
        found = [
            seen.record.instance
            for seen in after.values()
            if seen.record is not None and now - seen.since < STALE and seen.record.instance.state != "critical"
        ]
        return tuple(sorted(found, key=lambda instance: (instance.id, instance.host, instance.port)))

    def keep(self, services: Collection[str]) -> None:
        """Forget what was seen of other services than these."""
        folders = {self._path / file_name(service) for service in services}
        for folder in [folder for folder in self._seen if folder not in folders]:
            del self._seen[folder]

    def tidy(self) -> None:
        """Remove what was left behind by those who could not: files older than :data:`LITTER` by their time stamp
        that did not change since the last call either, and folders that are empty then. Raises OSError when the
        registry's folder cannot be read."""
        litter: dict[Path, int] = {}
        with os.scandir(self._path) as folders:
            services = [Path(folder.path) for folder, _ in zip(folders, range(MAX_SERVICES), strict=False)]
        for service in services:
            try:
                litter |= self._tidy(service)
            except OSError:
                continue  # not a folder, or not ours to tidy
        self._litter = litter

    def _tidy(self, folder: Path) -> dict[Path, int]:
        litter: dict[Path, int] = {}
        removed = False
        with os.scandir(folder) as entries:
            for entry, _ in zip(entries, range(MAX_FILES), strict=False):
                info = entry.stat(follow_symlinks=False)
                if self._wall() - info.st_mtime < LITTER or not entry.is_file(follow_symlinks=False):
                    continue
                path = Path(entry.path)
                if self._litter.get(path) == info.st_mtime_ns:
                    path.unlink(missing_ok=True)
                    removed = True
                else:
                    litter[path] = info.st_mtime_ns
        if removed and not litter:
            folder.rmdir()
        return litter

    def _look(self, entry: os.DirEntry[str], before: _Seen | None, service: str) -> _Seen | None:
        try:
            info = entry.stat(follow_symlinks=False)
        except OSError:
            return None  # removed this moment
        version = (info.st_mtime_ns, info.st_ino, info.st_size)
        if before is not None and before.version == version:
            return before
        record = None
        try:
            record = _read(Path(entry.path), service)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if before is None or before.record is not None:  # one line, however often it is rewritten
                log.warning("registry: %s is skipped: %s", entry.path, error)
        since = self._clock()
        if before is None:
            since -= max(0.0, self._wall() - info.st_mtime)
        return _Seen(version, record, since)


def _write(path: Path, content: bytes) -> None:
    # Never through something that was put there before, such as a link to somewhere else.
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)


def _read(path: Path, service: str) -> Record:
    # Neither a link to somewhere else nor a pipe that never ends may hold up the reader.
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("not a regular file")
        data = os.read(file, MAX_SIZE + 1)
    finally:
        os.close(file)
    if len(data) > MAX_SIZE:
        raise ValueError(f"larger than {MAX_SIZE} bytes")
    record = decode(data)
    if record.service != service or file_name(record.instance.id) + SUFFIX != path.name:
        raise ValueError("its service and id are not those that its path stands for")
    return record
