"""The keys under ``health`` of an upstream: which of its endpoints are in the rotation."""

from __future__ import annotations

from typing import Any, Final

from sidecar.config import cross_schema
from sidecar.config.containers import Fields
from sidecar.config.declared import Settings, key, section
from sidecar.config.keys import INHERIT, Inherit
from sidecar.config.policy import Policy
from sidecar.config.secrets import SecretValue
from sidecar.config.values import HOST_FIELD, Boolean, Duration, Enum, Integer, Number, Share, Text
from sidecar.core.secret import NO_SECRET, Secret


class Eject(Settings):
    """When what comes of its tries takes an endpoint out of the rotation for a while. What cannot be reached is out at
    once, for a second at first, twice as long each time, and 30 s at most. Without this section, that and five failures
    in a row are all that ejects, both with these short times."""

    consecutive: int = key(Integer(0, 10_000), "So many failures in a row; 0: any number.", default=5)
    error_rate: float = key(
        Share(), "Such a share of failures within window; 0: any. For http and tcp.", default=0.5, example="50%"
    )
    latency: float = key(
        Number(0, 1000),
        "A median latency of so many times what is usual, which is the median of the endpoints' own medians; 0: any. "
        "It takes three endpoints. For http and tcp.",
        default=3.0,
        example=3,
    )
    min_requests: int = key(
        Integer(1, 10_000), "The least requests of an endpoint within window to judge it by.", default=20
    )
    window: float = key(Duration("1s", "1h"), "Time over which it is judged.", default=10.0, example="10s")
    for_: float = key(
        Duration("100ms", "24h"),
        "The first ejection; the second one takes twice as long, the third three times.",
        default=10.0,
        example="10s",
    )
    max_for: float = key(Duration("100ms", "24h"), "The longest ejection.", default=300.0, example="5m")
    at_most: float = key(
        Share(),
        "Such a share of the endpoints is ejected at once, but always one may be. Less than 100% leaves the last one "
        "in. What cannot be reached is out all the same.",
        default=0.5,
        example="50%",
    )


class Check(Settings):
    """Endpoints are asked now and then, each in its turn. A request that is answered 2xx is a good result, and one that
    is answered 429, or says ``{"status": "warning"}``, a warning."""

    short = "http"
    cross = cross_schema.endpoint_check()

    http: str | None = key(
        Text("a path that begins with /", r"/[^\x00-\x20\x7f#]{0,2047}"),
        "Path to get.",
        default=None,
        example="/health",
    )
    host: str = key(
        HOST_FIELD, "Host to ask for.", default="", example="app.example", told="the endpoint's name, or address"
    )
    port: int = key(Integer(0, 65535), "The port to ask; 0: the endpoint's own.", default=0, example=8008)
    tcp: bool = key(Boolean(), "Connect only; what happens without http and deep, too.", default=False)
    deep: bool = key(
        Boolean(),
        "Ask the sidecar in front of the instance, where its admin API can be reached: it checks its app, and whether "
        "what that needs can be connected to, which is a warning if not. Others are connected to.",
        default=False,
    )
    postgres: str | None = key(
        Enum("primary"),
        "For tcp: ask which PostgreSQL server accepts writes. All others are out; until one has said so, all are.",
        default=None,
        example="primary",
    )
    user: str = key(
        Text("an account's name", r"[^\x00-\x1f\x7f]{1,63}", empty=True),
        "With postgres: who asks. The account needs no rights.", default="", example="sidecar", told="postgres",
    )  # fmt: skip
    password: Secret = key(
        SecretValue(), "With postgres: its password; empty: there is none.", default=NO_SECRET,
        example={"file": "/run/secrets/postgres"},
    )  # fmt: skip
    database: str = key(
        Text("a database's name", r"[^\x00-\x1f\x7f]{1,63}", empty=True),
        "With postgres: the database to ask in.", default="", told="postgres",
    )  # fmt: skip
    interval: float = key(Duration("100ms", "24h"), "From one check to the next.", default=5.0, example="5s")
    timeout: float = key(Duration("10ms", "10m"), "The longest a check may take.", default=2.0, example="2s")
    fall: int = key(Integer(1, 1000), "So many bad results in a row, and it is unhealthy.", default=3)
    rise: int = key(Integer(1, 1000), "So many good ones in a row, and it is not any more.", default=2)


class Health(Settings):
    """Which endpoints are in the rotation."""

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        """Writes are for nobody who is not known to accept them."""
        if given.get("check") is not None and given["check"].postgres:
            given.setdefault("when_none", "refuse")

    check: Check | None = key(  # type: ignore[assignment]
        section(Check), "How endpoints are asked whether they are well.", default=None, told="they are not",
        example={"http": "/health"},
    )  # fmt: skip
    eject: Eject | Inherit | None = key(
        Policy(section(Eject)),
        "When failures and slowness take an endpoint out; off: never.",
        default=INHERIT,
        example={"latency": 3, "at_most": "50%"},
    )
    when_none: str = key(
        Enum("use_all", "refuse"),
        "When no endpoint is in the rotation: use_all, or answer no_endpoints.",
        default="use_all",
        told="use_all; refuse with check: {postgres: primary}",
    )
    slow_start: float = key(
        Duration("1s", "1h", zero=True),
        "Time in which the share of an endpoint grows that is new, or was ejected or unhealthy: from a tenth to all of "
        "it. 0: at once.",
        default=0.0,
        example="30s",
    )


HEALTH: Final = section(Health)
#: Keys of a check that only this kind has.
_OF_POSTGRES: Final = ("user", "password", "database")


def check(upstream: Fields) -> None:
    """Report what does not fit together, or to the protocol: ejections that shrink, two checks at once."""
    given = upstream.section_of("health")
    if given is not None and (asked := given.section_of("check")) is not None:
        _check_asked(asked, upstream.value("protocol"))
    eject = given.section_of("eject") if given else None
    if eject is None:
        return
    if eject.known("for", "max_for") and eject.value("for") > eject.value("max_for"):
        eject.places.get("for", eject.place).report(
            "is above max_for", found=f"{eject.value('for'):g} s", allowed=f"at most {eject.value('max_for'):g} s"
        )
    for name in ("error_rate", "latency"):
        if upstream.value("protocol") == "amqp" and eject.get(name):
            eject.places[name].report("is not for protocol amqp", allowed="consecutive, for, max_for and at_most")


def _check_asked(asked: Fields, protocol: object) -> None:
    kinds = [name for name in ("http", "tcp", "deep", "postgres") if asked.get(name)]
    if len(kinds) > 1:
        asked.place.report(
            "is several checks at once",
            found=" and ".join(kinds),
            allowed="one of http: /path, tcp: true, deep: true, postgres: primary",
        )
    if asked.get("postgres") and protocol in ("http", "amqp"):
        asked.places["postgres"].report(
            "is for ports that are relayed as they are", found=f"protocol: {protocol}", allowed="protocol: tcp"
        )
    for name in _OF_POSTGRES:
        if asked.get(name) and "postgres" not in asked.places:
            asked.places[name].report("means nothing without postgres", allowed="postgres: primary beside it")
    if asked.get("host") and "http" not in asked.places:
        asked.places["host"].report("means nothing without http", allowed="http: /path beside it, or leave it out")
    if asked.get("http") and protocol == "amqp" and asked.known("port") and not asked.value("port"):
        asked.places["http"].report(
            "needs a port beside it: on the endpoint's own, a broker speaks AMQP", allowed="port: 15672; or tcp: true"
        )
