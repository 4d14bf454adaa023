"""The Host that an upstream gets."""

from __future__ import annotations

from sidecar.config.model import Retry, Upstream
from support.live import ANY_PORT, Live, Origin, fetch, ok, run


def test_it_replaces_the_one_that_was_asked_for_on_every_try() -> None:
    async def main() -> None:
        up = Upstream(name="up", bind=ANY_PORT, host="api.example:8443", retry=Retry(initial_delay=0.0))
        async with Origin(ok(status="503 no")) as origin, Live(up, origin.port) as live:
            await fetch(live.port, fields=["x-host: kept"])
            assert [r.fields["host"] for r in origin.requests] == ["api.example:8443"] * 3
            assert all(r.head.lower().count(b"\r\nhost:") == 1 for r in origin.requests)
            assert {r.fields["x-host"] for r in origin.requests} == {"kept"}

    run(main)


def test_without_one_the_apps_own_passes() -> None:
    async def main() -> None:
        async with Origin(ok()) as origin, Live(Upstream(name="up", bind=ANY_PORT), origin.port) as live:
            await fetch(live.port)
            assert origin.requests[0].fields["host"] == "t"

    run(main)
