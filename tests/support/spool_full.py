"""Fills a small file system of its own, in a mount namespace of its own: ``python -m support.spool_full FOLDER``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sidecar.amqp.spool import writer
from support.spools import Driver, fill_and_empty, run


def main(folder: Path) -> None:
    """Fails when something is lost."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], check=True)
    writer.RETRY = 0.02  # type: ignore[misc]
    stored: set[int] = set()

    def make_room() -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)

    async def fill(driver: Driver) -> None:
        stored.update(await fill_and_empty(driver, make_room))

    async def check(driver: Driver) -> None:
        assert set(await driver.numbers()) == stored

    run(folder, fill)
    run(folder, check)
    print(len(stored))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
