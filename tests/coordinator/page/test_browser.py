"""The page in a real headless browser: it loads, follows the run, and can be used."""

from __future__ import annotations

import pytest

PAGES = ("", "devices", "devices/pi-0001", "rounds", "rounds/2", "warm-up", "exports")


def _open(tab, page, hash_: str = "") -> None:
    tab.goto(f"{page.url}?token={page.token}")
    tab.goto(f"{page.url}#/{hash_}")
    tab.wait_for_selector("#view h1")


def test_every_page_shows_what_the_run_did(past, serve, tab) -> None:
    page = serve(past.folder)
    _open(tab, page)
    assert tab.inner_text("#state") == "round 3: 1 of 4 updates"
    assert "greenhouse" in tab.inner_text("#run")
    tab.wait_for_selector(
        "#view dd :text-matches('^in [1-4][0-9][0-9] s$')"
    )  # the deadline
    assert tab.locator(".plot canvas").count() == 3
    assert tab.locator(".fleet a").count() == 4
    tab.click('.fleet a[href="#/devices/pi-0001"]')
    tab.wait_for_selector("h1:text('pi-0001')")
    assert "its norm is not finite" in tab.inner_text("#view")
    assert "<b>more</b>" in tab.inner_text("#view")  # text of a device is never markup
    for name, expected in (
        ("devices", "pi-0003"),
        ("rounds", "90.00 %"),
        ("rounds/2", "fc.weight"),
        ("warm-up", "conv1.weight"),
        ("exports", "No model has been deployed yet"),
        ("exports", "flash-export build"),
        ("nowhere", "No such page"),
    ):
        tab.goto(f"{page.url}#/{name}")
        tab.wait_for_selector(f"#view :text('{expected}')")


def test_an_accepted_update_shows_without_a_reload(past, serve, tab) -> None:
    page = serve(past.folder)
    _open(tab, page)
    past.accept("pi-0001", 3)
    tab.wait_for_selector("#state:text('round 3: 2 of 4 updates')")
    # Focus and opened tables stay where they were when the page changes under them.
    tab.click("summary >> nth=0")
    tab.focus('.fleet a[href="#/devices/pi-0002"]')
    past.accept("pi-0002", 3)
    tab.wait_for_selector("#state:text('round 3: 3 of 4 updates')")
    assert tab.evaluate("document.activeElement.getAttribute('href')") == (
        "#/devices/pi-0002"
    )
    assert tab.locator("details[open]").count() == 1


def test_no_page_has_an_accessibility_violation(past, serve, tab) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = serve(past.folder)
    for scheme, width in (("light", 1400), ("dark", 390)):  # a phone has other roles
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": width, "height": 900})
        _open(tab, page)
        for name in PAGES:
            tab.goto(f"{page.url}#/{name}")
            tab.wait_for_selector(f"#view[data-shown='#/{name}']")
            found = axe.run(tab)
            assert found.violations_count == 0, found.generate_report()


def test_it_can_be_used_with_the_keyboard_alone(past, serve, tab) -> None:
    page = serve(past.folder)
    tab.goto(f"{page.url}?token={page.token}")
    tab.wait_for_selector("#view h1")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to content"
    for _ in range(3):  # overview, devices, rounds
        tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("h1:text('Warm-up')")
    assert tab.evaluate("document.activeElement.id") == "view"


def test_the_page_before_the_run_turns_into_the_run(tmp_path, serve, tab, make_past):
    folder = tmp_path / "run"
    folder.mkdir()
    page = serve(folder)
    tab.goto(f"{page.url}?token={page.token}")
    tab.wait_for_selector("#view :text('holds no run yet')")
    make_past(folder, 2)
    tab.wait_for_selector("#state:text('between rounds')")


def test_logging_in_with_the_form(past, serve, plain_tab) -> None:
    page = serve(past.folder)
    tab = plain_tab()
    tab.goto(page.url)
    tab.fill("#token", "wrong")
    tab.click("button")
    tab.wait_for_selector("[role=alert]")
    tab.fill("#token", page.token)
    tab.click("button")
    tab.wait_for_selector(".fleet")
