"""Fields of a head as a cache reads them: their values, lists, directives and seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

#: One member of a list: a name at its beginning, and what follows. Quoted strings may hold commas.
_MEMBER: Final = re.compile(rb'([^\s,="]++)((?:[^,"]|"(?:[^"\\]|\\.)*+")*+)')
#: What may be taken at its word: up to a quote that is not closed, or does not begin an argument. Behind such a one
#: each quote would be looked at up to the end.
_SOUND: Final = re.compile(rb'(?:[^"]|(?<=[^\s,="]=)"(?:[^"\\]|\\.)*+")*+')
#: In place of a quote that means nothing: what stands behind it is seen, and what it is in cannot be read.
_NO_QUOTE: Final = b" ="
_ARGUMENT: Final = re.compile(rb'="((?:[^"\\]|\\.)*+)"\s*|=([^\s,"]++)\s*')
#: Seconds that are as good as for ever; larger numbers count as this one (RFC 9111 §1.2.2).
FOREVER: Final = 2**31
#: What stands for an argument that cannot be read. It is no number.
BROKEN: Final = b"?"


def lines(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The fields of a head, as (name as written, value), in their order."""
    for line in raw[:-4].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        yield name, value.strip(b" \t")


def values(raw: bytes, name: bytes) -> list[bytes]:
    """All values of one field of a head, by its lower-case name."""
    begin = b"\r\n" + name + b":"
    lower = raw.lower()
    found = []
    at = lower.find(begin)
    while at >= 0:
        start = at + len(begin)
        at = raw.index(b"\r\n", start)
        found.append(raw[start:at].strip(b" \t"))
        at = lower.find(begin, at)
    return found


def directives(value: bytes) -> dict[bytes, bytes]:
    """The directives of a ``Cache-Control`` (RFC 9111 §5.2), lower case, with their arguments: of what is said twice
    the first (§4.2.1), empty where there is none, and :data:`BROKEN` for one that cannot be read."""
    found: dict[bytes, bytes] = {}
    value = value.lower()
    if b'"' in value and (sound := _SOUND.match(value)) is not None:
        at = sound.end()
        value = value[:at] + value[at:].replace(b'"', _NO_QUOTE)
    for name, rest in _MEMBER.findall(value):
        argument = rest.strip()
        if rest and argument:
            read = _ARGUMENT.fullmatch(rest)
            argument = BROKEN if read is None else read[1] if read[1] is not None else read[2]
        if name not in found:
            found[name] = argument
    return found


def seconds(argument: bytes | None) -> float | None:
    """Delta-seconds (RFC 9111 §1.2.2); 0 for what is no such number, ``None`` where nothing was said."""
    if argument is None:
        return None
    return float(min(int(argument[:12]), FOREVER)) if argument.isdigit() else 0.0


def names(value: bytes) -> tuple[bytes, ...]:
    """The field names of a list such as ``Vary``, lower case, each once, in a fixed order."""
    return tuple(sorted({it.strip(b" \t") for it in value.lower().split(b",")} - {b""}))


def variant(raw: bytes, of: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The values of those fields of a request, as far as they make a difference (RFC 9111 §4.1): lines of one name as
    one list, without the spaces around its commas."""
    return tuple([_normal(values(raw, name)) for name in of]) if of else ()


def _normal(found: list[bytes]) -> bytes:
    if not found:
        return b"-"  # it is not there, which is something else than empty
    value = b",".join(found)
    if b'"' not in value:
        value = b",".join([it.strip(b" \t") for it in value.split(b",")])
    return b"+" + value
