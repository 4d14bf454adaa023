"""What differs between two configurations, in words."""

from __future__ import annotations

from sidecar.config.differences import differences
from sidecar.config.load import load_text
from sidecar.config.schema import Config

BASE = """
service: {name: web}
upstreams:
  a: {bind: "127.0.0.1:1", endpoints: ["127.0.0.1:9"]}
"""


def config(more: str = "", base: str = BASE) -> Config:
    return load_text(base + more, "sidecar.yaml", {"SECRET": "s3cret"})


def told(old: Config, new: Config) -> dict[str, str]:
    return {it.path: str(it) for it in differences(old, new)}


def test_equal_ones_do_not_differ() -> None:
    assert told(config(), config()) == {}


def test_every_key_that_differs_is_named() -> None:
    old = config("admin: {token: a}\nlog: {level: debug}\ndrain: {timeout: 1s}")
    new = config("admin: {token: b, bind: 127.0.0.1:7}\nconsul: {token: '${SECRET}'}\ndrain: {timeout: 1500ms}")
    assert told(old, new) == {
        "consul.token": "(no secret) → (a secret)",
        "admin.bind": "127.0.0.1:15000 → 127.0.0.1:7",
        "admin.token": "(a secret) → (a secret)",
        "log.level": "debug → info",
        "drain.timeout": "1 → 1.5",
    }


def test_upstreams_policies_and_lists() -> None:
    more = """, retry: off, timeout: {idle: 1m}}
  "b.c": {bind: "127.0.0.1:2", endpoints: ["127.0.0.1:9"]}"""
    found = told(config(), config(base=BASE.rstrip().removesuffix("}").replace(":9", ":8") + more))
    assert found.keys() == {
        "upstreams.a.endpoints", "upstreams.a.retry", "upstreams.a.timeout.idle", 'upstreams."b.c"',
    }  # fmt: skip
    assert found["upstreams.a.endpoints"] == '["127.0.0.1:9"] → ["127.0.0.1:8"]'
    assert found["upstreams.a.retry"].endswith(" → off")
    assert found["upstreams.a.timeout.idle"] == "300 → 60"
    assert found['upstreams."b.c"'].startswith("(nothing) → {")
