from __future__ import annotations

from ipaddress import ip_network
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sidecar.redirect.plan import Inbound, Outbound, Plan, merged, ruleset, summary, undoing

PORT = st.integers(1, 65535)
RANGES = st.lists(st.tuples(PORT, PORT).map(lambda it: (min(it), max(it))), min_size=1, max_size=20)
NETWORKS = st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(ip_network), max_size=8)

RULES = """\
table inet sidecar
delete table inet sidecar
table inet sidecar {
	chain outbound {
		type nat hook output priority -100; policy accept;
		meta l4proto != tcp return
		meta skuid 10001 return
		fib daddr type local return
		ip daddr { 10.0.0.0/8 } return
		ip6 daddr { fd00::/8 } return
		tcp dport { 80, 8000-8099 } redirect to :15001
	}
	chain inbound {
		type nat hook prerouting priority -100; policy accept;
		meta l4proto != tcp return
		fib daddr type != local return
		tcp dport 8080 redirect to :15006
	}
}
"""


def test_both_sides() -> None:
    networks = [ip_network("10.0.0.0/9"), ip_network("fd00::/8"), ip_network("10.128.0.0/9"), ip_network("10.1.0.0/16")]
    out = Outbound(ports=[(8000, 8099), (80, 80), (8050, 8060)], to=15001, exclude=networks)
    plan = Plan(10001, out, Inbound(8080, 15006))
    assert ruleset(plan) == RULES
    assert summary(plan) == [
        "outbound: TCP to port 80, 8000-8099, but to 10.0.0.0/9, fd00::/8, 10.128.0.0/9, 10.1.0.0/16 → :15001; uid "
        "10001 and this host's addresses pass",
        "inbound: TCP from other hosts to port 8080 → :15006",
    ]


def test_one_side() -> None:
    outbound = ruleset(Plan(0, Outbound(ports=[(80, 80)], to=1), None))
    inbound = ruleset(Plan(0, None, Inbound(80, 1)))
    assert "prerouting" not in outbound
    assert "daddr {" not in outbound
    assert "output" not in inbound
    assert "skuid" not in inbound
    assert outbound.startswith(undoing())
    assert inbound.startswith(undoing())


@given(RANGES)
def test_the_same_ports_in_ranges_that_lie_apart(ranges: list[tuple[int, int]]) -> None:
    found = merged(ranges)
    assert {p for low, high in found for p in (low, high)} <= {p for it in ranges for p in it}
    assert all(one[1] + 1 < other[0] for one, other in pairwise(found)), "nft refuses ranges that overlap"
    assert all(any(low <= a and b <= high for low, high in found) for a, b in ranges)
    assert sum(high - low + 1 for low, high in found) == len({p for low, high in ranges for p in range(low, high + 1)})


@given(st.integers(0, 2**32 - 2), RANGES, NETWORKS, PORT)
def test_the_sidecar_and_its_host_are_let_through_before_anything_is_redirected(
    uid: int, ranges: list[tuple[int, int]], networks: list[object], to: int
) -> None:
    text = ruleset(Plan(uid, Outbound(ports=ranges, to=to, exclude=networks), None))  # type: ignore[arg-type]
    rules = [line.strip() for line in text.splitlines() if line.startswith("\t\t")][1:]
    assert rules[:3] == ["meta l4proto != tcp return", f"meta skuid {uid} return", "fib daddr type local return"]
    assert rules[-1].endswith(f"redirect to :{to}")
    assert all(rule.endswith("return") for rule in rules[:-1])
    assert all(any(str(it.network_address) in rule for rule in rules) or len(networks) > 1 for it in networks)  # type: ignore[attr-defined]
    assert text.count("{") == text.count("}")
