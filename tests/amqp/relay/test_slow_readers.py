"""A client that reads its last bytes slowly gets them; one that does not read at all is cut."""

from __future__ import annotations

from typing import Any

from sidecar.amqp.relay.lifecycle import CLOSE_SECONDS
from support.amqp import Stage


def closing(stage: Stage) -> tuple[Any, Any]:
    """A session whose broker has gone while its client has much to read; the client's transport, and the session."""
    client, broker = stage.open()
    (connection,) = stage.listener._connections
    session = connection.session  # type: ignore[attr-defined]
    client.transport.stuck = True
    session.client_write(bytes(10_000))
    broker.transport.lose(ConnectionResetError())
    return client.transport, session


def test_a_slow_one_is_waited_for() -> None:
    stage = Stage()
    transport, _ = closing(stage)
    while transport.buffer:
        stage.advance(CLOSE_SECONDS)
        assert not transport.aborted
        del transport.buffer[:1000]
    stage.advance(2 * CLOSE_SECONDS)  # it has been told, and does not answer
    assert transport.aborted


def test_one_that_does_not_read_is_cut() -> None:
    stage = Stage()
    transport, session = closing(stage)
    stage.advance(2 * CLOSE_SECONDS + 0.1)
    assert transport.aborted
    assert session.error
