"""The report of a run: one file, in a real browser, at every stage of a run."""

from __future__ import annotations

import base64
import hashlib
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from coordinator.cli import app
from coordinator.ledger import open_ledger
from coordinator.views.participation import participation
from coordinator.views.report import leave_report, write_report
from coordinator.views.report.charts import figures
from coordinator.views.round_view import RoundView
from coordinator.views.run_view import RunView, Settings
from coordinator.views.scores import ShownMetric
from edge_sdk.errors import StateError


def test_the_report_shows_what_the_run_did_without_asking_anybody(past, tab) -> None:
    path = past.folder / "models" / "density-0.05.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"a model")
    tab.goto(write_report(past.folder).as_uri())
    assert tab.inner_text(".state") == "round 3: 1 of 4 updates"
    tab.wait_for_selector("#plot-2 canvas")
    plots = "[...document.querySelectorAll('.plot')].map((box) => box.plot.data)"
    drawn = tab.evaluate(plots)
    assert [len(data) for data in drawn] == [3, 3, 3]  # x, and two lines
    assert drawn[0][0] == [1, 2]
    assert drawn[0][1:] == [pytest.approx([0.65, 0.75]), pytest.approx([0.8, 0.9])]
    assert "training.rate" not in tab.inner_text("main")  # long, and so folded up
    tab.click(".card:has(h2:text('Configuration')) summary")
    said = tab.inner_text("main")
    for expected in (
        "2 of 3",
        "90.00 %",
        "pi-0003",
        "its norm is not finite",
        "conv1.weight",
        "15 (15.00 %)",
        "4: 4.00 %, 2: 12.00 %, 0: 84.00 %",  # coverage of fc.weight
        "training.rate",
        hashlib.sha256(b"a model").hexdigest(),
    ):
        assert expected in said, expected
    assert "<b>more</b>" in said  # text of a device is never markup


def test_it_works_before_the_first_round_and_without_devices(
    tmp_path, tab, make_past
) -> None:
    past = make_past(tmp_path / "run", 0)
    tab.goto(write_report(past.folder).as_uri())
    said = tab.inner_text("main")
    for expected in (
        "No round has begun yet",
        "No device has sent a HELLO yet",
        "Nothing measured yet",
        "masks of this run are not drawn yet",
    ):
        assert expected in said


def test_it_has_no_accessibility_violation_in_light_and_dark(past, tab) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    path = write_report(past.folder)
    for scheme, width in (("light", 390), ("dark", 1400)):
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": width, "height": 900})
        tab.goto(path.as_uri())
        found = axe.run(tab)
        assert found.violations_count == 0, found.generate_report()


def test_nothing_in_it_is_fetched_and_only_its_own_scripts_run(past, plain_tab) -> None:
    path = write_report(past.folder)
    text = path.read_text(encoding="utf-8")
    asks = r"<(script|img|link|iframe)\b[^>]*\b(src|href)\b|@import"
    assert not re.search(asks, text)
    assert not re.search(r"url\(", text.partition("</style>")[0])
    policy = re.search(r'content-security-policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "script-src 'sha256-" in policy[1]
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", text, re.S)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()) for s in scripts]
    assert re.findall(r"'sha256-([^']*)'", policy[1]) == [d.decode() for d in digests]
    # What gets in, by whatever way, does not run.
    past_it = text.replace("<main>", "<main><script>document.title = 'run'</script>")
    path.write_text(past_it, encoding="utf-8")
    tab = plain_tab()
    tab.goto(path.as_uri())
    tab.wait_for_selector("#plot-0 canvas")
    assert tab.title() == "greenhouse: report of a run"


def test_a_name_that_would_end_a_script_is_only_a_name(past) -> None:
    evil = "</script><script>alert(1)</script><!--"
    for no in (1, 2):
        for density in (0.05, 0.2):
            past.ledger.record_score(no, density, {evil: 1.5})
    written = write_report(past.folder).read_text(encoding="utf-8")
    assert evil not in written
    assert "alert(1)" in written


def test_the_same_ledger_gives_the_same_bytes(past) -> None:
    first = write_report(past.folder).read_bytes()
    past.ledger.close()
    again = write_report(past.folder).read_bytes()
    assert again == first
    past.ledger = open_ledger(past.folder)  # the fixture closes it


def test_no_password_of_a_broker_is_mailed(past) -> None:
    settings = past.folder / "run.toml"
    with settings.open("a") as file:
        file.write('broker = "mqtt://me:swordfish@broker.example"\n')
    text = write_report(past.folder).read_text(encoding="utf-8")
    assert "mqtt://broker.example:1883" in text
    assert "swordfish" not in text


def test_the_command_writes_it_where_it_is_told(past, tmp_path) -> None:
    out = tmp_path / "elsewhere" / "mail.html"
    done = CliRunner().invoke(app, ["report", str(past.folder), "--output", str(out)])
    assert done.exit_code == 0
    assert done.output == f"wrote {out}\n"
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_without_a_run_is_said(tmp_path) -> None:
    with pytest.raises(StateError, match="holds no run yet"):
        write_report(tmp_path)
    leave_report(tmp_path)  # at the end of a run that never began: nothing
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_does_not_fail_a_run(past, caplog) -> None:
    (past.folder / "report.html").mkdir()
    leave_report(past.folder)
    assert "no report was written" in caplog.text


scores = st.dictionaries(
    st.sampled_from(["accuracy", "rmse", "loss"]), st.floats(), min_size=1
)


@given(
    rounds=st.lists(
        st.fixed_dictionaries(
            {
                "up_bytes": st.integers(0, 2**40),
                "down_bytes": st.integers(0, 2**40),
                "scores": st.none() | st.fixed_dictionaries({"0.1": scores}),
            }
        ),
        max_size=20,
    ),
    name=st.sampled_from(["accuracy", "rmse", "loss"]),
)
def test_every_figure_and_its_table_hold_each_finite_score_once(rounds, name) -> None:
    view = RunView(
        run=Settings("greenhouse", "digits", "flash", 20, [0.1]),
        **dict.fromkeys(("began", "ended", "open", "savings", "slow")),
        state="between rounds",
        rounds_done=0,
        metric=ShownMetric(name, is_share=False),
        rounds=[RoundView(no, **r) for no, r in enumerate(rounds, start=1)],
        devices=[],
        participation=participation([], {}, {}, []),
        refusals=[],
    )
    by_round, by_bytes, moved = figures(view)
    scored = [r for r in view.rounds if r.scores]
    wanted = [
        v if v is not None and math.isfinite(v) else None
        for v in (r.scores["0.1"].get(name) for r in scored)
    ]
    for figure in (by_round, by_bytes):
        assert list(figure.series["density 0.1"]) == wanted
        assert len(figure.rows) == len(figure.at) == len(scored)
        assert list(figure.at) == sorted(figure.at)
        assert figure.is_empty == all(v is None for v in wanted)
        assert len(figure.spec["series"]) == 1
    assert moved.is_empty


def test_shares_fill_a_row_from_left_to_right(past) -> None:
    text = write_report(past.folder).read_text(encoding="utf-8")
    bars = re.findall(r'<span class="bar"[^>]*>(.*?)</span>', text)
    assert len(bars) == 2 * 2 + 2  # a layer: two densities, and its coverage
    for bar in bars:
        widths = [float(w) for w in re.findall(r"width:([\d.]+)%", bar)]
        assert 0 < sum(widths) <= 100.01
    assert sum(float(w) for w in re.findall(r"width:([\d.]+)%", bars[2])) == (
        pytest.approx(100, abs=0.05)
    )
