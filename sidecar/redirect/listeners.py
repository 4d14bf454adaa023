"""Whose process listens on a port, as the kernel says of the whole network namespace, whatever container it is in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

#: proc(5): sockets of a network namespace, with the user that made each.
FILES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
#: The state of a socket that listens, in those files.
_LISTENS: Final = "0A"


def users_of(port: int, files: Iterable[str] = ()) -> set[int]:
    """The users whose sockets listen on that port."""
    return {uid for file in files or FILES for listening, uid in _listening(file) if listening == port}


def _listening(file: str) -> Iterator[tuple[int, int]]:
    try:
        lines = Path(file).read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) > 7 and fields[3] == _LISTENS:
            yield int(fields[1].rpartition(":")[2], 16), int(fields[7])
