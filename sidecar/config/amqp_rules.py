"""What has to fit together in an ``amqp`` section; see :mod:`sidecar.config.rules`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sidecar.config.containers import Fields
from sidecar.config.errors import nearest
from sidecar.config.kinds import BROKEN, Place
from sidecar.core.text import printable


class AmqpUpstream(NamedTuple):
    """An upstream with an ``amqp`` section that could be read."""

    name: str
    upstream: Fields
    amqp: Fields


def _amqp(root: Fields) -> Iterator[AmqpUpstream]:
    for name, upstream in root.get("upstreams", {}).items():
        if isinstance(upstream, Fields) and (amqp := upstream.section_of("amqp")) is not None:
            yield AmqpUpstream(name, upstream, amqp)


def _sections(amqp: Fields, key: str) -> Iterator[Fields]:
    """The items of a list of sections that could be read."""
    yield from (item for item in amqp.get(key, ()) if isinstance(item, Fields))


def _items(fields: Fields, key: str) -> Iterator[tuple[Place, Any]]:
    """The items of a list of values that could be read. A list keeps no places; its own line is near enough."""
    for index, item in enumerate(fields.get(key, ())):
        if item is not BROKEN:
            place = fields.places[key]
            yield place.item(index, place.line), item


def _quoted(name: str) -> str:
    return f'"{printable(name)}"'


def _for_protocol_amqp(root: Fields) -> None:
    """An ``amqp`` section is for ``protocol: amqp``."""
    for _, upstream, amqp in _amqp(root):
        protocol = upstream.value("protocol")
        if protocol not in (BROKEN, "amqp"):
            amqp.place.report(
                f"is not for protocol {protocol}", allowed="protocol: amqp beside it, or leave the section out"
            )


def _account_for_watching(root: Fields) -> None:
    """Watching queues, asking the management API, and delivering what was spooled take an account with a password."""
    for _, _, amqp in _amqp(root):
        credentials = amqp.section_of("credentials")
        if credentials is not None and "password" in credentials and not credentials["password"]:
            credentials.places["password"].report("is empty", allowed="the password of that account")
        for key in ("queues", "management", "spool"):
            if amqp.get(key) and "credentials" not in amqp.places:
                amqp.place.at("credentials", amqp.places[key].line).report(
                    "is missing: for this, the sidecar needs an account of its own",
                    found=key,
                    allowed="{username: sidecar, password: {file: /run/secrets/rabbitmq}}",
                )
                break


def _known_vhosts(root: Fields) -> None:
    """No vhost twice; rules and queues are in vhosts that clients may open. Only a rule can be for any, ``*``."""
    for _, _, amqp in _amqp(root):
        allowed: set[str] = set()
        for place, vhost in _items(amqp, "vhosts"):
            if vhost == "*":
                place.report("is not the name of a vhost", found='"*"', allowed="names; any vhost: leave vhosts out")
            elif vhost in allowed:
                place.report("is given twice", found=_quoted(vhost), allowed="each vhost once")
            allowed.add(vhost)
        complete = bool(allowed) and "*" not in allowed and BROKEN not in amqp["vhosts"]
        for rule in _sections(amqp, "publish"):
            if complete and rule.value("vhost") not in (BROKEN, "*", *allowed):
                _not_open(rule, allowed)
        for queue in _sections(amqp, "queues"):
            if queue.value("vhost") == "*":
                queue.places["vhost"].report("is not the name of a vhost", found='"*"', allowed="the one it is in")
            elif complete and queue.value("vhost") not in (BROKEN, *allowed):
                _not_open(queue, allowed)


def _not_open(item: Fields, allowed: set[str]) -> None:
    item.places.get("vhost", item.place).report(
        "is about a vhost that clients may not open",
        found=f"vhost {_quoted(item.value('vhost'))}",
        allowed=", ".join(map(_quoted, sorted(allowed))),
    )


def _every_rule_counts(root: Fields) -> None:
    """A rule without a rate limits nothing, so has no burst; and no rule stands behind one that takes all of its
    messages."""
    for _, _, amqp in _amqp(root):
        before: list[tuple[int, Fields]] = []
        for index, rule in enumerate(amqp.get("publish", ())):
            if not isinstance(rule, Fields):
                continue
            for key in ("burst", "over"):
                if rule.value("rate") == 0 and key in rule.places:
                    rule.places[key].report("means nothing without a rate", allowed="a rate, or leave it out")
            if not rule.known("vhost", "exchange", "routing_key"):
                continue
            for other, first in before:
                if _takes_all(first, rule):
                    rule.place.report(
                        f"is never reached: publish[{other}] comes first and is for the same messages",
                        allowed="the narrower rule first",
                    )
                    break
            before.append((index, rule))


def _takes_all(first: Fields, rule: Fields) -> bool:
    """Whether every message of ``rule`` is one of ``first``; found for equal and for all-embracing patterns only."""
    return all(
        first.value(key) in (everything, rule.value(key))
        for key, everything in (("vhost", "*"), ("exchange", "*"), ("routing_key", "#"))
    )


def _queues_differ(root: Fields) -> None:
    """No queue twice, and ``low`` is not above ``high``."""
    for _, _, amqp in _amqp(root):
        seen: set[tuple[str, str]] = set()
        for queue in _sections(amqp, "queues"):
            if queue.known("high", "low") and "low" in queue and queue["low"] > queue.value("high"):
                queue.places["low"].report(
                    "is above high", found=str(queue["low"]), allowed=f"at most {queue.value('high')}"
                )
            name, vhost = queue.get("name"), queue.value("vhost")
            if name is None or vhost is BROKEN:
                continue
            if (vhost, name) in seen:
                queue.places["name"].report(
                    "is given twice", found=f"{_quoted(name)} in vhost {_quoted(vhost)}", allowed="each queue once"
                )
            seen.add((vhost, name))


def _prefetch_in_order(root: Fields) -> None:
    """``prefetch.default`` is not above ``prefetch.max``."""
    for _, _, amqp in _amqp(root):
        prefetch = amqp.section_of("prefetch")
        if prefetch is None or not prefetch.known("default", "max") or "default" not in prefetch:
            continue
        default, most = prefetch["default"], prefetch.value("max")
        if 0 < most < default:
            prefetch.places["default"].report("is above max", found=str(default), allowed=f"at most {most}")


def _pauses_on_breakers(root: Fields) -> None:
    """``pause_on`` names other upstreams, which have a breaker that can open."""
    known: dict[str, Any] = root.get("upstreams", {})
    for name, _, amqp in _amqp(root):
        seen: set[str] = set()
        for place, other in _items(amqp, "pause_on"):
            others = [one for one in known if one != name]
            if other not in others:
                wrong = "is this upstream itself" if other == name else "is not an upstream of this file"
                place.report(
                    wrong,
                    found=f'"{other}"',
                    allowed=", ".join(others) or "another upstream, and there is none",
                    nearest=nearest(other, others),
                )
            elif isinstance(target := known[other], Fields) and target.value("circuit_breaker") is None:
                place.report(
                    "is an upstream without a circuit breaker, so nothing would ever be paused",
                    found=f"upstreams.{other}.circuit_breaker: off",
                    allowed="an upstream with one",
                )
            elif other in seen:
                place.report("is given twice", found=f'"{other}"', allowed="each upstream once")
            seen.add(other)


def _spool_for_what_is_kept(root: Fields) -> None:
    """What is about spooled messages takes a spool."""
    for _, _, amqp in _amqp(root):
        if "spool" in amqp.places:
            continue
        rules, queues = list(_sections(amqp, "publish")), list(_sections(amqp, "queues"))
        about = [(rule, "expires") for rule in rules if rule.get("expires")]
        about += [(item, "over") for item in rules + queues if item.get("over") == "spool"]
        about += [(amqp, "dead_letters")] if "dead_letters" in amqp.places else []
        for fields, key in about:
            fields.places[key].report(
                "means nothing without a spool", allowed=f"spool: {{path: …}} at {amqp.place.path}, or leave it out"
            )


def _spool_takes_any_message(root: Fields) -> None:
    """The spool has room for the largest message that a client may publish."""
    for _, _, amqp in _amqp(root):
        spool = amqp.section_of("spool")
        if spool is None or not spool.known("max_bytes") or not amqp.known("max_message_size"):
            continue
        most, largest = spool.value("max_bytes"), amqp.value("max_message_size")
        if most < largest:
            spool.places["max_bytes"].report(
                "is less than one message may have (max_message_size)", found=str(most), allowed=f"at least {largest}"
            )


def _partitions_of_exchanges(root: Fields) -> None:
    """Partitions are of single exchanges, by name, and not of the default one: its routing keys are queues."""
    for _, _, amqp in _amqp(root):
        for name, partition in amqp.get("partitions", {}).items():
            if isinstance(partition, Fields) and name in ("*", "#", "amq.default"):
                partition.place.report(
                    "is not an exchange whose messages can be spread",
                    found=_quoted(name),
                    allowed="the name of one, as it is declared",
                )


RULES = (
    _for_protocol_amqp,
    _account_for_watching,
    _known_vhosts,
    _every_rule_counts,
    _queues_differ,
    _prefetch_in_order,
    _pauses_on_breakers,
    _spool_for_what_is_kept,
    _spool_takes_any_message,
    _partitions_of_exchanges,
)
