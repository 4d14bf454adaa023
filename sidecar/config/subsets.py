"""The keys about subsets of an upstream's instances: what they are, and how traffic is split among them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sidecar.config.containers import Fields, MapOf
from sidecar.config.declared import Settings, key, section
from sidecar.config.document import Node, Scalar
from sidecar.config.errors import nearest
from sidecar.config.kinds import BROKEN, Place, Refused, ScalarKind
from sidecar.config.values import NAME, Integer, Text

#: Subsets of one upstream: each is a row in every table about it.
MOST: Final = 16
#: The largest weight.
MOST_WEIGHT: Final = 10_000
_OFF: Final = ("off", "false", "no")


class Select(Settings):
    """Which instances are in it: all that is given has to fit."""

    short = "tag"
    cross = ({"minProperties": 1},)

    service: str = key(
        NAME, "Those of this service, in place of the upstream's own.", default="", example="tasks-next",
        told="the upstream's own",
    )  # fmt: skip
    tag: str = key(Text("a tag", empty=True), "Those with this tag.", default="", example="v1")
    meta: dict[str, str] = key(
        MapOf(Text("a key of a service's meta"), Text("its value", empty=True), maximum=16),
        "Those with all of these in their meta.",
        default={},
        example={"version": "2"},
    )

    def left_out(self) -> Sequence[str]:
        return () if self.service else ("service",)


class SubsetsKind(MapOf):
    """Subsets by name, in their order."""

    def __init__(self) -> None:
        super().__init__(NAME, section(Select), maximum=MOST)


class Shares(MapOf):
    """Weights by the names of subsets, or ``off``. Becomes a tuple of pairs; empty: off."""

    def __init__(self) -> None:
        super().__init__(NAME, Integer(0, MOST_WEIGHT), maximum=MOST)
        self.allowed = f"weights by the names of subsets, each from 0 to {MOST_WEIGHT}, not all of them 0; or off"

    def read(self, node: Node, at: Place) -> Any:
        if isinstance(node, Scalar) and node.text.lower() in _OFF:
            return {}
        found = super().read(node, at)
        if isinstance(found, dict) and BROKEN not in found.values() and not any(found.values()):
            return at.report("gives no subset a weight", found=_shown(found), allowed="at least one weight above 0")
        return Weights(found, at) if isinstance(found, dict) else found

    def build(self, value: Any) -> Any:
        return tuple(value.items()) if value else ()

    def show(self, value: Any) -> Any:
        return dict(value) if value else "off"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [super().schema() | {"minProperties": 1}, {"enum": ["off", False]}]}


class Weights(dict[str, Any]):
    """What was read of some shares, and where they stand."""

    def __init__(self, found: Mapping[str, Any], place: Place) -> None:
        super().__init__(found)
        self.place = place


class Sticky(ScalarKind):
    """What of a client keeps it in one subset."""

    allowed = "ip, header:<name>, or cookie:<name>"
    _NAMED = re.compile(r"(header|cookie):([A-Za-z0-9!#$%&'*+.^_`|~-]{1,256})")

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if text == "ip":
            return text
        if match := self._NAMED.fullmatch(text):
            kind, name = match.groups()
            return f"{kind}:{name.lower() if kind == 'header' else name}"
        raise Refused("is nothing to know a client by", nearest=nearest(text, ("ip", "header:", "cookie:")))

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^(ip|(header|cookie):.+)$|\$\{"}


def check(upstream: Fields) -> None:
    """Report what does not fit together at one upstream: subsets without a meaning, and weights of none of them."""
    subsets: Mapping[str, Any] = upstream.get("subsets", {})
    splits = list(_splits(upstream))
    if isinstance(subsets, dict):
        _check_subsets(subsets, upstream)
        for split in splits:
            _check_names(split, subsets)
    if "sticky" in upstream.places:
        sticky = upstream.value("sticky")
        if not splits:
            upstream.places["sticky"].report(
                "means nothing without split", allowed="split: {NAME: WEIGHT} beside it or in a route, or leave it out"
            )
        if upstream.value("protocol") == "tcp" and isinstance(sticky, str) and sticky != "ip":
            upstream.places["sticky"].report("is not for protocol tcp", found=f'"{sticky}"', allowed="ip")


def _splits(upstream: Fields) -> Iterator[Weights]:
    for fields in (upstream, *upstream.get("routes", ())):
        if isinstance(fields, Fields) and isinstance(split := fields.get("split"), Weights):
            yield split


def _check_subsets(subsets: Mapping[str, Any], upstream: Fields) -> None:
    seen: dict[str, str] = {}
    for name, fields in subsets.items():
        if not isinstance(fields, Fields):
            continue
        given = {key: value for key in ("service", "tag", "meta") if (value := fields.get(key))}
        if not given and not fields.places:
            fields.place.report("takes no instances", allowed="a tag, meta or a service, that tells them from others")
        elif given and BROKEN not in given.values():
            text = repr(given)
            if text in seen:
                fields.place.report(
                    f"takes the same instances as {seen[text]}, and would stay empty: each is in the first that fits",
                    found=_shown(given), allowed="another tag, meta or service",
                )  # fmt: skip
            seen.setdefault(text, name)


def _check_names(split: Weights, subsets: Mapping[str, Any]) -> None:
    for name in split:
        if name not in subsets:
            split.place.at(name, split.place.line).report(
                "is no subset of this upstream", allowed=", ".join(subsets) or "none: subsets is not given",
                nearest=nearest(name, subsets),
            )  # fmt: skip


def _shown(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in given.items())
