"""The folder that is a registry: whether it is one, and its sub-folders without following anybody's links.

The path of a configuration may lead through symbolic links, for the operator wrote it. Below it everybody who shares
the folder may have put things, so each step is taken from an open folder and refuses links.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sidecar.registry.directory_record import MAX_SIZE, is_file_name, is_name, is_record, is_temporary, temporary_name
from sidecar.registry.errors import RegistryError

#: A file of this name says that a folder is a registry.
MARKER: Final = ".sidecar-registry"
_MARKER_TEXT: Final = b"A registry of sidecars. What they write here, they remove when it is stale.\n"
#: Of a folder's entries, looked at; what is beyond is ignored.
MAX_ENTRIES: Final = 16384
#: Found at the top of a fresh file system.
_HARMLESS: Final = frozenset({MARKER, "lost+found"})
#: Services that are looked at to see whether a folder without the marker is a registry, and files of each.
_SAMPLE: Final = 1024

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Root:
    """The registry at ``path``. Blocking calls; each raises OSError when the folder is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Create the folder if it is missing; see that it is a registry or may become one, and can be written.
        Raises :class:`RegistryError`, and has changed nothing in a folder that is something else."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self.open() as root:
                if not _marked(root):
                    self._adopt(root)
                _probe(root)
        except OSError as error:
            raise RegistryError(
                f"registry: the folder {self.path} cannot be used: {error.strerror or error}; it has to exist, or its "
                f"parent has to let user {os.getuid()} create it, and this user must be allowed to write to it"
            ) from error

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        """The registry's folder, as a file descriptor."""
        with _opened(os.open(self.path, _FOLDER)) as root:
            yield root

    @contextlib.contextmanager
    def service(self, name: str, *, create: bool = False) -> Iterator[int]:
        """The service folder of that name. Raises FileNotFoundError when the registry has none and none is to be
        created, NotADirectoryError when something else is there (a link, too)."""
        with self.open() as root:
            if create and _mkdir(root, name):
                with _opened(open_folder(root, name)) as folder, contextlib.suppress(PermissionError):
                    # Others may write to it as to the registry. Not permitted: it is somebody else's by now.
                    os.fchmod(folder, stat.S_IMODE(os.fstat(root).st_mode))
            with _opened(open_folder(root, name)) as folder:
                yield folder

    def _adopt(self, root: int) -> None:
        """Put the marker into a folder that is empty, or the registry of a version that did not know the marker."""
        foreign = _foreign(root)
        if foreign:
            raise RegistryError(
                f"registry: {self.path} is not a registry of sidecars: there is {foreign}. A registry is a folder of "
                f"its own, new or empty; if this really is one, create the empty file {self.path / MARKER}"
            )
        with contextlib.suppress(FileExistsError):  # another sidecar, this moment
            write_new(root, MARKER, _MARKER_TEXT)


def open_folder(parent: int, name: str) -> int:
    """Open a folder in another. Raises NotADirectoryError for anything else, a link to a folder included."""
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)


def entries(folder: int) -> Iterator[os.DirEntry[str]]:
    """Those of an open folder, at most :data:`MAX_ENTRIES`. Use them before the folder is closed."""
    with os.scandir(folder) as found:
        yield from itertools.islice(found, MAX_ENTRIES)


def write_new(folder: int, name: str, content: bytes, *, lasting: bool = False) -> None:
    """Create a file; ``lasting``: it is on the disk when this returns. Raises FileExistsError when anything has that
    name, a link included."""
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
        if lasting:
            stream.flush()
            os.fsync(file)


def replace(folder: int, name: str, content: bytes, *, lasting: bool = False) -> None:
    """Have a file with this content in place of whatever has that name; ``lasting``: it is the old or the new one even
    after a crash of the machine. Raises OSError, and has left nothing then."""
    temporary = temporary_name(name)
    try:
        write_new(folder, temporary, content, lasting=lasting)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):  # it may never have come to be
            os.unlink(temporary, dir_fd=folder)
        raise


def read_file(folder: int, name: str) -> bytes:
    """The content of a regular file of at most :data:`~sidecar.registry.directory_record.MAX_SIZE` bytes.

    Raises OSError, or ValueError for anything else: a link, a pipe or a device is neither followed nor opened."""
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise ValueError("not a regular file")
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(file, "rb") as stream:
        if not stat.S_ISREG(os.fstat(file).st_mode):  # replaced this moment
            raise ValueError("not a regular file")
        data = stream.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise ValueError(f"larger than {MAX_SIZE} bytes")
    return data


def is_own(folder: int, service: str, name: str) -> bool:
    """Whether a file in a service's folder is what a sidecar wrote. Raises OSError when it cannot be read."""
    try:
        data = read_file(folder, name)
    except ValueError:
        return False
    return is_temporary(name, data) or is_record(service, name, data)


@contextlib.contextmanager
def _opened(file: int) -> Iterator[int]:
    try:
        yield file
    finally:
        os.close(file)


def _mkdir(root: int, name: str) -> bool:
    try:
        os.mkdir(name, dir_fd=root)
    except FileExistsError:
        return False
    return True


def _marked(root: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(MARKER, dir_fd=root, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _probe(root: int) -> None:
    """Raises OSError when no file can be created."""
    name = f".probe-{os.getpid()}-{os.urandom(4).hex()}"
    write_new(root, name, b"")
    os.unlink(name, dir_fd=root)


def _foreign(root: int) -> str:
    """What shows that this is no registry; "" when nothing does.

    A registry holds folders with the names that services get, and nothing else; and in each is nothing, or something
    that is called like an instance's file. What those files say decides nothing here: somebody who shares the folder
    could otherwise keep everybody from starting."""
    for entry in itertools.islice(entries(root), _SAMPLE):
        if entry.name in _HARMLESS or entry.name.startswith(".probe-"):
            continue
        if not (is_name(entry.name) and entry.is_dir(follow_symlinks=False)):
            return f"{entry.name!a}, which is no service's folder"
        try:
            with _opened(open_folder(root, entry.name)) as folder:
                names = [file.name for file in itertools.islice(entries(folder), _SAMPLE)]
        except FileNotFoundError:  # its last instance left this moment
            continue
        if names and not any(is_file_name(name) for name in names):
            return f"{f'{entry.name}/{names[0]}'!a}, which no sidecar wrote"
    return ""
