"""Values that sidecars share in a registry folder: ``.shared/<name>.json``, replaced as a whole under a lock. Notes
beside one are in files of their own, ``.shared/<name>.<who>.json``.

Plain blocking calls; :mod:`sidecar.registry.directory` makes them in its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from sidecar.registry.directory_record import SUFFIX, is_temporary_name
from sidecar.registry.directory_root import Root, entries, read_file, replace
from sidecar.registry.shared_value import MAX_NOTE, MAX_NOTES, Found, OnValue, is_who, log, tell

#: The folder; no service's is called so.
FOLDER: Final = ".shared"
#: Tries to get the lock, and seconds between them: whoever has it only compares and renames.
_TRIES: Final = 20
_REST: Final = 0.05
_pause: Final = asyncio.sleep


class Locked(OSError):
    """Somebody else has locked the shared values at this moment."""


class SharedFiles:
    """All of a registry's. Each call raises OSError, or ValueError where what lies there is no value; none waits for
    the lock, see :func:`in_turn`."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def read(self, name: str) -> bytes | None:
        """The value; None if there is none."""
        try:
            with self._root.service(FOLDER) as folder:
                return _read(folder, name)
        except FileNotFoundError:
            with self._root.open():  # else the registry is away
                return None

    def replace(self, name: str, seen: bytes | None, data: bytes) -> bool:
        """Have ``data`` in place of ``seen`` (empty: of what is no value); False, and nothing has changed, if it is
        something else."""
        with self._root.service(FOLDER, create=True) as folder:
            _lock(folder)
            try:
                found = _read(folder, name)
            except ValueError:
                found = b""
            if found != seen:
                return False
            replace(folder, name + SUFFIX, data, lasting=True)
            return True

    def exchange(self, name: str, who: str, data: bytes | None) -> dict[str, Found]:
        """See :meth:`sidecar.registry.api.Registry.exchange`. What is no note is left out."""
        with self._root.service(FOLDER, create=True) as folder:
            _lock(folder)
            if data is not None:
                replace(folder, _note(name, who), data)
            found: dict[str, Found] = {}
            for entry in entries(folder):
                other = entry.name.removeprefix(f"{name}.").removesuffix(SUFFIX)
                if is_temporary_name(entry.name):
                    _sweep(folder, entry)
                elif is_who(other) and entry.name == _note(name, other) and len(found) < MAX_NOTES:
                    with contextlib.suppress(OSError, ValueError):  # something that others have put there
                        found[other] = _found(folder, entry)
            return found

    def erase(self, name: str, notes: Mapping[str, object]) -> None:
        """See :meth:`sidecar.registry.api.Registry.erase`."""
        with self._root.service(FOLDER, create=True) as folder:
            _lock(folder)
            for who, version in notes.items():
                with contextlib.suppress(OSError):  # it is gone, or no file
                    if os.stat(_note(name, who), dir_fd=folder, follow_symlinks=False).st_mtime_ns == version:
                        os.unlink(_note(name, who), dir_fd=folder)


class FolderValue:
    """One of them, followed by looking again and again: see :class:`sidecar.registry.shared_value.SharedValue`. The
    value itself is its version."""

    def __init__(
        self, name: str, files: SharedFiles, on_value: OnValue, in_thread: Callable[..., Awaitable[Any]],
        closed: Callable[[FolderValue], None],
    ) -> None:  # fmt: skip
        self.name = name
        self.answered = asyncio.Event()
        self._files = files
        self._on_value: OnValue | None = on_value
        self._in_thread = in_thread
        self._closed = closed
        self._told: Found | None = None

    async def put(self, data: bytes, seen: object) -> Found | None:
        if not await in_turn(self._in_thread, self._files.replace, self.name, seen, data):
            return None
        self._told = Found(data, data)
        return self._told

    def found(self, data: bytes | None) -> None:
        """This is the value at present."""
        found = Found(data, data)
        self.answered.set()
        if found != self._told and self._on_value is not None:
            self._told = found
            tell(self._on_value, found)

    def close(self) -> None:
        if self._on_value is not None:
            self._on_value = None
            self.answered.set()
            self._closed(self)


async def in_turn(call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Make the call, which raises :class:`Locked` while it is not one's turn: then again, a little later, so that
    nothing is held up meanwhile. Raises TimeoutError when it never is."""
    for _ in range(_TRIES):
        with contextlib.suppress(Locked):
            return await call(*args)
        await _pause(_REST)
    raise TimeoutError("somebody else has locked the shared values")


def _note(name: str, who: str) -> str:
    return f"{name}.{who}{SUFFIX}"


def _found(folder: int, entry: os.DirEntry[str]) -> Found:
    """A note; one that is too large says nothing, and can be removed like others."""
    there = entry.stat(follow_symlinks=False)
    small = there.st_size <= MAX_NOTE or not entry.is_file(follow_symlinks=False)
    return Found(read_file(folder, entry.name) if small else b"", there.st_mtime_ns)


def _sweep(folder: int, entry: os.DirEntry[str]) -> None:
    """Remove what somebody has begun to write and never finished: whoever writes has the lock."""
    with contextlib.suppress(OSError):
        if entry.is_file(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=folder)
            log.info("registry: removed %s/%s, which was never finished", FOLDER, ascii(entry.name)[1:-1])


def _read(folder: int, name: str) -> bytes | None:
    try:
        return read_file(folder, name + SUFFIX)
    except FileNotFoundError:
        return None


def _lock(folder: int) -> None:
    """Lock the folder for as long as it is open. Raises :class:`Locked`."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked("somebody else has locked the shared values") from None
