"""Builds the package; with ``SIDECAR_COMPILE=1`` the hot path is compiled by mypyc, which needs a C compiler.

Everything else about the package is in pyproject.toml. The same source runs either way; compiled, it spends about half
the CPU time on an exchange (docs/benchmarks.md).
"""

import os

from setuptools import setup

#: What every request and every relayed byte runs through.
HOT_PATH = [
    "sidecar/amqp/alone.py",
    "sidecar/amqp/batch.py",
    "sidecar/amqp/channel.py",
    "sidecar/amqp/comeback.py",
    "sidecar/amqp/confirms.py",
    "sidecar/amqp/content.py",
    "sidecar/amqp/control.py",
    "sidecar/amqp/deadlines.py",
    "sidecar/amqp/departure.py",
    "sidecar/amqp/ephemeral.py",
    "sidecar/amqp/frames.py",
    "sidecar/amqp/gates.py",
    "sidecar/amqp/handshake.py",
    "sidecar/amqp/hold.py",
    "sidecar/amqp/incoming.py",
    "sidecar/amqp/kept.py",
    "sidecar/amqp/kept_session.py",
    "sidecar/amqp/legs.py",
    "sidecar/amqp/listener.py",
    "sidecar/amqp/methods.py",
    "sidecar/amqp/opening.py",
    "sidecar/amqp/pair.py",
    "sidecar/amqp/partitions.py",
    "sidecar/amqp/policy.py",
    "sidecar/amqp/publish.py",
    "sidecar/amqp/publishing/connector.py",
    "sidecar/amqp/publishing/exchanges.py",
    "sidecar/amqp/publishing/lookup.py",
    "sidecar/amqp/publishing/outgoing.py",
    "sidecar/amqp/publishing/publisher.py",
    "sidecar/amqp/publishing/trial.py",
    "sidecar/amqp/publishing/unconfirmed.py",
    "sidecar/amqp/relay.py",
    "sidecar/amqp/replay/asides.py",
    "sidecar/amqp/replay/key.py",
    "sidecar/amqp/replay/keys.py",
    "sidecar/amqp/replay/line.py",
    "sidecar/amqp/replay/lines.py",
    "sidecar/amqp/replay/outcomes.py",
    "sidecar/amqp/replay/prefetch.py",
    "sidecar/amqp/replay/reading.py",
    "sidecar/amqp/replay/replayer.py",
    "sidecar/amqp/replay/rests.py",
    "sidecar/amqp/replay/stats.py",
    "sidecar/amqp/replay/turns.py",
    "sidecar/amqp/restoration.py",  # its error is a kind of one that is compiled
    "sidecar/amqp/run.py",
    "sidecar/amqp/session.py",
    "sidecar/amqp/settling.py",
    "sidecar/amqp/spec.py",
    "sidecar/amqp/spool/keeper.py",
    "sidecar/amqp/spool/lifetimes.py",
    "sidecar/amqp/spool/message.py",
    "sidecar/amqp/spool/shares.py",
    "sidecar/amqp/stalling.py",
    "sidecar/amqp/stats.py",
    "sidecar/amqp/subscription.py",
    "sidecar/amqp/tables.py",
    "sidecar/amqp/tracing.py",
    "sidecar/amqp/unacked.py",
    "sidecar/amqp/waiting.py",
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
    "sidecar/net/dial.py",
    "sidecar/proxy/errors.py",
    "sidecar/proxy/exchange.py",
    "sidecar/proxy/filter.py",
    "sidecar/proxy/http1/body.py",
    "sidecar/proxy/http1/downstream.py",
    "sidecar/proxy/http1/exchange.py",
    "sidecar/proxy/http1/head.py",
    "sidecar/proxy/http1/listener.py",
    "sidecar/proxy/http1/pool.py",
    "sidecar/proxy/http1/upstream.py",
    "sidecar/proxy/ids.py",
    "sidecar/proxy/listener.py",
    "sidecar/proxy/routes.py",
    "sidecar/proxy/sockets.py",
    "sidecar/proxy/tcp.py",
    "sidecar/proxy/trace.py",
    "sidecar/resilience/breaker.py",
    "sidecar/resilience/limiter.py",
    "sidecar/resilience/token_bucket.py",
    "sidecar/resilience/wheel.py",
    "sidecar/telemetry/stats.py",
    "sidecar/upstreams/balancers.py",
    "sidecar/upstreams/cluster.py",
    "sidecar/upstreams/endpoint.py",
]

extensions = []
if os.environ.get("SIDECAR_COMPILE") == "1":
    from mypyc.build import mypycify

    # Types are checked by `make lint`, where everything that is imported is at hand; here much of it is not.
    extensions = mypycify(["--config-file=", "--ignore-missing-imports", *HOT_PATH], opt_level="3")

setup(ext_modules=extensions)
