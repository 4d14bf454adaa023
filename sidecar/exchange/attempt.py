"""One attempt of an exchange to get an answer, and the ways in which it can fail."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.net.sockets import Pausable

#: Failures of an attempt, as the policies name them: could not connect; no answer in time; cut off before an answer; a
#: kept connection that closed just as it was used; an answer that is not HTTP.
CONNECT: Final = "connect"
TIMEOUT: Final = "timeout"
RESET: Final = "reset"
RACE: Final = "race"
#: No failure: another attempt, beside it, was quicker.
HEDGED: Final = "hedged"
MALFORMED: Final = "malformed"
#: Why those failed that had a connection, as :mod:`sidecar.net.causes` has words for it.
CAUSE: Final = {TIMEOUT: "no_answer", RESET: "reset", MALFORMED: "malformed"}


class Attempt:
    """Where an attempt goes, and the connection that it has or waits for. What happens to a connection is told to the
    exchange together with its attempt, which may be over by then."""

    __slots__ = (
        "began",
        "cause",
        "conn",
        "connecting",
        "deadline",
        "endpoint",
        "failure",
        "hedge",
        "kept",
        "moved",
        "peer_error",
        "permit",
        "problem",
        "retried",
        "sent",
        "status",
        "took",
    )

    def __init__(self, endpoint: Endpoint, began: float = 0.0, permit: int = 0) -> None:
        self.endpoint = endpoint
        #: Times (of the listener's clock): when it began, and when it had a connection (0: never); whether that was a
        #: kept one.
        self.began = began
        self.sent = 0.0
        self.kept = False
        #: It began beside another one, which had no answer yet; and the breaker's permit for it, until that has its
        #: verdict.
        self.hedge = False
        self.permit = permit
        #: When it is over without an answer: how it failed (one of the kinds above; "": it did not); why, as
        #: :mod:`sidecar.net.causes` has words for it, if that is known; and the seconds that it took.
        self.failure = ""
        self.cause = ""
        #: In words: why there was no connection, or what was wrong with an answer that was :data:`MALFORMED`.
        self.problem = ""
        #: The status of its answer (0: none), and the code of a peer sidecar that gave it in place of its app.
        self.status = 0
        self.peer_error = ""
        self.took = 0.0
        #: The tries after which a peer sidecar says that it has given up; -1: it says nothing.
        self.retried = -1
        #: It went on at another address of the same name, as a part of the attempt after this.
        self.moved = False
        #: Time (of the listener's clock) by which there must be a connection, and then the beginning of an answer.
        self.deadline = 0.0
        #: The connection that it uses, where others may use that before and after it (HTTP).
        self.conn: Pausable | None = None
        #: The task that opens one.
        self.connecting: asyncio.Task[None] | None = None

    def left(self, cause: str, now: float) -> Attempt:
        """What is told of the address at which it does not go on, as there was a quicker one."""
        slower = Attempt(self.endpoint, self.began)
        slower.moved = True
        slower.failure = CONNECT
        slower.cause = cause
        slower.took = now - self.began
        return slower

    def stop_connecting(self) -> None:
        """Wait for no connection any more."""
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
