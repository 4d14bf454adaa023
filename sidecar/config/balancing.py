"""The keys of an upstream about which endpoint gets the next request."""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.config.containers import Fields
from sidecar.config.declared import Settings, key
from sidecar.config.document import Scalar
from sidecar.config.errors import nearest
from sidecar.config.kinds import BROKEN, Refused, ScalarKind
from sidecar.config.values import Number

BALANCERS: Final = (
    "round_robin",
    "least_connections",
    "weighted",
    "random",
    "ip_hash",
    "peak_ewma",
    "consistent_hash",
    "prequal",
)
#: Those that go by the time to an answer, which only HTTP has.
BY_ANSWERS: Final = ("peak_ewma", "prequal")
#: Those that llm.loaded takes the place of.
OF_MODELS: Final = ("round_robin", "least_connections")
HASH: Final = "consistent_hash"


class HashKey(ScalarKind):
    """What of a request a hash is made of."""

    allowed = "ip, path, header:<name>, cookie:<name>, or query:<name>"
    _NAMED = re.compile(r"(header|cookie|query):([A-Za-z0-9!#$%&'*+.^_`|~-]{1,256})")

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if text in ("ip", "path"):
            return text
        if match := self._NAMED.fullmatch(text):
            kind, name = match.groups()
            return f"{kind}:{name.lower() if kind == 'header' else name}"
        raise Refused("is nothing to hash by", nearest=nearest(text, ("ip", "path", "header:", "cookie:", "query:")))

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^(ip|path|(header|cookie|query):.+)$|\$\{"}


class Factor(Number):
    """How much more than its share: a number above 1, or 0 for any."""

    def __init__(self) -> None:
        super().__init__(1.05, 100)
        self.allowed += ", or 0 for no bound"

    def parse(self, scalar: Scalar) -> float:
        return 0.0 if scalar.text in ("0", "0.0") else super().parse(scalar)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"const": 0}, *super().schema()["anyOf"]]}


class Hash(Settings):
    """For balancer: consistent_hash. What lacks the header, cookie or parameter goes to the less busy one of two."""

    short = "by"

    by: str = key(
        HashKey(), "Requests that have the same of this go to one instance.", default="ip", example="header:x-agent-id"
    )
    balance_factor: float = key(
        Factor(),
        "An instance has at most so many times its share of what is under way; what is beyond goes to the next one.",
        default=1.25,
    )


def check(upstream: Fields) -> None:
    """Report what does not fit together at one upstream."""
    balancer, protocol, given = upstream.value("balancer"), upstream.value("protocol"), upstream.section_of("hash")
    if balancer is BROKEN or protocol is BROKEN:
        return
    if "hash" in upstream.places and balancer != HASH:
        upstream.places["hash"].report(
            f"means nothing with balancer: {balancer}", allowed=f"balancer: {HASH}, or leave it out"
        )
    llm = upstream.section_of("llm")
    if llm is not None and llm.get("loaded") and balancer not in OF_MODELS and "balancer" in upstream.places:
        upstream.places["balancer"].report(
            "means nothing with llm.loaded, which asks the least busy of those that have the model",
            found=balancer,
            allowed=f"{', '.join(OF_MODELS)}, or leave it out",
        )
    if protocol == "http":
        return
    if balancer in BY_ANSWERS:
        upstream.places["balancer"].report(
            f"is not for protocol {protocol}: it goes by the time to an answer, and connections have none",
            found=balancer,
            allowed=", ".join(it for it in BALANCERS if it not in BY_ANSWERS),
        )
    by = given.value("by") if given is not None else "ip"
    if given is not None and by not in (BROKEN, "ip"):
        given.places["by"].report(f"is not for protocol {protocol}", found=f'"{by}"', allowed="ip")
