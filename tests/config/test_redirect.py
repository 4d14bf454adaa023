"""The section redirect, and what upstreams say of it."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from sidecar.config.redirect import Inbound, Outbound, Redirect
from sidecar.config.show import effective
from sidecar.core.address import Address
from support.configs import config_of, problem_of, problems_of

HEAD = "service: {name: tasks, app: 127.0.0.1:8080}\ninbound: {bind: 0.0.0.0:10030}\n"
OUT = "redirect: {outbound: {ports: [80, 443]}}\n"


def upstream(wanted: str) -> str:
    return HEAD + OUT + f"upstreams: {{a: {{bind: '127.0.0.1:1000', endpoints: ['b:1'], redirect: {wanted}}}}}\n"


def test_all_of_it() -> None:
    config = config_of(
        HEAD + "redirect: {uid: 5, app_uid: 6, inbound: {}, outbound: {ports: [80, 8000-8099], unknown: block, "
        "exclude: [10.0.0.1, 'fd00::/8']}}\n"
        "upstreams: {a: {bind: '127.0.0.1:1000', endpoints: ['b:1'], redirect: ['b:80', '*:8001', '[fd00::1]:80']}}\n"
    )
    networks = (ip_network("10.0.0.1"), ip_network("fd00::/8"))
    outbound = Outbound(ports=((80, 80), (8000, 8099)), exclude=networks, unknown="block")
    assert config.redirect == Redirect(uid=5, app_uid=6, inbound=Inbound(), outbound=outbound)
    assert (outbound.port, Inbound().port) == (15001, 15006)
    assert config.upstreams["a"].redirect == (Address("b", 80), Address("*", 8001), Address("fd00::1", 80))
    shown = effective(config)
    assert shown["redirect"]["outbound"]["ports"] == [80, "8000-8099"]
    assert shown["redirect"]["outbound"]["exclude"] == ["10.0.0.1", "fd00::/8"]
    assert shown["upstreams"]["a"]["redirect"] == ["b:80", "*:8001", "[fd00::1]:80"]
    assert config_of(HEAD).redirect is None


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("redirect: {uid: 1}", "redirect", "redirects nothing"),
        ("redirect: {outbound: {}}", "redirect.outbound.ports", "is missing"),
        ("redirect: {outbound: {ports: [http]}}", "redirect.outbound.ports[0]", "is no port"),
        ("redirect: {outbound: {ports: [0]}}", "redirect.outbound.ports[0]", "is not allowed"),
        ("redirect: {outbound: {ports: [90-80]}}", "redirect.outbound.ports[0]", "is not allowed"),
        ("redirect: {outbound: {ports: [80], exclude: [a]}}", "redirect.outbound.exclude[0]", "is no address"),
        ("redirect: {outbound: {ports: [80], exclude: [10.0.0.1/8]}}", "redirect.outbound.exclude[0]", "has bits"),
        ("redirect: {app_uid: 10001, outbound: {ports: [80]}}", "redirect.app_uid", "is the sidecar's own user"),
        ("redirect: {uid: tasks, outbound: {ports: [80]}}", "redirect.uid", "is not a whole number"),
        ("redirect: {outbound: {ports: [80], port: 15000}}", "redirect.outbound.port", "is the same port as admin"),
        ("redirect: {inbound: {port: 10030}}", "redirect.inbound.port", "is the same port as inbound.bind"),
        ("probes: {bind: '0.0.0.0:15006'}\nredirect: {inbound: {}}", "redirect.inbound", "is the same port as probes"),
        ("admin: {bind: '10.0.0.1:8080', token: x}\nredirect: {inbound: {}}", "redirect.inbound", "would redirect a"),
    ],
)  # fmt: skip
def test_mistakes(text: str, path: str, says: str) -> None:
    problem = problem_of(HEAD + text)
    assert problem.path == path
    assert problem.message.startswith(says)


def test_inbound_leads_somewhere() -> None:
    assert problem_of("service: {name: a}\nredirect: {inbound: {}}").path == "redirect.inbound"


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("['b:81']", "has a port that is not redirected"),
        ("['b:80', 'b:80']", "has a destination of upstreams.a"),
    ],
)
def test_destinations_of_upstreams(wanted: str, says: str) -> None:
    problem = problem_of(upstream(wanted))
    assert (problem.path, problem.message) == ("upstreams.a.redirect", says)


def test_a_destination_is_an_address() -> None:
    assert problem_of(upstream("['*']")).path == "upstreams.a.redirect[0]"
    assert problem_of(upstream("['*:0']")).path == "upstreams.a.redirect[0]"
    config_of(upstream("['*:80', 'b:443']"))


def test_upstreams_need_the_section() -> None:
    text = upstream("['b:80']").replace(OUT, "")
    assert problem_of(text).message == "needs a section redirect with outbound"
    # One that cannot be read is one problem, not two.
    text = upstream("['b:80']").replace("[80, 443]", "[x]")
    assert [it.path for it in problems_of(text)] == ["redirect.outbound.ports[0]"]


def test_the_name_of_what_belongs_to_nobody() -> None:
    text = "upstreams: {redirect: {bind: '127.0.0.1:1000', endpoints: ['b:1']}}\n"
    assert problem_of(HEAD + OUT + text).path == "upstreams.redirect"
    config_of(HEAD + text)
