"""The mesh of 70 services on the dashboard, in a real Chromium: it can be read, pointed at, and stands still."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from support.big_mesh import HOSTILE, big_mesh
from support.browser import Watched, chromium
from support.processes import App, Sidecar, ending

pytestmark = pytest.mark.costly


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as it:
        yield it


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sidecar that is asked for everything but the mesh. It has one upstream, whose endpoint has a sidecar."""
    folder = tmp_path_factory.mktemp("drawn")
    with ending(App(folder, "app")) as running:
        app = running[0]
        assert isinstance(app, App)
        registry = f"directory://{folder}/registry"
        other = Sidecar(
            folder,
            {
                "service": {"name": "tasks", "address": "127.0.0.1", "app": f"127.0.0.1:{app.port}"},
                "registry": registry, "inbound": {"bind": "127.0.0.1:0"}, "probes": {"bind": "127.0.0.1:0"},
            },
            "tasks",
        )  # fmt: skip
        running.append(other)
        upstreams = {"tasks": {"bind": "127.0.0.1:0", "discover": {"service": "tasks"}}}
        web = Sidecar(folder, {"service": {"name": "web"}, "registry": registry, "upstreams": upstreams}, "web")
        running.append(web)
        for process in running:
            process.ready()
        yield web.admin


class Drawn(Watched):
    """Its page Mesh; ``mesh`` is what it is told, and can be changed."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        super().__init__(browser, url, **options)
        self.mesh = big_mesh()
        self.asked = 0
        self.page.route("**/mesh", self._tell)

    def _tell(self, route: Route) -> None:
        self.asked += 1
        route.fulfill(content_type="application/json", body=json.dumps(self.mesh))

    def node(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=f"{name}: ")

    def told_again(self) -> None:
        """Wait until it has asked, and drawn what it was told."""
        before = self.asked
        for _ in range(600):
            if self.asked > before + 1:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("it asks no more")


@pytest.fixture(scope="module")
def drawn(browser: Browser, admin: str) -> Iterator[Drawn]:
    with Drawn(browser, admin, bypass_csp=True, viewport={"width": 1400, "height": 900}) as it:
        it.open("mesh", "Mesh")
        it.node("qdrant").wait_for()
        yield it


def places(page: Page) -> list[str]:
    found: list[str] = page.eval_on_selector_all(".node", "all => all.map(it => it.getAttribute('transform'))")
    return found


def test_it_fits_the_width_and_can_be_seen_as_a_whole(drawn: Drawn) -> None:
    page = drawn.page
    assert len(places(page)) == len(drawn.mesh["services"]) == 70
    graph = page.get_by_role("region", name="Graph of the mesh")

    def size() -> list[float]:
        found: list[float] = graph.evaluate(
            "it => [it.scrollWidth - it.clientWidth, it.querySelector('svg').clientWidth]"
        )
        return found

    assert size()[0] <= 1
    assert page.get_by_role("button", name="Fit the width").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Larger").click()
    larger = size()[1]
    page.get_by_role("button", name="Show all of it").click()
    page.wait_for_function(
        "() => { const it = document.querySelector('.graph'); return it.scrollHeight <= innerHeight * .75; }"
    )
    assert size()[1] < larger
    page.get_by_role("button", name="Fit the width").click()


def test_what_is_wrong_stands_above_it_the_cause_first(drawn: Drawn) -> None:
    rows = drawn.page.locator(".troubles li")
    expect(rows).to_have_count(3)
    for at, texts in enumerate(
        (("agent-7", "it could not be asked"), ("qdrant", "unhealthy"), ("faiss", "takes 1.3 s"))
    ):
        for text in texts:
            expect(rows.nth(at)).to_contain_text(text)


def test_a_service_lights_its_ways_and_leads_to_its_dashboard(drawn: Drawn) -> None:
    page, node = drawn.page, drawn.node("qdrant")
    node.hover()
    expect(page.locator(".near")).to_contain_text("qdrant unhealthy, 1/s, errors 30 %")
    callers = {it["from"] for it in drawn.mesh["edges"] if it["to"] == "qdrant"}
    lit = page.locator(".node.lit").count()
    assert len(callers) < lit < 70
    assert page.locator(".node.faint").count() == 70 - lit
    node.click()
    page.mouse.move(0, 0)
    way = page.locator(".near").get_by_role("link")
    at = next(it for it in drawn.mesh["services"] if it["name"] == "qdrant")["sidecars"][0]["admin"]
    expect(way).to_have_attribute("href", f"http://{at}/")
    node.press("Enter")  # and with the keyboard it is let go
    expect(node).to_have_attribute("aria-pressed", "false")


def test_it_stands_still_between_updates(drawn: Drawn) -> None:
    before = places(drawn.page)
    drawn.mesh = big_mesh(rate=250.0)
    drawn.told_again()
    drawn.node("faiss").hover()
    expect(drawn.page.locator(".near")).to_contain_text("250/s")
    assert places(drawn.page) == before
    drawn.page.mouse.move(0, 0)


def test_what_is_not_wanted_can_be_hidden(drawn: Drawn) -> None:
    page = drawn.page
    page.get_by_label("Show what has no sidecar").uncheck()
    expect(page.locator(".node")).to_have_count(64)
    expect(drawn.node("redis")).to_have_count(0)
    page.get_by_label("Show what has no sidecar").check()
    page.get_by_label("Only trouble").check()
    expect(drawn.node("qdrant")).to_have_count(1)
    assert 3 < page.locator(".node").count() < 50
    page.get_by_label("Only trouble").uncheck()
    expect(page.locator(".node")).to_have_count(70)


def test_names_are_text(drawn: Drawn) -> None:
    for name in HOSTILE:
        drawn.node(name).focus()
        expect(drawn.page.locator(".near strong")).to_have_text(name)
    assert drawn.page.locator("img").count() == 0
    assert drawn.serious() == []
    assert drawn.faults == []


def test_on_a_phone_trouble_comes_first_and_the_graph_can_be_read(browser: Browser, admin: str) -> None:
    with Drawn(browser, admin, viewport={"width": 390, "height": 800}, color_scheme="dark") as it:
        page = it.open("mesh", "Mesh")
        it.node("qdrant").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.querySelector('.node text').getBoundingClientRect().height") > 8
        expect(page.get_by_role("link", name="Mesh")).to_be_in_viewport()
        expect(page.locator(".troubles")).to_be_in_viewport()
        assert it.faults == []


def test_causes_come_before_what_follows_and_ways_in_belong_to_ways_out(drawn: Drawn) -> None:
    """Two requests that failed at their upstream, then three that met the breaker which these had opened."""
    at = "2026-01-01T00:00:0{}.000Z"
    requests = [
        {
            "request_id": f"r{number}", "direction": direction, "error": code,
            "upstream": "web" if direction == "inbound" else "tasks",
            "status": status, "cause": cause, "setting": setting, "began": at.format(number),
            "method": "GET", "path": "/", "attempts": 1, "duration_ms": 5.0, "kind": "request",
        }
        for number in reversed(range(5))
        for direction, code, status, cause, setting in (
            ("inbound", "", 502, "the app at 10.0.0.1:80 itself answered 502", None),
            ("outbound", "", 500, f"the app of tasks at 10.0.0.{number}:80 itself answered 500", None)
            if number < 2
            else ("outbound", "circuit_open", 503, f"{number} calls in a row failed", "upstreams.tasks"),
        )
    ]  # fmt: skip
    page = drawn.page
    answer = json.dumps({"remembered": 10, "requests": requests})
    page.route("**/why?limit=500", lambda route: route.fulfill(content_type="application/json", body=answer))
    drawn.open("failures", "Failures")
    rows = page.get_by_role("region", name="Causes").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("itself answered 500")
    expect(rows.nth(0)).to_contain_text("2 came in and failed with it")
    expect(rows.nth(0).get_by_role("link").first).to_have_attribute("href", "#/failures/r0")
    expect(rows.nth(1)).to_contain_text("follows")
    expect(rows.nth(1)).to_contain_text("calls in a row failed")
    expect(page.get_by_role("region", name="Requests, the newest first").locator("tbody tr")).to_have_count(5)
    page.unroute("**/why?limit=500")


def test_what_is_only_slow_is_told(drawn: Drawn) -> None:
    page = drawn.open("overview", "Overview")
    expect(page.get_by_role("status")).to_have_text("Live")
    page.evaluate(
        """async () => {
            const main = document.querySelector("script[type=module]").src;
            const { state, takeChange } = await import(main.replace("main.js", "store.js"));
            const tasks = { ...state.now.upstreams.tasks, p99_ms: 1300, error_rate: 0, rate: 5 };
            takeChange({ upstreams: { tasks } });
        }"""
    )
    expect(page.locator(".troubles li")).to_contain_text("one answer in a hundred takes 1.3 s or longer")


#: What ``stats.filters`` of an upstream with all policies may be, and what is said of it.
FILTERS: dict[str, dict[str, Any]] = {
    "retry": {
        "budget": {"left": 0.4, "ratio": 0.2, "min_per_second": 3.0}, "hedge": {"after_ms": 12.5, "won": 3, "lost": 4},
    },
    "bulkhead": {
        "limit": 17, "in_flight": 17, "level": 20, "latency_ms": 31.0,
        "waiting": {"critical": 0, "normal": 2, "low": 0}, "shed": {"critical": 0, "normal": 0, "low": 5},
    },
    "wait": {"waiting": 3, "max": 100, "under_trial": 1, "passed": 7, "timed_out": 2, "full": 0, "began": 9},
    "fallback": {
        "steps": [
            {"on": ["circuit_open", "5xx"], "by": "upstream", "upstream": "simple"}, {"on": ["5xx"], "by": "stale"},
        ],
        "answered": {"1": 9}, "stale": {"entries": 2, "bytes": 2048, "dropped": 0},
    },
    "rate_limit": {"shared": "local", "sidecars": 3, "keys": 12, "leased": 4},
    "another_packages": {"passed": 11, "words": ["a", "b"]},
}  # fmt: skip
TOLD = {
    "Retry budget": ["empty", "0.4 tries left; it grows by 20 % of the requests and 3/s"],
    "Second tries": ["after 13 ms; won 3, lost 4"],
    "Concurrency": [
        "full",
        "17 of 17 under way, found from a latency of 31 ms; waiting: normal 2",
        "since the start: low 5",
    ],
    "Waiting for it": ["some wait", "3 of 100; 1 under trial; passed 7, timed out 2"],
    "Fallback 1": ["was needed", "upstream simple on circuit-open, 5xx; answered 9 since the start"],
    "Fallback 2": ["not needed", "an answer kept from before on 5xx"],
    "Kept answers": ["2 answers, 2 KiB"],
    "Shared rate limit": ["Redis is away", "each sidecar counts for itself; 3 sidecars, 12 keys"],
    "another-packages": ["passed 11"],
}


def test_policies_say_what_they_are_at(drawn: Drawn) -> None:
    page = drawn.page

    def doctored(route: Route) -> None:
        answer = route.fetch()
        found = answer.json()
        found["stats"]["filters"] = FILTERS
        route.fulfill(response=answer, json=found)

    page.route("**/upstreams/tasks", doctored)
    drawn.open("upstreams/tasks", "tasks")
    table = page.get_by_role("region", name="Policies").locator("tbody tr")
    expect(table).to_have_count(len(TOLD))
    for name, texts in TOLD.items():
        row = table.filter(has=page.get_by_role("rowheader", name=name, exact=True))
        for text in texts:
            expect(row).to_contain_text(text)
    assert drawn.serious() == []
    page.unroute("**/upstreams/tasks")


def test_an_endpoint_leads_to_its_sidecars_own_dashboard(drawn: Drawn, tmp_path: Path) -> None:
    page = drawn.open("upstreams/tasks", "tasks")
    way = page.get_by_role("link", name="Dashboard of tasks")
    with page.expect_navigation():
        way.click()
    page.get_by_role("heading", level=1, name="Overview").wait_for()
    expect(page.locator(".brand")).to_have_text("tasks")
