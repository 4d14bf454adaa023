"""The dashboard in a real Chromium, before a real sidecar with real failures behind it."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from support.browser import Watched, chromium
from support.deadletters import prepare
from support.processes import App, Sidecar, ending, free_port, get

pytestmark = pytest.mark.costly

#: What somebody might call a thing in order to become part of a page.
HOSTILE = "<img src=x onerror=alert(1)>"
#: Bytes over the wire of everything that the first page needs.
BUDGET = 150_000

#: The path of each page, and its heading.
PAGES = {
    "overview": "Overview",
    "upstreams": "Upstreams",
    "upstreams/gone": "gone",
    "failures": "Failures",
    "amqp": "AMQP",
    "amqp/rabbitmq/dead-letters": "Dead letters of rabbitmq",
    "queue": "HTTP queue",
    "mesh": "Mesh",
    "configuration": "Configuration",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as it:
        yield it


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """One with a token, an app, an upstream that is well and one that is not."""
    folder = tmp_path_factory.mktemp("dashboard")
    prepare(folder / "spool", ["ai.first", f"ai.{HOSTILE}", "ai.last"])
    with ending() as running:
        app = App(folder, "tasks")
        running.append(app)
        config = {
            "service": {"name": "tasks", "app": f"127.0.0.1:{app.port}"},
            "admin": {"bind": "127.0.0.1:0", "token": "a-token-for-tests"},
            "inbound": {"bind": "127.0.0.1:0"},
            "upstreams": {
                "well": {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{app.port}"]},
                "rabbitmq": {
                    "bind": "127.0.0.1:0",
                    "protocol": "amqp",
                    "endpoints": [f"127.0.0.1:{free_port()}"],
                    "amqp": {
                        "credentials": {"username": "guest", "password": "guest"},
                        "spool": {"path": str(folder / "spool")},
                    },
                },
                "gone": {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{free_port()}"]},
            },
        }
        found = Sidecar(folder, config)
        running.append(found)
        app.ready()
        found.ready()
        for name in ("well", "gone", "tasks"):
            for _ in range(3):
                get(f"http://127.0.0.1:{found.port(name)}/{HOSTILE.replace(' ', '%20')}")
        for mode in ("open", "auto"):
            body = json.dumps({"reason": f"moved {HOSTILE}"}).encode()
            asked = urllib.request.Request(f"{found.admin}/upstreams/well/breaker/{mode}", body, method="POST")
            asked.add_header("X-Sidecar-Token", "a-token-for-tests")
            urllib.request.urlopen(asked).close()
        yield found


@pytest.fixture(scope="module")
def wide(browser: Browser, sidecar: Sidecar) -> Iterator[Watched]:
    """A page that has the token, for all tests that look at one."""
    with Watched(browser, sidecar.admin, bypass_csp=True) as it:
        it.open()
        it.page.get_by_role("textbox", name="Token").fill("a-token-for-tests")
        it.page.get_by_role("button", name="Go on").click()
        yield it


def test_the_token_is_asked_for_once(browser: Browser, sidecar: Sidecar) -> None:
    with Watched(browser, sidecar.admin) as it:
        page = it.open()
        field = page.get_by_role("textbox", name="Token")
        expect(field).to_be_focused()
        expect(page.get_by_role("status")).to_have_text("Wants its token")
        field.fill("wrong")
        field.press("Enter")
        page.get_by_text("That was not the token").wait_for()
        field.fill("a-token-for-tests")
        field.press("Enter")
        expect(page.get_by_role("status")).to_have_text("Live")
        expect(page.get_by_role("row").filter(has_text="gone").first).to_contain_text("unhealthy")
        page.reload()
        expect(page.get_by_role("status")).to_have_text("Live")
        expect(field).to_have_count(0)
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        # That the token is needed is the only thing that the console may say.
        assert [fault for fault in it.faults if "401" not in fault] == []
        assert 0 < sum(it.fetched.values()) < BUDGET


@pytest.mark.parametrize("path", PAGES)
def test_everybody_can_use_each_page(wide: Watched, path: str) -> None:
    wide.open(path, PAGES[path])
    wide.page.emulate_media(color_scheme="light")
    assert wide.serious() == []
    wide.page.emulate_media(color_scheme="dark")
    assert wide.serious("color-contrast") == []


def test_a_breaker_is_held_with_a_reason(wide: Watched) -> None:
    page = wide.open("upstreams/well", "well")
    breaker = page.get_by_role("region", name="Circuit breaker")
    breaker.get_by_role("button", name="Hold open").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Hold open").click()
    expect(dialog).to_be_visible()  # it asks why
    assert wide.serious() == []
    dialog.get_by_label("Why").fill(f"moving {HOSTILE}")
    dialog.get_by_label("For how long").select_option("1 hour")
    dialog.get_by_role("button", name="Hold open").click()
    expect(dialog).to_have_count(0)
    expect(breaker).to_contain_text(re.compile(r"held open by dashboard, for (60 min|1 h 0 min), until \d\d:\d\d:"))
    expect(breaker).to_contain_text(f"moving {HOSTILE}")
    expect(breaker.get_by_role("button", name="Hold open")).to_be_focused()
    breaker.get_by_role("button", name="Release").click()
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    breaker.get_by_role("button", name="Release").click()
    dialog.get_by_role("button", name="Release").click()
    expect(breaker).to_contain_text("by itself")


def test_a_failure_has_its_story(wide: Watched) -> None:
    page = wide.open("failures", "Failures")
    causes = page.get_by_role("region", name="Causes, the most frequent first; then what follows from them")
    row = causes.get_by_role("row").filter(has_text="refused the connection").first
    row.get_by_role("link").first.click()
    page.get_by_role("heading", level=1, name="One request").wait_for()
    expect(page.locator(".cause")).to_contain_text("refused the connection")
    expect(page.locator("main")).to_contain_text("GET /<img")
    expect(page.get_by_role("region", name="What happened, in order")).to_contain_text("refused")


def test_dead_letters_are_looked_at_and_dropped(wide: Watched) -> None:
    page = wide.open("amqp", "AMQP")
    page.get_by_role("link", name="Look at them").click()
    page.get_by_role("heading", level=1, name="Dead letters of rabbitmq").wait_for()
    rows = page.get_by_role("row").filter(has_text="ai.")
    expect(rows).to_have_count(3)
    rows.filter(has_text="ai.first").get_by_role("button", name="Drop").click()
    page.get_by_role("dialog").get_by_role("button", name="Drop").click()
    expect(rows).to_have_count(2)
    rows.filter(has_text=HOSTILE).get_by_role("link").click()
    expect(page.locator("pre")).to_contain_text("<b>bold</b>")
    page.get_by_role("link", name="All dead letters").click()
    page.get_by_role("button", name="Replay all").click()
    page.get_by_role("dialog").get_by_role("button", name="Replay all").click()
    expect(page.get_by_text("There are no dead letters.")).to_be_visible()


def test_another_configuration_is_rehearsed(wide: Watched) -> None:
    page = wide.open("configuration", "Configuration")
    field = page.get_by_role("textbox", name="A configuration")
    page.get_by_role("button", name="Rehearse").click()
    page.get_by_role("row").filter(has_text="well").first.wait_for()
    page.get_by_text("agree with what happened").wait_for()
    field.fill("service: {name: tasks}\nupstream: {}")
    page.get_by_role("button", name="Rehearse").click()
    expect(page.get_by_role("alert")).to_contain_text("upstream")
    wide.faults[:] = [fault for fault in wide.faults if "422" not in fault]  # the console tells of it


def test_what_others_say_is_text(wide: Watched) -> None:
    """A reason, a routing key; a picture would have been asked for."""
    for path in ("overview", "upstreams/well", "failures"):
        wide.open(path, PAGES.get(path, "well"))
        expect(wide.page.get_by_text(HOSTILE).first if path != "failures" else wide.page.locator("h1")).to_be_visible()
        assert wide.page.locator("img").count() == 0
    assert not [path for path in wide.fetched if path.endswith("/x")]


def test_the_menu_moves_the_focus(wide: Watched) -> None:
    page = wide.open("overview", "Overview")
    page.get_by_role("navigation").get_by_role("link", name="Upstreams").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    expect(page).to_have_title("Upstreams · tasks · sidecar")
    expect(page.get_by_role("link", name="Upstreams")).to_have_attribute("aria-current", "page")


def test_without_javascript_the_tables_are_there(browser: Browser, sidecar: Sidecar) -> None:
    with Watched(browser, sidecar.admin, java_script_enabled=False) as it:
        page = it.open()
        expect(page.get_by_role("link", name="gone", exact=True)).to_be_visible()
        expect(page.get_by_text("need the admin token")).to_be_visible()
        assert it.faults == []


def test_a_lost_line_is_shown_and_found_again(browser: Browser, sidecar: Sidecar) -> None:
    with Watched(browser, sidecar.admin) as it:
        it.page.add_init_script("sessionStorage.setItem('sidecar.token', 'a-token-for-tests')")
        page = it.open()
        expect(page.get_by_role("status")).to_have_text("Live")
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("status")).to_have_text("Paused")
        it.context.set_offline(True)
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_role("status")).to_have_text("Line lost")
        it.context.set_offline(False)
        expect(page.get_by_role("status")).to_have_text("Live")


def test_nothing_was_wrong(wide: Watched) -> None:
    """With any of the pages above."""
    assert [fault for fault in wide.faults if "401" not in fault] == []
