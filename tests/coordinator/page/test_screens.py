"""Every page and the report as they look: three widths, two themes, runs of every kind.

What is measured is what a person would call broken: a page that scrolls sideways, words
that are cut, a chart's mark that lacks a character, a page without end, one half empty.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from scenes import SCENES

from coordinator.views.report import write_report

WIDTHS = {390: 844, 768: 1024, 1400: 900}
TALLEST = {390: 6000, 768: 5000, 1400: 4000}
REPORT_TALLEST = {390: 9000, 768: 6500, 1400: 5000}
NAMES = ("", "devices", "DEVICE", "rounds", "rounds/1", "warm-up", "exports")
# Every width and theme; scenes that differ in their charts alone, where charts do.
PAIRS = [(width, theme) for width in WIDTHS for theme in ("light", "dark")]
CHARTS = [(390, "dark"), (1400, "light")]
PLANS = dict.fromkeys(("perfect", "regression", "labels", "loss only"), CHARTS)
MEASURE = Path(__file__).with_name("measure.js").read_text(encoding="utf-8")


def _look(tab, *, tallest: int, least: float = 0.5, scene: str) -> None:
    tab.evaluate(MEASURE)
    frame = "() => new Promise((on) => requestAnimationFrame(() => setTimeout(on)))"
    tab.evaluate(frame)  # a chart follows its box in the next
    found = tab.evaluate("measurePage()")
    where = f"{scene}: {found}"
    assert found["wide"] <= 0, where
    assert found["out"] == [], where
    assert found["cut"] == [], where
    assert found["tall"] <= tallest, where
    assert found["right"] > 0.9, where
    assert found["bottom"] > least, where
    for chart in tab.evaluate("measureCharts()"):
        of = f"{scene}: {chart}"
        assert not any(chart["inked"]), of
        assert chart["fits"], of
        assert chart["room"] >= 8, of
        assert not chart["touching"], of
        texts = chart["y"]
        assert len(texts) >= 2, of
        assert len(set(texts)) == len(texts), of
        shares = [float(t.removesuffix(" %")) for t in texts if t.endswith("%")]
        assert all(0 <= share <= 100 for share in shares), of
        for text in chart["x"] + chart["y"]:
            if "iB" in text:  # steps are powers of two: eighths of a unit at most
                assert (8 * float(text.split()[0])).is_integer(), of


@pytest.fixture
def served(tmp_path, serve):
    """A scene's folder and its page; the ledger is closed at the end."""
    made = []

    def start(scene: str):
        past = SCENES[scene](tmp_path / "run")
        made.append(past)
        return past, serve(past.folder)

    yield start
    for past in made:
        past.ledger.close()


@pytest.mark.parametrize("scene", SCENES)
def test_no_page_is_cut_scrolls_sideways_or_stands_half_empty(
    served, tab, scene
) -> None:
    past, page = served(scene)
    tab.goto(f"{page.url}?token={page.token}")
    for width, theme in PLANS.get(scene, PAIRS):
        tab.set_viewport_size({"width": width, "height": WIDTHS[width]})
        tab.emulate_media(color_scheme=theme)
        for name in NAMES:
            if name == "DEVICE" and not past.names:
                continue
            target = f"devices/{past.names[-1]}" if name == "DEVICE" else name
            tab.goto(f"{page.url}#/{target}")
            tab.wait_for_selector(f"#view[data-shown='#/{target}']")
            # A list of few ends where it ends; the overview fills its screen.
            where = f"{scene} {width} {theme} /{name}"
            least = 0.25 if name else 0.5
            _look(tab, tallest=TALLEST[width], least=least, scene=where)


def test_a_page_without_a_run_says_what_to_do(tmp_path, serve, tab) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    page = serve(folder)
    tab.goto(f"{page.url}?token={page.token}")
    for width, height in WIDTHS.items():
        tab.set_viewport_size({"width": width, "height": height})
        for name in ("", "devices", "warm-up", "exports", "nowhere"):
            tab.goto(f"{page.url}#/{name}")
            tab.wait_for_selector(f"#view[data-shown='#/{name}']")
            _look(tab, tallest=height, least=0.1, scene=f"none {width} /{name}")
        tab.goto(f"{page.url}#/")
        tab.wait_for_selector("#view :text('flash-coordinator run')")


@pytest.mark.parametrize("scene", SCENES)
def test_no_report_is_cut_scrolls_sideways_or_stands_half_empty(
    tmp_path, tab, scene
) -> None:
    past = SCENES[scene](tmp_path / "run")
    path = write_report(past.folder)
    past.ledger.close()
    for width, theme in PLANS.get(scene, PAIRS):
        tab.set_viewport_size({"width": width, "height": WIDTHS[width]})
        tab.emulate_media(color_scheme=theme)
        tab.goto(path.as_uri())
        _look(
            tab, tallest=REPORT_TALLEST[width], scene=f"{scene} {width} {theme} report"
        )


def test_the_report_shows_its_figures_as_tables_without_a_script(
    tmp_path, plain_tab
) -> None:
    past = SCENES["ended"](tmp_path / "run")
    path = write_report(past.folder)
    past.ledger.close()
    tab = plain_tab(java_script_enabled=False)
    tab.goto(path.as_uri())
    figures = tab.locator("figure")
    assert figures.count() == 3
    for place in range(3):
        rows = figures.nth(place).locator("tbody tr")
        assert rows.count() == 12
        assert rows.first.is_visible()
    assert "92.62 %" in figures.nth(0).inner_text()
    assert "420.0 KiB" in figures.nth(2).inner_text()
    assert not tab.locator("#theme").is_visible()  # nothing that would do nothing


def test_the_theme_can_be_chosen_and_stays(served, tab) -> None:
    _, page = served("middle")
    tab.emulate_media(color_scheme="light")
    tab.goto(f"{page.url}?token={page.token}")
    tab.wait_for_selector(".plot canvas")
    ground = "getComputedStyle(document.body).backgroundColor"
    stroke = "document.querySelector('.plot').plot.axes[0].stroke()"
    light = tab.evaluate(ground), tab.evaluate(stroke)
    tab.click("#theme")  # light, as it is
    tab.click("#theme")
    assert tab.inner_text("#theme") == "Theme: dark"
    dark = tab.evaluate(ground), tab.evaluate(stroke)
    assert dark[0] != light[0]
    assert dark[1] != light[1]  # a chart has no style sheet: it was drawn anew
    tab.reload()
    tab.wait_for_selector(".plot canvas")
    assert (tab.evaluate(ground), tab.evaluate(stroke)) == dark
    tab.click("#theme")
    assert (tab.evaluate(ground), tab.evaluate(stroke)) == light


def test_a_long_list_is_paged_found_and_stays_where_it_was(served, tab) -> None:
    past, page = served("many")
    tab.set_viewport_size({"width": 1400, "height": 900})
    tab.goto(f"{page.url}?token={page.token}")
    tab.goto(f"{page.url}#/devices")
    tab.wait_for_selector(".pages:text('1 to 25 of 200')")
    tab.click("button:text('Next')")
    tab.wait_for_selector(".pages:text('26 to 50 of 200')")
    past.ledger.note(past.names[30], "the page changes under its reader")
    past.ledger.settle()
    tab.wait_for_selector("td:has-text('changes under its reader')")
    assert tab.inner_text(".pages") == "26 to 50 of 200"
    tab.fill("input[type=search]", "bay-199")
    tab.wait_for_selector("a:has-text('bay-199')")
    assert tab.locator("tbody tr").count() == 1
    past.ledger.note(past.names[199], "again")
    past.ledger.settle()
    tab.wait_for_selector("td:has-text('again')")
    assert tab.input_value("input[type=search]") == "bay-199"
    assert tab.evaluate("document.activeElement.type") == "search"
    tab.fill("input[type=search]", "nowhere")
    tab.wait_for_selector("#view :text('No match')")


def test_everything_of_a_phone_can_be_reached_and_read(served, tab) -> None:
    past, page = served("many")
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.goto(f"{page.url}?token={page.token}")
    tab.click("nav >> text=Exports")  # it was off the screen
    tab.wait_for_selector("h1:text('Exports')")
    tab.goto(f"{page.url}#/devices/{past.names[0]}")
    tab.wait_for_selector("dt:text-is('ram_mib')")
    value = tab.locator(".pairs div", has=tab.locator("dt:text-is('ram_mib')"))
    box = value.locator("dd").bounding_box()
    assert box is not None
    assert value.locator("dd").inner_text() == "391"
    assert box["x"] + box["width"] <= 390
    assert (
        "clipped" not in tab.locator(".card", has_text="Refused updates").inner_text()
    )
    assert "accepted, bounded" in tab.inner_text("#view")
    tab.goto(f"{page.url}#/devices")
    tab.wait_for_selector("td >> nth=0")
    row = tab.locator("tbody tr").first
    named = [t for t in row.locator("td").all() if t.is_visible()]
    assert len(named) >= 8  # all that a desktop shows, each with its name
    assert all(t.get_attribute("data-label") for t in named)


def test_the_overview_after_the_end_says_when_what_and_what_next(served, tab) -> None:
    _, page = served("ended")
    tab.goto(f"{page.url}?token={page.token}")
    tab.wait_for_selector("h2:text('Done: next step')")
    said = tab.inner_text("#view")
    for expected in (
        *("flash-export build", "flash-coordinator deliver", "began", "ended", "took"),
        *("12 of 12", "94.62 %", "18x fewer", "2.7x less", "4 of 4 devices"),
    ):
        assert expected in said, expected
    values = tab.locator(".facts dd:not(.more)").all_inner_texts()
    assert "-" not in [v.strip() for v in values]
    tab.click("text=Open the report")
    tab.wait_for_selector("h1:text('Report of a run')")
    tab.wait_for_selector(".plot canvas")


def test_the_report_on_the_page_is_kept_from_its_facts_and_cookie(
    served, plain_tab
) -> None:
    _, page = served("ended")
    tab = plain_tab()
    tab.goto(f"{page.url}?token={page.token}")
    tab.goto(f"{page.url}report.html")
    tab.wait_for_selector(".plot canvas")
    fetched = "fetch('api/run').then(() => 'read', () => 'refused')"
    assert tab.evaluate(fetched) == "refused"
    assert tab.evaluate("window.origin") == "null"
