"""Where ``sidecar spool`` gets what it shows: a running sidecar, or the files of one that is stopped."""

from __future__ import annotations

import http.client
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote, unquote, urlencode

from sidecar.cli.admin_client import PIECE, Admin, CommandError, RefusedError, said

if TYPE_CHECKING:
    from sidecar.amqp.spool.database import Database
    from sidecar.amqp.spool.dead_letters import DeadLetter

#: Letters of the files that are read at a time.
STEP: Final = 16


@dataclass(frozen=True, slots=True)
class Which:
    """Dead letters of a reason (empty: any) and an exchange (None: any; empty: the default one)."""

    reason: str = ""
    exchange: str | None = None

    def query(self, **more: object) -> str:
        """As the admin API wants it."""
        asked = {name: str(value) for name, value in more.items() if value is not None}
        if self.reason:
            asked["reason"] = self.reason
        if self.exchange is not None:
            asked["exchange"] = self.exchange
        return "?" + urlencode(asked) if asked else ""


class Source(Protocol):
    """One upstream's spool. Everything may raise :class:`CommandError`; the shapes are those of the admin API."""

    #: The upstream's.
    name: str

    def state(self) -> Mapping[str, Any]:
        """How it is; of a stopped sidecar only what is in its files."""
        ...

    def page(self, which: Which, after: int, limit: int) -> tuple[list[Mapping[str, Any]], int | None]:
        """Dead letters in short, and behind which number the next ones are (None: there are none)."""
        ...

    def show(self, number: int) -> Mapping[str, Any]:
        """All of one, with the beginning of its body."""
        ...

    def export(self, which: Which, after: int, limit: int | None) -> Iterator[bytes]:
        """All of many, as JSON lines in pieces."""
        ...

    def replay(self, number: int) -> None: ...

    def drop(self, number: int) -> None: ...

    def replay_all(self, which: Which) -> int:
        """How many."""
        ...

    def drop_all(self, which: Which) -> int:
        """How many."""
        ...


def spools(admin: Admin) -> list[Remote]:
    """Those of all upstreams of a running sidecar that have one."""
    ports = admin.ask("GET", "/amqp").get("upstreams", [])
    return [Remote(admin, str(port["name"])) for port in ports if port.get("spool") is not None]


class Remote:
    """The spool of a running sidecar's upstream. Implements :class:`Source`."""

    def __init__(self, admin: Admin, name: str) -> None:
        self.name = name
        self._admin = admin
        self._path = f"/amqp/{quote(name, safe='')}"
        self._letters = f"{self._path}/dead-letters"

    def state(self) -> Mapping[str, Any]:
        return self._admin.ask("GET", f"{self._path}/spool")

    def page(self, which: Which, after: int, limit: int) -> tuple[list[Mapping[str, Any]], int | None]:
        found = self._admin.ask("GET", self._letters + which.query(after=after, limit=limit))
        return found["dead_letters"], found["next"]

    def show(self, number: int) -> Mapping[str, Any]:
        return self._admin.ask("GET", f"{self._letters}/{number}")

    def export(self, which: Which, after: int, limit: int | None) -> Iterator[bytes]:
        # The API has an upper bound for a limit; who wants more than that wants several exports, or all.
        with self._admin.answer("GET", f"{self._letters}/export" + which.query(after=after, limit=limit)) as answer:
            try:
                while piece := answer.read(PIECE):
                    yield piece
            except (OSError, http.client.HTTPException) as error:
                raise CommandError(f"the export was cut off ({said(error)}); the sidecar's log may say why") from error

    def replay(self, number: int) -> None:
        self._admin.ask("POST", f"{self._letters}/{number}/replay")

    def drop(self, number: int) -> None:
        self._admin.ask("POST", f"{self._letters}/{number}/drop")

    def replay_all(self, which: Which) -> int:
        return self._change("replay", which)

    def drop_all(self, which: Which) -> int:
        return self._change("drop", which)

    def _change(self, what: str, which: Which) -> int:
        """The sidecar does as many as it can in a few seconds, and is then asked again."""
        before: object = None
        after: object = None
        total = 0
        while True:
            found = self._admin.ask("POST", f"{self._letters}/{what}" + which.query(after=after, before=before))
            total += int(found["messages"])
            after, before = found["next"], found["before"]
            if after is None:
                return total


class Files:
    """The spool of a sidecar that is stopped. Opening it does what that sidecar's start would do: a damaged file is
    salvaged. Implements :class:`Source`."""

    def __init__(self, folder: Path, name: str) -> None:
        from sidecar.amqp.spool.database import Database

        self.name = name
        self._folder = folder
        self._database: Database = Database(folder, name)

    def __enter__(self) -> Files:
        from sidecar.storage.errors import SpoolError

        # What is no spool at all would be taken for a damaged one, and set aside.
        if not _is_spool(self._database.file.files.base):
            raise CommandError(
                f"{self._database.file.files.base} is not a spool, or too damaged to look like one; "
                "a sidecar that starts salvages what it can"
            )
        try:
            self._database.open()
        except SpoolError as error:
            self._leave()
            hint = "; a running sidecar is asked with --admin URL" if "in use" in error.text else ""
            raise CommandError(error.text + hint) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._leave()

    def _leave(self) -> None:
        """To root every file is open, and what root makes may be closed to the sidecar's own user."""
        if os.geteuid() == 0:
            owner = self._folder.stat()
            for file in self._folder.glob(f"{self._database.file.files.base.name}*"):
                os.chown(file, owner.st_uid, owner.st_gid)

    def state(self) -> Mapping[str, Any]:
        from sidecar.amqp.spool.store import StreamCount
        from sidecar.amqp.views import spool

        keys = {}
        for name, (count, size) in self._database.counts.items():
            key = keys[name] = StreamCount()
            key.count, key.bytes = count, size
        dead = self._database.dead
        return {
            "messages": sum(key.count for key in keys.values()),
            "bytes": sum(key.bytes for key in keys.values()),
            "corrupt": self._database.corrupt,
            "keys": len(keys),
            "waiting": spool.keys(keys),
            "dead_letters": {"messages": dead.count, "bytes": dead.bytes, "reasons": spool.reasons(dead.reasons)},
        }

    def page(self, which: Which, after: int, limit: int) -> tuple[list[Mapping[str, Any]], int | None]:
        from sidecar.amqp.views import dead_letter

        now = time.time()
        found = [dead_letter.summary(letter, now) for letter in self._letters(which, after, limit)]
        return list(found), found[-1]["id"] if len(found) == limit else None

    def show(self, number: int) -> Mapping[str, Any]:
        from sidecar.amqp.views import dead_letter

        with _Telling():
            letter = self._database.get_dead(number)
        if letter is None:
            raise _no_letter(number)
        return dead_letter.whole(letter, time.time())

    def export(self, which: Which, after: int, limit: int | None) -> Iterator[bytes]:
        import orjson

        from sidecar.amqp.views import dead_letter

        now = time.time()
        for letter in self._letters(which, after, limit if limit is not None else sys.maxsize):
            yield orjson.dumps(dead_letter.whole(letter, now, None), option=orjson.OPT_APPEND_NEWLINE, default=str)

    def replay(self, number: int) -> None:
        raise CommandError("what is to be delivered once more needs a sidecar that runs (--admin URL)")

    def replay_all(self, which: Which) -> int:
        raise CommandError("what is to be delivered once more needs a sidecar that runs (--admin URL)")

    def drop(self, number: int) -> None:
        with _Telling():
            if not self._database.drop_dead([number]):
                raise _no_letter(number)

    def drop_all(self, which: Which) -> int:
        total = 0
        while found := [letter.id for letter in self._letters(which, 0, STEP)]:
            with _Telling():
                total += self._database.drop_dead(found)
        return total

    def _letters(self, which: Which, after: int, limit: int) -> Iterator[DeadLetter]:
        while limit > 0:
            with _Telling():
                found = self._database.list_dead(min(STEP, limit), after, which.reason, which.exchange)
            if not found:
                return
            yield from found
            after = found[-1].id
            limit -= len(found)


def names(path: Path) -> tuple[Path, list[str]]:
    """The folder, and the upstreams whose spools are in it. ``path`` is the configured one, or a database in it."""
    if path.is_file() and path.suffix == ".db":
        return path.parent, [unquote(path.name.removesuffix(".db"))]
    try:
        found = [unquote(file.name.removesuffix(".db")) for file in sorted(path.iterdir()) if file.suffix == ".db"]
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}; it should be amqp.spool.path of an upstream") from error
    if not found:
        raise CommandError(f"{path}: there is no spool in it; it should be amqp.spool.path of an upstream")
    return path, found


def _is_spool(file: Path) -> bool:
    """Whether its first bytes say so (SQLite's file format, section 1.3)."""
    from sidecar.amqp.spool.database import APPLICATION

    try:
        with file.open("rb") as opened:
            start = opened.read(72)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from error
    return start.startswith(b"SQLite format 3\0") and start[68:] == APPLICATION.to_bytes(4, "big")


class _Telling:
    """What goes wrong in a database, as a :class:`CommandError`."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        import sqlite3

        if isinstance(error, (sqlite3.Error, OSError)):
            from sidecar.storage.faults import describe

            raise CommandError(describe(error)) from error


def _no_letter(number: int) -> RefusedError:
    return RefusedError(
        f"there is no dead letter {number}; it may have been replayed, dropped, or kept for long enough"
    )


def chosen(found: Sequence[str], wanted: str) -> str:
    """The upstream that is meant."""
    known = ", ".join(found) or "none"
    if wanted:
        if wanted not in found:
            raise CommandError(f"no upstream with a spool is called {wanted!r}; there are: {known}")
        return wanted
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError("no upstream has a spool; amqp.spool in the configuration gives it one")
    raise CommandError(f"several upstreams have a spool; say which with --upstream: {known}")
