"""Builds the package; with ``SIDECAR_COMPILE=1`` the hot path is compiled by mypyc, which needs a C compiler.

Everything else about the package is in pyproject.toml. The same source runs either way; compiled, it spends about half
the CPU time on an exchange (docs/benchmarks.md).
"""

import os

from setuptools import setup

#: What every request and every relayed byte runs through.
HOT_PATH = [
    "sidecar/amqp/failover/buffered_channel.py",
    "sidecar/amqp/failover/offline.py",
    "sidecar/amqp/failover/recovery.py",
    "sidecar/amqp/failover/session.py",
    "sidecar/amqp/flow/confirms.py",
    "sidecar/amqp/flow/gates.py",
    "sidecar/amqp/flow/partitions.py",
    "sidecar/amqp/flow/policy.py",
    "sidecar/amqp/flow/publish.py",
    "sidecar/amqp/flow/scheduler.py",
    "sidecar/amqp/flow/stats.py",
    "sidecar/amqp/flow/tracing.py",
    "sidecar/amqp/listener.py",
    "sidecar/amqp/publisher/connection.py",
    "sidecar/amqp/publisher/connector.py",
    "sidecar/amqp/publisher/exchange_checks.py",
    "sidecar/amqp/publisher/passive_declare.py",
    "sidecar/amqp/publisher/probe_channel.py",
    "sidecar/amqp/publisher/send_queue.py",
    "sidecar/amqp/publisher/unconfirmed.py",
    "sidecar/amqp/relay/channel.py",
    "sidecar/amqp/relay/connections.py",
    "sidecar/amqp/relay/consumer_pause.py",
    "sidecar/amqp/relay/control.py",
    "sidecar/amqp/relay/deliveries.py",
    "sidecar/amqp/relay/departure.py",
    "sidecar/amqp/relay/forward.py",
    "sidecar/amqp/relay/heartbeat.py",
    "sidecar/amqp/relay/lifecycle.py",
    "sidecar/amqp/relay/opening.py",
    "sidecar/amqp/relay/pending_frames.py",
    "sidecar/amqp/relay/session.py",
    "sidecar/amqp/relay/settling.py",
    "sidecar/amqp/relay/subscription.py",
    "sidecar/amqp/relay/unacked.py",
    "sidecar/amqp/relay/write_batch.py",
    "sidecar/amqp/replay/backoff.py",
    "sidecar/amqp/replay/cursor.py",
    "sidecar/amqp/replay/deferred.py",
    "sidecar/amqp/replay/dispatcher.py",
    "sidecar/amqp/replay/fair_scheduler.py",
    "sidecar/amqp/replay/outcomes.py",
    "sidecar/amqp/replay/prefetch.py",
    "sidecar/amqp/replay/publisher_pool.py",
    "sidecar/amqp/replay/publisher_slot.py",
    "sidecar/amqp/replay/stats.py",
    "sidecar/amqp/replay/stream.py",
    "sidecar/amqp/replay/streams.py",
    "sidecar/amqp/spool/intake.py",
    "sidecar/amqp/spool/lifetimes.py",
    "sidecar/amqp/spool/message.py",
    "sidecar/amqp/spool/shares.py",
    "sidecar/amqp/topology/ephemeral.py",
    "sidecar/amqp/topology/recovery.py",  # its error is a kind of one that is compiled
    "sidecar/amqp/wire/constants.py",
    "sidecar/amqp/wire/content.py",
    "sidecar/amqp/wire/frames.py",
    "sidecar/amqp/wire/handshake.py",
    "sidecar/amqp/wire/methods.py",
    "sidecar/amqp/wire/splice.py",
    "sidecar/amqp/wire/tables.py",
    "sidecar/core/ids.py",
    "sidecar/core/replies.py",
    "sidecar/core/stats.py",
    "sidecar/core/trace.py",
    "sidecar/endpoints/balancers.py",
    "sidecar/endpoints/cluster.py",
    "sidecar/endpoints/endpoint.py",
    "sidecar/exchange/exchange.py",
    "sidecar/exchange/filter.py",
    "sidecar/exchange/listener.py",
    "sidecar/exchange/routes.py",
    "sidecar/filters/bulkhead.py",
    "sidecar/filters/circuit_breaker.py",
    "sidecar/filters/drain.py",
    "sidecar/filters/forwarded.py",
    "sidecar/filters/host.py",
    "sidecar/filters/metrics.py",
    "sidecar/filters/rate_limit.py",
    "sidecar/filters/request_id.py",
    "sidecar/filters/retry.py",
    "sidecar/filters/timeouts.py",
    "sidecar/filters/tracing.py",
    "sidecar/http/exchange.py",
    "sidecar/http/h1/body.py",
    "sidecar/http/h1/client.py",
    "sidecar/http/h1/head.py",
    "sidecar/http/h1/server.py",
    "sidecar/http/listener.py",
    "sidecar/http/pool.py",
    "sidecar/net/dial.py",
    "sidecar/net/sockets.py",
    "sidecar/net/wheel.py",
    "sidecar/resilience/breaker.py",
    "sidecar/resilience/limiter.py",
    "sidecar/resilience/token_bucket.py",
    "sidecar/tcp/relay.py",
]

extensions = []
if os.environ.get("SIDECAR_COMPILE") == "1":
    from mypyc.build import mypycify

    # Types are checked by `make lint`, where everything that is imported is at hand; here much of it is not.
    extensions = mypycify(["--config-file=", "--ignore-missing-imports", *HOT_PATH], opt_level="3")

setup(ext_modules=extensions)
