"""The phases of an exchange, and the one table of what leads from which to which.

An exchange is always in one phase. Every timer and every peer's event is read against it, so a late event (a connection
that stands after the client has left, say) finds nothing to do.
"""

from __future__ import annotations

from typing import Final, NamedTuple

NEW: Final = 0
PENDING: Final = 1
BACKOFF: Final = 2
CONNECTING: Final = 3
SENT: Final = 4
ANSWERING: Final = 5
TUNNEL: Final = 6
ENDED: Final = 7

#: The name of each, and what it means.
PHASES: Final = (
    ("NEW", "the filters see it, one after the other"),
    ("PENDING", "a filter makes it wait, or has taken it over"),
    ("BACKOFF", "it waits before another attempt"),
    ("CONNECTING", "an attempt waits for its connection"),
    ("SENT", "the request is on its way, or has arrived; no answer yet"),
    ("ANSWERING", "the answer's head is out, its body follows"),
    ("TUNNEL", "bytes pass both ways: an upgrade, TCP, AMQP"),
    ("ENDED", "everything is given back"),
)


class Step(NamedTuple):
    """``event`` leads from each of the phases ``before`` to ``after``. ``by`` is the method that takes the step."""

    event: str
    by: str
    before: tuple[int, ...]
    after: int


STEPS: Final = (
    Step("a filter makes it wait", "_wait", (NEW,), PENDING),
    Step("it is granted, or its time is over", "resume", (PENDING,), NEW),
    Step("a filter takes it over instead of an error", "take_over", (NEW, PENDING, BACKOFF, CONNECTING, SENT), PENDING),
    Step("an attempt begins", "begin_try", (NEW, CONNECTING, SENT), CONNECTING),
    Step("an attempt failed, and another one is to come", "retry_later", (CONNECTING, SENT), BACKOFF),
    Step("one of two attempts failed, and the other one waits for its connection", "go_on", (SENT,), CONNECTING),
    Step("the backoff is over", "check_timer", (BACKOFF,), NEW),
    Step("the connection stands (HTTP)", "connected", (CONNECTING,), SENT),
    Step("the connection stands (TCP)", "connected", (CONNECTING,), TUNNEL),
    Step("the broker says hello (AMQP)", "_started", (CONNECTING,), TUNNEL),
    Step("there is no broker, and the sidecar stands in (AMQP)", "receive", (NEW, CONNECTING), TUNNEL),
    Step("the answer's head has come, and more follows", "_stream", (SENT,), ANSWERING),
    Step("another upstream's answer takes the place of its own", "relay_answer", (PENDING,), ANSWERING),
    Step("the upstream agrees to an upgrade", "begin_tunnel", (SENT,), TUNNEL),
    Step("it is over", "end", (NEW, PENDING, BACKOFF, CONNECTING, SENT, ANSWERING, TUNNEL), ENDED),
)


def mermaid() -> str:
    """The table as a state diagram. An arrow that leads from every phase is drawn once, as the end."""
    lines = ["stateDiagram-v2", "    [*] --> NEW"]
    lines += [f"    {name}: {name} – {meaning}" for name, meaning in PHASES]
    for step in STEPS:
        if step.after == ENDED:
            continue
        lines += [f"    {PHASES[before][0]} --> {PHASES[step.after][0]}: {step.event}" for before in step.before]
    lines.append("    ENDED --> [*]")
    return "\n".join(lines) + "\n"
