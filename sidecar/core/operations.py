"""What can be asked of a sidecar over its admin API: operations, which any room may contribute.

An operation says what it does, how it is documented, and who answers. None of this knows the server that it is asked
through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``parts`` are the parameters of its path, ``query`` those behind the question mark, in their order;
    ``accept`` is the field of that name, ``accept_encoding`` Accept-Encoding, ``last_event_id`` Last-Event-ID. ``read``
    gives the body, which is small and has to come in soon."""

    parts: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    client: str | None
    accept: str
    read: Callable[[], Awaitable[bytes]]
    last_event_id: str = ""
    accept_encoding: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Plain data, sent as JSON."""

    data: Any
    status: int = 200


@dataclass(frozen=True, slots=True)
class Page:
    """Something else than JSON; ``media`` is its Content-Type."""

    body: bytes
    media: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """Something long, sent piece by piece. An empty piece sends nothing, and ends it if the client has left. ``pieces``
    raises :class:`Broken` when it cannot go on; ``close`` is called in any case, at the end."""

    pieces: AsyncIterator[bytes | memoryview]
    media: str
    close: Callable[[], None]
    #: How long it waits for someone to read on, seconds.
    patience: float = inf
    #: It goes on for as long as the sidecar does, so the end of that is one of its own.
    live: bool = False


class NotKnown(Exception):
    """There is nothing of that name; the text says what there is."""


class Broken(Exception):
    """A stream ends before its time; the text says why."""


Handler = Callable[[Call], Awaitable[Answer | Page | Stream]]


@dataclass(frozen=True, slots=True)
class Query:
    """What may stand behind a path's question mark; ``kind`` is its type in JSON Schema."""

    name: str
    summary: str
    kind: str = "string"


@dataclass(frozen=True, slots=True)
class Operation:
    """``path`` in OpenAPI's form; ``answers`` maps statuses to what they mean. ``schema`` names the shape of a good
    answer's JSON, ``body`` that of what to send (empty: none); ``pages`` are other media types that it can answer in.
    ``private``: reading it needs the token, too. ``bare``: the body may be left out. ``largest``: the
    bytes that it may have, where that is more than usual."""

    method: str
    path: str
    summary: str
    handler: Handler
    answers: Mapping[int, str]
    schema: str = ""
    body: str = ""
    pages: tuple[str, ...] = ()
    query: tuple[Query, ...] = ()
    private: bool = False
    bare: bool = False
    largest: int = 0


@dataclass(frozen=True, slots=True)
class Contribution:
    """Operations of one room, and the schemas that they name: JSON Schema, by name."""

    operations: Sequence[Operation]
    schemas: Mapping[str, Any]


#: Answers of every operation that needs the token.
REFUSED: Mapping[int, str] = {
    401: "the admin token is missing or wrong",
    403: "asked by a page of another site",
}
