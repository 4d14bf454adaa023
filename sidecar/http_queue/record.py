"""What is stored: requests that wait, and outcomes of those that wait no more."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Sequence
from typing import Final

#: Beside its head and body, what a row takes on the disk, bytes, about.
OVERHEAD: Final = 512

#: What becomes of a request in the end.
DONE: Final = "done"
FAILED: Final = "failed"


class Request:
    """A request that waits. ``number`` is its place in the order (0 until stored), ``id`` what its client asks for it
    by, ``digest`` the body's if the client named a key of its own, else empty. Times are Unix time; ``head`` is whole.
    ``tries`` are those of this process, ``attempts`` those that may have reached the app."""

    __slots__ = (
        "at", "attempts", "body", "client", "digest", "expires", "head", "id", "lane", "number", "request_id", "tries",
    )  # fmt: skip

    def __init__(
        self, *, id: str, lane: str, at: float, expires: float, client: str, request_id: str, digest: bytes,
        head: bytes, body: bytes, number: int = 0, attempts: int = 0,
    ) -> None:  # fmt: skip
        self.id = id
        self.lane = lane
        self.at = at
        self.expires = expires
        self.client = client
        self.request_id = request_id
        self.digest = digest
        self.head = head
        self.body = body
        self.number = number
        self.attempts = attempts
        self.tries = 0

    @property
    def size(self) -> int:
        """What it counts as."""
        return len(self.head) + len(self.body) + OVERHEAD

    def check(self) -> int:
        """Changes with every byte of it that matters."""
        return zlib.crc32(self.body, zlib.crc32(self.head, zlib.crc32(self.id.encode())))


class Outcome:
    """What became of a request. ``reason``: why it failed, a code; empty: it did not. ``status``, ``head`` and ``body``
    are the upstream's last answer's (0 and empty: there was none), the head without fields about framing. ``whole``:
    all of the body was kept."""

    __slots__ = ("body", "finished", "forget", "head", "reason", "status", "whole")

    def __init__(
        self, *, reason: str, finished: float, forget: float, status: int = 0, head: bytes = b"", body: bytes = b"",
        whole: bool = True,
    ) -> None:  # fmt: skip
        self.reason = reason
        self.finished = finished
        self.forget = forget
        self.status = status
        self.head = head
        self.body = body
        self.whole = whole

    @property
    def size(self) -> int:
        """What it counts as."""
        return len(self.head) + len(self.body) + OVERHEAD


class Found:
    """What is known of a request; ``outcome`` None: it waits."""

    __slots__ = ("at", "attempts", "digest", "expires", "id", "number", "outcome", "request_id")

    def __init__(
        self, id: str, number: int, at: float, expires: float, attempts: int, request_id: str, digest: bytes,
        outcome: Outcome | None,
    ) -> None:  # fmt: skip
        self.id = id
        self.number = number
        self.at = at
        self.expires = expires
        self.attempts = attempts
        self.request_id = request_id
        self.digest = digest
        self.outcome = outcome


def file_name(listener: str, direction: str) -> str:
    """What the file of a listener is called. A service may have the name of an upstream; neither has a tilde in it."""
    return f"{listener}~queue" if direction == "outbound" else f"~{listener}~queue"


def new_id() -> str:
    """One that nobody can guess: whoever knows it may ask for the outcome."""
    return secrets.token_hex(16)


def short(id: str) -> str:
    """Enough of it to find a request in logs, and too little to ask for its outcome."""
    return id[:8] + "..." if len(id) > 8 else id


def id_for_key(secret: bytes, scope: Sequence[bytes]) -> str:
    """The id of a request whose client named a key; always the same for the same scope, and a secret of the queue's
    keeps others from working it out, as well as what was in the scope."""
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for part in scope:
        digest.update(b"%d:%b" % (len(part), part))
    return digest.hexdigest()[:32]


def digest_of(secret: bytes, body: bytes) -> bytes:
    """What tells two bodies apart. It is kept with the outcome, when the body is gone, so nobody else may be able to
    find out which body it is of."""
    return hmac.digest(secret, body, "sha256")
