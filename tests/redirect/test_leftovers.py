from __future__ import annotations

from sidecar.redirect.leftovers import MOST, in_iptables, in_ruleset, told
from sidecar.redirect.plan import Inbound, Outbound, Plan, ruleset

LISTED = """\
table ip nat {
	set local {
		type ipv4_addr
	}

	chain DOCKER_OUTPUT {
		ip daddr 127.0.0.11 tcp dport 53 counter packets 0 bytes 0 dnat to 127.0.0.11:40123
	}

	chain OUTPUT {
		type nat hook output priority -100; policy accept;
		ip daddr 127.0.0.11 counter packets 0 bytes 0 jump DOCKER_OUTPUT
		meta l4proto tcp counter packets 3 bytes 180 jump ISTIO_OUTPUT
	}

	chain ISTIO_OUTPUT {
		meta l4proto tcp counter packets 3 bytes 180 redirect to :15001
	}
}
table ip6 mangle {
	chain PREROUTING {
		meta l4proto tcp counter packets 0 bytes 0 xt target "TPROXY"
	}
}
table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
	}
}
"""

SAVED = """\
*nat
:OUTPUT ACCEPT [0:0]
:CONSUL_PROXY_OUTPUT - [0:0]
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:40123
-A OUTPUT -p tcp -j CONSUL_PROXY_OUTPUT
-A CONSUL_PROXY_OUTPUT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""


def test_what_redirects_is_found_and_docker_s_dns_is_not() -> None:
    assert in_ruleset(LISTED) == [
        "table ip nat, chain ISTIO_OUTPUT: meta l4proto tcp counter packets 3 bytes 180 redirect to :15001",
        'table ip6 mangle, chain PREROUTING: meta l4proto tcp counter packets 0 bytes 0 xt target "TPROXY"',
    ]


def test_our_own_table_is_none() -> None:
    own = ruleset(Plan(1, Outbound(ports=[(80, 80)], to=15001), Inbound(8080, 15006)))
    assert in_ruleset(own) == []
    assert len(in_ruleset(own.replace("inet sidecar", "inet other"))) == 2
    assert in_ruleset("") == []


def test_iptables_legacy() -> None:
    assert in_iptables(SAVED, "iptables-legacy") == [
        "iptables-legacy -t nat -A CONSUL_PROXY_OUTPUT -p tcp -j REDIRECT --to-ports 15001"
    ]


def test_some_are_named_and_the_others_counted() -> None:
    text = told([f"rule {n}" for n in range(MOST + 2)])
    assert "  rule 0\n" in text
    assert f"rule {MOST}" not in text
    assert "and 2 more" in text
    assert "nothing was changed" in text
    assert "more" not in told(["rule"])
