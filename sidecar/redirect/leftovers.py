"""Rules of others that change destinations, too: what an earlier mesh has left, most often made with iptables.

With two such sets of rules a connection is redirected twice or by the wrong one, so nothing is installed beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sidecar.redirect.plan import TABLE

#: Docker's DNS in a container: rules about this one address, which never meet ours.
_DOCKER_DNS: Final = re.compile(r"\b127\.0\.0\.11\b")
_CHANGES_DESTINATION: Final = re.compile(r"\b(redirect|dnat|tproxy)\b", re.IGNORECASE)
_BLOCK: Final = re.compile(r"\s*(table|chain|set|map)\s+(.+?)\s*\{")
_IPTABLES_TARGET: Final = re.compile(r"-j (REDIRECT|DNAT|TPROXY)\b")
#: Lines of each that are named, at most.
MOST: Final = 10


def in_ruleset(listing: str) -> list[str]:
    """What ``nft list ruleset`` shows of such rules, our own table aside: table, chain and rule, a line each. Those of
    iptables-nft are among them."""
    return list(_rules(listing))


def _rules(listing: str) -> Iterator[str]:
    table = chain = ""
    for line in listing.splitlines():
        block = _BLOCK.match(line)
        if block:
            if block[1] == "table":
                table, chain = block[2], ""
            else:
                chain = block[2]
        elif table != TABLE and _CHANGES_DESTINATION.search(line) and not _DOCKER_DNS.search(line):
            yield f"table {table}, chain {chain}: {' '.join(line.split())}"


def in_iptables(saved: str, command: str) -> list[str]:
    """The same of what ``iptables-legacy-save`` prints, as the command that would show each."""
    table, found = "", []
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith("-A") and _IPTABLES_TARGET.search(line) and not _DOCKER_DNS.search(line):
            found.append(f"{command} -t {table} {line.strip()}")
    return found


def told(found: list[str]) -> str:
    """What is in the way, for people."""
    more = [f"  and {len(found) - MOST} more"] if len(found) > MOST else []
    lines = ["other rules here redirect connections, too:", *(f"  {it}" for it in found[:MOST]), *more]
    return "\n".join(
        [
            *lines,
            "With both, connections would be redirected twice, so nothing was changed. Take those out first: rules of",
            "iptables with -D in place of -A, tables of nftables with nft delete table.",
        ]
    )
