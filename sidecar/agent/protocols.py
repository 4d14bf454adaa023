"""The listener of each protocol. Those that are used by few are imported only where they are: they are much code."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sidecar.core.amqp_settings import Amqp
from sidecar.exchange.listener import Listener
from sidecar.http.listener import HttpListener

if TYPE_CHECKING:
    from sidecar.agent.context import Context


def listener_class(protocol: str) -> type[Listener]:
    """The class for that protocol."""
    if protocol == "http":
        return HttpListener
    if protocol == "tcp":
        from sidecar.tcp.relay import TcpListener

        return TcpListener
    from sidecar.amqp.listener import AmqpListener

    return AmqpListener


def set_up_amqp(listener: Listener, context: Context, config: Amqp) -> None:
    """Give a listener of AMQP what no other has."""
    from sidecar.amqp.flow.stories import MessageStories
    from sidecar.amqp.flow.tracing import MessageTracing
    from sidecar.amqp.listener import AmqpListener

    assert isinstance(listener, AmqpListener)
    tracing = MessageTracing(
        listener.name, context.tracing.propagate, context.rng, context.sampling, context.record_span, context.clock
    )
    listener.set_up(config, tracing, context.rng)
    listener.amqp_stats.stories = MessageStories(
        listener.name, context.stories, context.clock, time.time, lambda: listener.config.hold.timeout
    )
