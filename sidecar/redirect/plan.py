"""What is to be redirected, and the text of nftables that does it.

One table of our own, for IPv4 and IPv6. The text begins by taking out what there was of it, and nft(8) applies a text
as one transaction: so to apply it twice is the same as once, and no packet meets half of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Final

#: The table's family and name. All else in a network namespace belongs to others: Docker's DNS is a rule in there, too.
TABLE: Final = "inet sidecar"
#: Before nothing, and after connection tracking: where destinations are changed (iptables' nat tables are there, too).
_PRIORITY: Final = -100

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """Connections of the app to these ports, each range with both its ends, arrive at ``to``; but for those to the
    networks in ``exclude``."""

    ports: Sequence[tuple[int, int]]
    to: int
    exclude: Sequence[Network] = ()


@dataclass(frozen=True, slots=True)
class Inbound:
    """Connections from other hosts to ``port`` arrive at ``to``."""

    port: int
    to: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is redirected in a network namespace. ``uid`` is the sidecar's user, whose connections pass."""

    uid: int
    outbound: Outbound | None
    inbound: Inbound | None


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same ports in as few ranges as there can be, in order: nft refuses ranges that overlap."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def ruleset(plan: Plan) -> str:
    """The text for ``nft -f``: the table as the plan wants it, whatever there was of it."""
    return undoing() + "\n".join([f"table {TABLE} {{", *_chains(plan), "}", ""])


def undoing() -> str:
    """The text that takes the table out. It is declared first: what is not there cannot be deleted."""
    return f"table {TABLE}\ndelete table {TABLE}\n"


def _chains(plan: Plan) -> Iterator[str]:
    if plan.outbound is not None:
        yield from _chain("outbound", "output", _outbound(plan.uid, plan.outbound))
    if plan.inbound is not None:
        yield from _chain("inbound", "prerouting", _inbound(plan.inbound))


def _chain(name: str, hook: str, rules: Iterable[str]) -> Iterator[str]:
    yield f"\tchain {name} {{"
    yield f"\t\ttype nat hook {hook} priority {_PRIORITY}; policy accept;"
    yield from (f"\t\t{rule}" for rule in rules)
    yield "\t}"


def _outbound(uid: int, out: Outbound) -> Iterator[str]:
    yield "meta l4proto != tcp return"
    yield f"meta skuid {uid} return"
    # Not 127.0.0.1 alone: 127.0.0.11 is Docker's DNS, 127.0.0.53 systemd's, and an app may dial its own address.
    yield "fib daddr type local return"
    for family, key in ((4, "ip"), (6, "ip6")):
        networks = [it for it in out.exclude if it.version == family]
        if networks:
            yield f"{key} daddr {{ {', '.join(map(str, collapse_addresses(networks)))} }} return"  # type: ignore[type-var]
    ports = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in merged(out.ports))
    yield f"tcp dport {{ {ports} }} redirect to :{out.to}"


def _inbound(inbound: Inbound) -> Iterator[str]:
    yield "meta l4proto != tcp return"
    # What passes through this host is none of ours.
    yield "fib daddr type != local return"
    yield f"tcp dport {inbound.port} redirect to :{inbound.to}"


def summary(plan: Plan) -> list[str]:
    """The plan in words, a line each."""
    lines = []
    if plan.outbound is not None:
        out = plan.outbound
        ports = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in merged(out.ports))
        but = f", but to {', '.join(map(str, out.exclude))}" if out.exclude else ""
        lines.append(f"outbound: TCP to port {ports}{but} → :{out.to}; uid {plan.uid} and this host's addresses pass")
    if plan.inbound is not None:
        lines.append(f"inbound: TCP from other hosts to port {plan.inbound.port} → :{plan.inbound.to}")
    return lines
