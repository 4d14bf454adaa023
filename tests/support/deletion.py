"""A folder that somebody is at work in, deleted."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path


def delete(folder: Path) -> None:
    """With all that is in it, though a file may be put into it while its files are deleted."""
    for _ in range(100):
        with suppress(OSError):
            shutil.rmtree(folder)
            return
    raise AssertionError(f"{folder} cannot be deleted")
