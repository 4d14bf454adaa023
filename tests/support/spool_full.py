"""Fills a small file system of its own, in a mount namespace of its own: ``python -m support.spool_full FOLDER``.

With a size behind that: by messages of so many bytes, while somebody else takes whatever becomes free."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

from sidecar.amqp.spool import writer
from sidecar.storage.errors import SpoolError
from support.spools import Driver, fill_and_empty, message, number_of, run


def alone(folder: Path) -> int:
    """It is the spool that fills the disk. Fails when something is lost."""
    stored: set[int] = set()

    def make_room() -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)

    async def fill(driver: Driver) -> None:
        stored.update(await fill_and_empty(driver, make_room))

    async def check(driver: Driver) -> None:
        assert set(await driver.numbers()) == stored

    run(folder, fill)
    run(folder, check)
    return len(stored)


class Other:
    """Somebody who takes whatever becomes free, from when so many messages are there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._end = Event()
        self._thread = Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        with self._file.open("ab", buffering=0) as file:
            while not self._end.is_set():
                for size in (65536, 4096):
                    try:
                        file.write(bytes(size))
                        break
                    except OSError:
                        time.sleep(0.0001)

    def leave(self) -> None:
        self._end.set()
        self._thread.join()
        self._file.unlink()


def crowded(folder: Path, size: int) -> int:
    """Fails when what is in the spool cannot leave, in its order."""
    count = 0

    async def test(driver: Driver) -> None:
        nonlocal count
        spool = driver.spool
        other: Other | None = None
        failure = ""
        while not failure:
            try:
                await driver.put(*[message(count + offset, size=size) for offset in range(4)])
                count += 4
            except SpoolError as error:
                failure = error.text
            if other is None and spool.bytes > 3 << 20:
                other = Other(folder / "other")
        assert "full" in failure
        assert other is not None
        gone = 0
        try:
            while spool.messages:
                found = await driver.fetch(limit=100, size=4 << 20)
                assert [number_of(it) for it in found] == list(range(gone, gone + len(found)))
                gone += len(found)
                spool.dead(found[0], "expired", 0)
                spool.remove(found[1:])
            assert await driver.fetch() == []
        finally:
            other.leave()
        assert gone == count
        await driver.until(lambda: not spool.problem)
        await driver.put(message(count))

    run(folder, test)
    return count


def main(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={24 if size else 8}m", "none", folder], check=True)
    writer.RETRY = 0.02  # type: ignore[misc]
    print(crowded(folder, size) if size else alone(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
