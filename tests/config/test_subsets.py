"""Subsets, and how traffic is split among them: what the keys mean, and what does not fit together."""

from __future__ import annotations

import pytest

from sidecar.config.show import effective
from sidecar.config.subsets import Select
from support.configs import config_of, problem_of

TWO = "subsets: {stable: {tag: v1}, next: {meta: {version: '2'}}}"


def upstream(text: str, registry: str = "directory:///run/mesh") -> str:
    return (
        f"service: {{name: tasks, app: 127.0.0.1:8080}}\nregistry: {registry}\n"
        f"upstreams: {{a: {{bind: 127.0.0.1:1000, {text}}}}}\n"
    )


def test_what_is_read() -> None:
    config = config_of(upstream(f"{TWO}, split: {{stable: 90, next: 10}}, sticky: 'header:X-Session'"))
    found = config.upstreams["a"]
    assert found.subsets == {"stable": Select(tag="v1"), "next": Select(meta={"version": "2"})}
    assert found.policies["split"] == (("stable", 90), ("next", 10))
    assert found.sticky == "header:x-session"
    shown = effective(config)["upstreams"]["a"]
    assert shown["split"] == {"stable": 90, "next": 10}
    assert shown["subsets"]["next"]["meta"] == {"version": "2"}


def test_by_default_there_are_none() -> None:
    found = config_of(upstream("balancer: random")).upstreams["a"]
    assert (found.subsets, found.policies["split"], found.sticky) == ({}, (), None)


def test_a_route_has_a_split_of_its_own_or_none() -> None:
    routes = "routes: [{match: {headers: {x-next: '1'}}, split: {next: 1}}, {match: {path: /a}, split: off}]"
    found = config_of(upstream(f"{TWO}, {routes}")).upstreams["a"]
    assert [route.policies["split"] for route in found.routes] == [(("next", 1),), ()]


def test_fixed_endpoints_have_tags_and_meta() -> None:
    text = "endpoints: [{address: '10.0.0.1:80', tags: [v1]}, {address: '10.0.0.2:80', meta: {version: '2'}}]"
    one, other = config_of(upstream(f"{text}, {TWO}")).upstreams["a"].endpoints
    assert (one.tags, other.meta) == (("v1",), {"version": "2"})


def test_a_subset_may_be_another_service() -> None:
    found = config_of(upstream("subsets: {stable: {tag: v1}, next: {service: tasks-next}}")).upstreams["a"]
    assert found.subsets["next"].service == "tasks-next"


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (f"{TWO}, split: {{stable: 90, nxt: 10}}", "split.nxt", "is no subset of this upstream"),
        ("split: {stable: 90}", "split.stable", "is no subset of this upstream"),
        (f"{TWO}, split: {{stable: 0, next: 0}}", "split", "gives no subset a weight"),
        (f"{TWO}, split: {{}}", "split", "gives no subset a weight"),
        (f"{TWO}, split: {{stable: -1}}", "split.stable", "is out of range"),
        (f"{TWO}, split: {{stable: 10%}}", "split.stable", "is not a whole number"),
        (f"{TWO}, split: [stable]", "split", "has the wrong type"),
        (f"{TWO}, sticky: ip", "sticky", "means nothing without split"),
        (f"{TWO}, split: {{next: 1}}, sticky: path", "sticky", "is nothing to know a client by"),
        (f"{TWO}, protocol: amqp", "subsets", "is not for protocol amqp"),
        (f"{TWO}, split: {{next: 1}}, sticky: 'cookie:a', protocol: tcp", "sticky", "is not for protocol tcp"),
        ("subsets: {stable: {}}", "subsets.stable", "takes no instances"),
        ("subsets: {stable: v1}", "subsets.stable", "has the wrong type"),
        ("subsets: {a: {tag: v1}, b: {tag: v1}}", "subsets.b", "takes the same instances as a"),
        (f"{TWO}, routes: [{{match: {{path: /a}}, split: {{no: 1}}}}]", "routes[0].split.no", "is no subset"),
    ],
)
def test_what_does_not_fit(text: str, path: str, message: str) -> None:
    found = problem_of(upstream(text))
    assert found.path == f"upstreams.a.{path}"
    assert found.message.startswith(message), found


def test_an_unknown_subset_is_told_with_the_nearest() -> None:
    found = problem_of(upstream(f"{TWO}, split: {{stabel: 1}}"))
    assert (found.allowed, found.nearest) == ("stable, next", "stable")


def test_another_service_takes_a_registry() -> None:
    text = "endpoints: ['10.0.0.1:80'], subsets: {next: {service: other}}"
    found = problem_of(upstream(text, "none"))
    assert found.message == "cannot be discovered without a registry"


def test_inbound_has_no_split() -> None:
    text = "service: {name: tasks, app: 127.0.0.1:8080}\ninbound: {bind: 127.0.0.1:1, split: {a: 1}}\n"
    assert "is for upstreams only" in problem_of(text).message
