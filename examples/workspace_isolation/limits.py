"""What a workspace may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from examples.common.serving import Refused

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each process: memory (address space), CPU seconds, open files. Of the workspace: bytes on disk, processes at
    once. Of a command: seconds until it is ended."""

    memory: int = 512 * MIB
    cpu_seconds: int = 10
    files: int = 256
    disk: int = 64 * MIB
    processes: int = 32
    seconds: int = 30

    def document(self) -> dict[str, int]:
        return asdict(self)


#: The most that may be asked for.
MOST = Limits(memory=4096 * MIB, cpu_seconds=300, files=4096, disk=1024 * MIB, processes=256, seconds=300)


def limits_of(asked: object) -> Limits:
    """Those that were asked for; what is left out is at its default. Raises Refused."""
    if asked is None:
        return Limits()
    known = [it.name for it in fields(Limits)]
    if not isinstance(asked, Mapping) or not set(asked) <= set(known):
        raise Refused(400, "bad_request", f'"limits" takes {", ".join(known)}')
    for name, value in asked.items():
        most = getattr(MOST, name)
        if type(value) is not int or not 0 < value <= most:
            raise Refused(400, "bad_request", f'"limits.{name}" is a whole number from 1 to {most}')
    return Limits(**asked)
