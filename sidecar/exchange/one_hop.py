"""One hop retries: a sidecar that has given up says so in its answer, and no hop above tries such an answer again.

Three hops with three tries each would be 27 calls at the last one. So the one next to the failure tries again, and
those above it pass the failure on. ``x-sidecar-retried`` holds the number of tries that were made; only what another
sidecar says is believed.

Between two sidecars there is an app, which makes an answer of its own out of the failure that it got. It is the same
process that serves its callers and sends its calls: what has given up outbound is remembered for a moment by the ids
that the app passes on (``x-request-id``, the trace id), and an error of the app, inbound, with one of them is marked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request

FIELD: Final = b"x-sidecar-retried"
#: Digits of the number, at most; a longer one is no number that a sidecar has sent.
_LONGEST: Final = 3


def tries_of_peer(head: ResponseHead) -> int:
    """Return after how many tries a peer has given up, if this answer says that it has; -1: it does not."""
    value = head.fields.get(FIELD)
    if value is None:
        return -1
    value = value.strip(b" \t")
    return int(value) if value.isdigit() and len(value) <= _LONGEST else -1


def of_app(x: Request) -> int:
    """The same of an error that is the app's own: whether one of its calls for this request was given up."""
    memory = x.listener.given_up
    return memory.since(_ids(x), x.started) if len(memory) else -1


def given_up(x: Request) -> bytes:
    """The line that says so in the answer to this request; an outbound one is remembered for the app's callers."""
    if x.listener.stats.direction == "outbound":
        x.listener.given_up.add(_ids(x), x.listener.clock(), x.retried)
    return b"%b: %d\r\n" % (FIELD, x.retried)


def _ids(x: Request) -> tuple[str, ...]:
    """What a request has in common with those that an app makes because of it."""
    ids = [x.request_id] if x.request_id else []
    given = x.head.get(b"traceparent")
    if given is not None and len(given) >= 35:
        ids.append(given[3:35].decode("latin-1"))
    return tuple(ids)
