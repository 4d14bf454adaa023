"""The keys about the sidecar itself, not its traffic; as in ``schema``, the defaults are those of the model."""

from __future__ import annotations

from sidecar.config import cross_schema, model
from sidecar.config.addresses import HostPort, IpPort, Url
from sidecar.config.containers import ListOf, Section
from sidecar.config.keys import Key
from sidecar.config.secrets import SecretValue
from sidecar.config.values import Duration, Enum, Share, Text

CONSUL = Section(
    model.Consul,
    "What a Consul registry needs besides its address.",
    {
        "token": Key(SecretValue(), "ACL token.", "${CONSUL_HTTP_TOKEN:-}"),
        "datacenter": Key(
            Text("a datacenter's name", r"[A-Za-z0-9_-]{1,128}", empty=True), "Empty: the agent's.", "dc1"
        ),
    },
)

ADMIN = Section(
    model.Admin,
    "The admin API and its dashboard.",
    {
        "bind": Key(HostPort(system_port=True), "Where it listens.", "127.0.0.1:15000"),
        "token": Key(SecretValue(), "Needed when bind is not loopback.", {"file": "/run/secrets/admin"}),
    },
    cross=cross_schema.admin(),
)

TRACING = Section(
    model.Tracing,
    "Distributed tracing.",
    {
        "sample": Key(Share(), "The share of new traces that is recorded: 0.01 or 1%."),
        "otlp": Key(
            Url(("http", "https")), "An OpenTelemetry collector (OTLP over HTTP); empty: none.", "http://jaeger:4318"
        ),
        "propagate": Key(
            ListOf(Enum("w3c", "b3"), maximum=2),
            "Trace headers that are understood and sent, of requests and messages; []: none.",
            ["w3c", "b3"],
        ),
    },
)

LOG = Section(
    model.Log,
    "What the sidecar writes about itself and its traffic.",
    {
        "level": Key(Enum("debug", "info", "warning", "error"), "The least important lines that are written."),
        "format": Key(Enum("json", "text"), "How a line looks."),
        "access": Key(Enum("all", "errors", "off"), "Which exchanges get a line."),
    },
    short="level",
)

DRAIN = Section(
    model.Drain,
    "The end of a sidecar.",
    {"timeout": Key(Duration(zero=True), "How long running exchanges may take to finish.", "30s")},
    short="timeout",
)

DNS = Section(
    model.Dns,
    "How host names of endpoints are looked up: in /etc/hosts, then in the DNS.",
    {
        "min_ttl": Key(Duration(), "The soonest that a name is looked up again, whatever its TTL.", "1s"),
        "max_ttl": Key(Duration(), "The latest.", "5m"),
        "timeout": Key(
            Duration(), "What a DNS server has for an answer, before it is asked again or another is.", "2s"
        ),
        "servers": Key(
            ListOf(IpPort(53), maximum=8),
            "DNS servers, instead of those of /etc/resolv.conf.",
            ["10.0.0.2", "10.0.0.3:53"],
        ),
    },
)
