"""The keys about the sidecar itself, not its traffic."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Final

from sidecar.config import cross_schema
from sidecar.config.addresses import HostPort, IpPort, Url
from sidecar.config.containers import ListOf
from sidecar.config.declared import Settings, key, section
from sidecar.config.document import Mapping, Node, Sequence
from sidecar.config.kinds import Place, describe
from sidecar.config.policy import Short
from sidecar.config.secrets import SecretValue
from sidecar.config.values import Duration, Enum, Integer, Share, Text
from sidecar.core.address import Address
from sidecar.core.records import MODES
from sidecar.core.secret import NO_SECRET, Secret

_LOCAL: Final = Address("127.0.0.1", 15000)


class Consul(Settings):
    """What a Consul registry needs besides its address."""

    token: Secret = key(SecretValue(), "ACL token.", default=NO_SECRET, example="${CONSUL_HTTP_TOKEN:-}")
    datacenter: str = key(
        Text("a datacenter's name", r"[A-Za-z0-9_-]{1,128}", empty=True),
        "Empty: the agent's.",
        default="",
        example="dc1",
    )


class Admin(Settings):
    """The admin API and its dashboard."""

    cross = cross_schema.admin()

    bind: Address = key(HostPort(system_port=True), "Where it listens.", default=_LOCAL, example="127.0.0.1:15000")
    token: Secret = key(
        SecretValue(), "Needed when bind is not loopback.", default=NO_SECRET, example={"file": "/run/secrets/admin"}
    )


class Probes(Settings):
    """A listener for machines: /ready, /health and /metrics, read-only, without a token. None unless given."""

    short = "bind"

    bind: Address = key(
        HostPort(system_port=True), "Where it listens; 0.0.0.0:15020 is what others expect.", example="0.0.0.0:15020"
    )


class Tracing(Settings):
    """Distributed tracing."""

    sample: float = key(Share(), "The share of new traces that is recorded: 0.01 or 1%.", default=0.01)
    otlp: str = key(
        Url(("http", "https")),
        "An OpenTelemetry collector (OTLP over HTTP); empty: none.",
        default="",
        example="http://jaeger:4318",
    )
    propagate: tuple[str, ...] = key(
        ListOf(Enum("w3c", "b3"), maximum=2),
        "Trace headers that are understood and sent, of requests and messages; []: none.",
        default=("w3c",),
        example=["w3c", "b3"],
    )
    always: tuple[str, ...] = key(
        ListOf(Enum("errors", "slow"), maximum=2),
        "What is recorded though its trace is not sampled, at most 10 per second: what failed or was tried again; "
        "what was slow.",
        default=("errors", "slow"),
        example=["errors", "slow"],
    )
    slow: float = key(
        Duration(), "From when on an exchange is slow: until the head of its answer.", default=1.0, example="1s"
    )


class AccessLines(Settings):
    """Lines for all that failed, and for some of the others."""

    refused: ClassVar[dict[str, str]] = {"mode": "is written in place of the mapping: log: {access: errors}"}

    #: ``all``, ``errors`` or ``off``; with a mapping in its place it is ``errors``.
    mode: str = dataclasses.field(default="errors")
    sample: float = key(
        Share(), "The share of the others that get one: the same requests at each hop.", default=0.0, example="1%"
    )
    slow: float = key(
        Duration(zero=True), "Those whose answer begins later than this get one; 0: none.", default=0.0, example="500ms"
    )


class AccessKind(Short):
    """One word, or a mapping."""

    def __init__(self) -> None:
        words = Enum(*MODES)
        self.section, self.main, self.kind = section(AccessLines), "all, errors or off", words
        self.allowed = f"{words.allowed}; or a mapping with {', '.join(self.section.keys)}"

    def read(self, node: Node, at: Place) -> Any:
        if isinstance(node, Mapping):
            return self.section.read(node, at)
        if isinstance(node, Sequence):
            return at.report("has the wrong type", found=describe(node), allowed=self.allowed)
        return self.kind.read(node, at)

    def build(self, value: Any) -> AccessLines:
        return AccessLines(mode=value) if isinstance(value, str) else self.section.build(value)

    def show(self, value: AccessLines) -> Any:
        return value.mode if value == AccessLines(mode=value.mode) else self.section.show(value)


class Log(Settings):
    """What the sidecar writes about itself and its traffic."""

    short = "level"

    level: str = key(
        Enum("debug", "info", "warning", "error"), "The least important lines that are written.", default="info"
    )
    format: str = key(Enum("json", "text"), "How a line looks.", default="json")
    access: AccessLines = key(
        AccessKind(),
        "Which exchanges get a line; errors: those that failed.",
        default=AccessLines(),
        example={"sample": "1%", "slow": "500ms"},
    )


class Why(Settings):
    """What is remembered of requests, for `sidecar why`: all that failed, were tried again or slow, and a sample."""

    short = "records"

    records: int = key(Integer(0, 100_000), "The newest requests that are remembered; 0: none.", default=2000)
    sample: float = key(
        Share(), "The share of all others that is remembered, too: 0.01 or 1%.", default=0.01, example="1%"
    )


class Rehearsal(Settings):
    """What is remembered of requests, for `sidecar rehearse`: 20 bytes of one that went well, more of others; for an
    hour."""

    short = "records"

    records: int = key(Integer(0, 2_000_000), "The newest requests that are remembered; 0: none.", default=100_000)


class Drain(Settings):
    """The end of a sidecar."""

    short = "timeout"

    timeout: float = key(
        Duration(zero=True), "How long running exchanges may take to finish.", default=30.0, example="30s"
    )
    delay: float = key(
        Duration(zero=True),
        "How long new requests are still taken after the instance has left the registry, for callers that learn of it "
        "late. Sidecars learn of it at once, and send what is refused to another instance.",
        default=0.0,
        example="5s",
    )
    outbound: str = key(
        Enum("drained", "until_app_ends"),
        "When the ports that the app dials close: when inbound is drained, or when the app has gone, too (service.app "
        "takes no connection; at most timeout). sidecar exec always waits for its app.",
        default="drained",
    )
    app: float = key(
        Duration("1s", "1h"),
        "sidecar exec: how long the app may take to end once it has been told to; then it is killed.",
        default=30.0,
        example="30s",
    )


class Dns(Settings):
    """How host names of endpoints are looked up: in /etc/hosts, then in the DNS."""

    min_ttl: float = key(
        Duration(), "The soonest that a name is looked up again, whatever its TTL.", default=1.0, example="1s"
    )
    max_ttl: float = key(Duration(), "The latest.", default=300.0, example="5m")
    timeout: float = key(
        Duration(),
        "What a DNS server has for an answer, before it is asked again or another is.",
        default=2.0,
        example="2s",
    )
    servers: tuple[Address, ...] = key(
        ListOf(IpPort(53), maximum=8),
        "DNS servers, instead of those of /etc/resolv.conf.",
        default=(),
        example=["10.0.0.2", "10.0.0.3:53"],
    )
