"""Heads as filters and routes see them, whatever protocol they came in. How one is written is its protocol's affair."""

from __future__ import annotations


class RequestHead:
    """A request's head. ``fields`` has the fields that a proxy acts upon, by lower-case name, as they came;
    :meth:`get` finds any. ``length`` is the body's size; below 0: it is not known before its end. ``upgrade`` is the
    protocol asked for, or empty. ``expects_continue``: the client sends its body when it is told to go on.
    ``granted``: the seconds that its caller leaves for it; inf: it does not say. ``asks_load``: a sidecar wants to know
    the load with the answer. ``request_id``, the id that it came with, if that can be kept, and ``trace_flags``, those
    of a good ``traceparent``, were seen in passing; empty, or below 0: whoever wants to know has to look.

    What is not changed goes on as it came, byte for byte."""

    __slots__ = (
        "asks_load", "expects_continue", "fields", "granted", "length", "method", "request_id", "target", "trace_flags",
        "upgrade",
    )  # fmt: skip

    asks_load: bool
    expects_continue: bool
    fields: dict[bytes, bytes]
    granted: float
    length: int
    method: str
    request_id: str
    target: bytes
    trace_flags: int
    upgrade: bytes

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    def get(self, name: bytes) -> bytes | None:
        """The first value of a field, by its lower-case name, or ``None``."""
        raise NotImplementedError

    def add(self, name: bytes, value: bytes) -> None:
        """Have a field more behind all others. Neither may hold what ends a line."""
        raise NotImplementedError

    def add_line(self, line: bytes) -> None:
        """The same, as a line with its end."""
        raise NotImplementedError

    def put_first(self, name: bytes, value: bytes) -> None:
        """Have a field more in front of all others."""
        raise NotImplementedError

    def remove(self, name: bytes) -> None:
        """Take every field of that lower-case name out."""
        raise NotImplementedError

    def as_http1(self) -> bytes:
        """The whole head as HTTP/1.1 writes it, the empty line at its end included."""
        raise NotImplementedError

    def ending_in(self, end: bytes) -> bytes:
        """The same with these lines in place of the empty one at its end. They are not added."""
        raise NotImplementedError


class ResponseHead:
    """An answer's head; attributes as in :class:`RequestHead`. Its ``fields`` do not have those about its length and
    its connection."""

    __slots__ = ("fields", "length", "status")

    fields: dict[bytes, bytes]
    length: int
    status: int

    def add(self, name: bytes, value: bytes) -> None:
        """Have a field more behind all others. Neither may hold what ends a line."""
        raise NotImplementedError

    def take(self, name: bytes, begin: bytes) -> bytes | None:
        """Take out each line of that lower-case name whose value begins so; return the last one's value."""
        raise NotImplementedError

    def as_http1(self) -> bytes:
        """The whole head as HTTP/1.1 writes it, the empty line at its end included."""
        raise NotImplementedError

    @property
    def peer_error(self) -> bytes:
        """The code of a sidecar that answers in place of its app; empty: it is the app's own answer."""
        return self.fields.get(b"x-sidecar-error", b"").strip(b" \t")
