"""Waits for files of another process: in a rolling update, the one before keeps them until it has drained."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from sidecar.storage.errors import InUseError, SpoolError
from sidecar.storage.files import Files

#: Seconds between two looks whether they are free: a thread that waits for a lock could not be ended.
PAUSE: Final = 0.25


async def claim(files: Iterable[Files], told: Callable[[str], None]) -> None:
    """Take all of these, one after the other. ``told`` is called with what is waited for whenever that has changed, and
    with an empty text in the end, if there was anything. What cannot be used for another reason is left to whoever
    opens it.

    All processes take them in the same order, so none has what another one needs first."""
    waiting = ""
    for it in sorted(files, key=_place):
        while True:
            try:
                it.prepare()
            except InUseError as error:
                if error.text != waiting:
                    waiting = error.text
                    told(waiting)
            except SpoolError:
                break
            else:
                break
            await asyncio.sleep(PAUSE)
    if waiting:
        told("")


def _place(files: Files) -> Path:
    return files.base.resolve()
