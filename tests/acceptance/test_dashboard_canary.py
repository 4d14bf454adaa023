"""The canary's card of the dashboard in a real Chromium, before four real sidecars that judge one together."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from support.browser import Watched, chromium
from support.processes import App, Sidecar, ending, get, wait_for
from support.rollouts import ask, at, canary_of, shared_by

pytestmark = pytest.mark.costly

#: Of a desk, and of a phone.
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 780}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as it:
        yield it


@pytest.fixture(scope="module")
def sidecars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Sidecar]]:
    """Each has asked the old version forty times, and the new one ten times."""
    folder = tmp_path_factory.mktemp("card")
    with ending() as running:
        old, new = App(folder, "old"), App(folder, "new")
        running += [old, new]
        guard = {"min_requests": 1000}
        canary = {"steps": [20, 50], "each": "1h", "promote": "manual", "guard": guard}
        config = shared_by(f"directory://{folder / 'mesh'}", old.ready(), new.ready(), canary)
        found = [Sidecar(folder, config(name), name) for name in ("one", "two", "three", "four")]
        running += found
        for it in found:
            it.ready()
        wait_for(lambda: at("running", 20, *found), "it begins")
        for it in found:
            ask(it, "/", 50)
        wait_for(lambda: canary_of(found[0])["judged"]["requests"] == 40, "it hears of all")
        yield found


def card(page: Page) -> Locator:
    return page.get_by_role("region", name="Canary", exact=True)


def row(page: Page, name: str) -> list[str]:
    """The cells of a row of the evidence."""
    found = card(page).get_by_role("row").filter(has=page.get_by_role("rowheader", name=name))
    return found.get_by_role("cell").all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_everybody_can_read_it(
    browser: Browser, sidecars: list[Sidecar], scheme: str, viewport: dict[str, int]
) -> None:
    with Watched(browser, sidecars[0].admin, bypass_csp=True, color_scheme=scheme, viewport=viewport) as it:
        page = it.open("upstreams/tasks", "tasks")
        expect(card(page)).to_contain_text("running")
        expect(card(page)).to_contain_text("next gets 20 %, step 1 of 2 (20, 50)")
        expect(card(page)).to_contain_text("waits for 40 of at least 1000 requests")
        expect(card(page)).to_contain_text("of the others 0 of 160 requests failed")
        assert row(page, "4 sidecars")[:2] == ["40", "0"]
        assert row(page, "this one alone")[:2] == ["10", "0"]
        percents = re.compile(r"(< )?\d[\d.]* %")
        assert all(percents.fullmatch(cell) for cell in row(page, "4 sidecars")[2:])
        assert [bool(percents.fullmatch(cell)) for cell in row(page, "this one alone")[2:]] == [
            True,
            True,
            False,
            False,
        ]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no page is wider than its window"
        for button in ("Promote", "Pause", "Roll back"):
            expect(card(page).get_by_role("button", name=button)).to_be_enabled()
        assert it.serious() == []
        assert it.faults == []


def do(page: Page, button: str) -> None:
    """Press a button of the card, and once more where it asks whether that is meant."""
    card(page).get_by_role("button", name=button, exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=button, exact=True).click()
    expect(dialog).to_have_count(0)


def test_it_is_led_by_hand(browser: Browser, sidecars: list[Sidecar]) -> None:
    """Each button does in all sidecars what it says; what makes no sense cannot be pressed."""
    with Watched(browser, sidecars[0].admin, viewport=WIDE) as it:
        page = it.open("upstreams/tasks", "tasks")
        buttons = card(page).get_by_role("button")
        do(page, "Pause")
        expect(card(page)).to_contain_text("paused")
        expect(card(page)).to_contain_text("waits for an operator: it is paused")
        wait_for(lambda: at("paused", 20, *sidecars), "all pause")
        do(page, "Resume")
        wait_for(lambda: at("running", 20, *sidecars), "all go on")
        expect(buttons).to_have_text(["Promote", "Pause", "Roll back"])
        do(page, "Promote")
        expect(card(page)).to_contain_text("next gets 50 %, step 2 of 2")
        wait_for(lambda: at("running", 50, *sidecars), "all have the next step")
        do(page, "Roll back")
        expect(card(page)).to_contain_text("rolled back")
        wait_for(lambda: at("rolled_back", 0, *sidecars), "all roll back")
        expect(buttons).to_have_text(["Promote", "Begin anew", "Roll back"])
        expect(buttons.nth(0)).to_be_disabled()
        expect(buttons.nth(2)).to_be_disabled()
        expect(card(page).get_by_role("table")).to_have_count(0)
        do(page, "Begin anew")
        wait_for(lambda: at("running", 20, *sidecars), "all begin anew")
        assert it.faults == []


def test_what_it_cannot_do_it_says(browser: Browser, sidecars: list[Sidecar]) -> None:
    """Somebody else was faster."""
    with Watched(browser, sidecars[0].admin, viewport=WIDE) as it:
        page = it.open("upstreams/tasks", "tasks")
        page.route("**/canary/promote", lambda route: route.fulfill(
            status=409, content_type="application/json", body='{"error": "conflict", "message": "somebody was faster"}'
        ))  # fmt: skip
        card(page).get_by_role("button", name="Promote").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Promote").click()
        expect(dialog.get_by_role("alert")).to_contain_text("somebody was faster")
        page.keyboard.press("Escape")
        expect(card(page)).to_contain_text("next gets 20 %")
        assert get(f"{sidecars[0].admin}/upstreams/tasks")[1]["canary"]["phase"] == "running"
