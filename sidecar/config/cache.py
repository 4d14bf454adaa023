"""The settings of the response cache, and what has to fit together in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from sidecar.config import declared
from sidecar.config.containers import Fields, ListOf, MapOf
from sidecar.config.document import Scalar
from sidecar.config.kinds import BROKEN, ScalarKind
from sidecar.config.values import HEADER, Duration, Enum, Integer, Method, Size, Text
from sidecar.core.identity import IDENTITY

#: Methods whose requests are known by what they ask for, and those that are by their body.
BY_TARGET: Final = frozenset({"GET", "HEAD"})
BY_BODY: Final = frozenset({"POST", "QUERY"})
#: What of a JSON body makes an answer the same each time, unless something else is said.
DETERMINISTIC: Final[Mapping[str, str | int | float | bool]] = {"temperature": 0}
_TTL_OF_BODIES: Final = 300.0


class Plain(ScalarKind):
    """A value of a JSON text that holds no others: a number, true, false, or a text."""

    allowed = "a number, true or false, or a text of at most 200 characters"

    def __init__(self) -> None:
        self._number = Integer(-(2**53), 2**53)
        self._text = Text("at most 200 characters", r"[^\x00-\x1f\x7f]{1,200}", empty=True)

    def parse(self, scalar: Scalar) -> str | int | float | bool:
        text = scalar.text
        if scalar.plain:
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
            try:
                return int(text) if text.lstrip("-").isdigit() else float(text)
            except ValueError:
                pass
        found: str = self._text.parse(scalar)
        return found

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": ["number", "boolean"]}, {"type": "string", "maxLength": 200}]}


class CacheSettings(declared.Settings):
    """``methods`` are upper case, ``identity`` holds lower-case fields."""

    short = "ttl"
    cross: ClassVar[Sequence[dict[str, Any]]] = (
        {"if": {"required": ["when"]}, "then": {"required": ["key"], "properties": {"key": {"const": "json"}}}},
    )

    methods: frozenset[str] = declared.key(
        ListOf(Method(), minimum=1, maximum=4, into=frozenset),
        "Requests with these methods: GET (HEAD is answered from the same), with key json also POST and QUERY.",
        default=frozenset({"GET"}),
        told="[GET]; with key: json [POST]",
        example=["GET"],
    )
    ttl: float = declared.key(
        Duration("1ms", "365d", zero=True),
        "For how long answers are fresh that do not say it themselves, of status 200, 203, 204, 300, 301, 308 and 410.",
        default=0.0,
        told="0: only what says so itself; with key: json 5m",
        example="5m",
    )
    max_bytes: int = declared.key(
        Size("64KiB", "1TiB"), "The most memory for answers.", default=64 << 20, example="64MiB"
    )
    max_body: int = declared.key(Size("1B", "1GiB"), "Larger answers are not kept.", default=1 << 20, example="1MiB")
    key: str = declared.key(
        Enum("target", "json"),
        "What makes two requests the same: target, which is scheme, host, path and query; json: of methods with a body "
        "also its JSON, however it is written.",
        default="target",
    )
    when: Mapping[str, str | int | float | bool] = declared.key(
        MapOf(
            Text("a name in a JSON object, or several with dots", r"[^\x00-\x1f\x7f]{1,200}"),
            Plain(),
            maximum=16,
        ),
        "With key json: only requests whose JSON has these values. A name without a dot may also stand in options. "
        "{}: all.",
        default=dict(DETERMINISTIC),
        told="{temperature: 0}",
        example={"temperature": 0},
    )
    stale: float = declared.key(
        Duration("1s", "365d", zero=True),
        "For how long an answer that is not fresh any more is given while the upstream is down, unless it says "
        "something else of that. 0: not at all.",
        default=3600.0,
        example="1h",
    )
    collapse: float = declared.key(
        Duration("1ms", "10m", zero=True),
        "The longest that a request waits for the answer to another one that is the same. 0: each one is asked.",
        default=30.0,
    )
    authorised: str = declared.key(
        Enum("never", "apart"),
        "Answers to requests that say who asks. never: kept only if public; apart: for each one who asks.",
        default="never",
    )
    identity: frozenset[str] = declared.key(
        ListOf(HEADER, maximum=64, into=frozenset),
        "Headers that say who asks.",
        default=IDENTITY,
        example=["authorization", "cookie"],
    )

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        if given.get("key") == "json":
            given.setdefault("methods", frozenset({"POST"}))
            given.setdefault("ttl", _TTL_OF_BODIES)

    def left_out(self) -> Sequence[str]:
        return ("when",) if self.key == "target" else ()

    @staticmethod
    def check(given: Sequence[Fields], protocol: str) -> None:
        for cache in given:
            _methods(cache)
            if cache.known("max_body", "max_bytes") and cache.value("max_body") > cache.value("max_bytes"):
                place = cache.places.get("max_body") or cache.places["max_bytes"]
                place.report("there is no room for one such answer", allowed="max_body at most as large as max_bytes")
            if "when" in cache.places and cache.value("key") == "target":
                cache.places["when"].report("is about JSON bodies", allowed="with key: json")


def _methods(cache: Fields) -> None:
    by = cache.value("key")
    methods = cache.get("methods")
    if methods is None or by is BROKEN or BROKEN in methods:
        return
    place = cache.places["methods"]
    bodies = BY_BODY & set(methods)
    others = sorted(set(methods) - BY_TARGET - BY_BODY)
    if others:
        place.report("changes something, so that its answers are not kept", found=", ".join(others),
                     allowed="GET, HEAD; with key: json also POST, QUERY")  # fmt: skip
    elif bodies and by == "target":
        place.report("has a body, by which requests are told apart", found=", ".join(sorted(bodies)),
                     allowed="GET, HEAD; or key: json")  # fmt: skip
    elif by == "json" and not bodies:
        place.report("have no body, which key json goes by", found=", ".join(sorted(methods)),
                     allowed="POST or QUERY among them; or key: target")  # fmt: skip
