"""The Host that an upstream gets."""

from __future__ import annotations

from sidecar.filters.retry import RetrySettings
from support.http import Stage


def test_it_replaces_the_one_that_was_asked_for_on_every_try() -> None:
    stage = Stage(host="api.example:8443", retry=RetrySettings(initial_delay=0.0))
    client = stage.asks("GET /", "x-host: kept")
    for _ in range(3):
        upstream = stage.upstream()
        asked = upstream.hears()
        assert (asked.fields["host"], asked.fields["x-host"]) == ("api.example:8443", "kept")
        assert asked.head.lower().count(b"\r\nhost:") == 1
        upstream.answers(503)
    assert client.gets().status == 503
    stage.over()


def test_without_one_the_apps_own_passes() -> None:
    stage = Stage()
    stage.asks("GET /")
    assert stage.upstream().hears().fields["host"] == "t"
    stage.over()
