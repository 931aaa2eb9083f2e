"""The page's facts and its door, over HTTP against a real process."""

from __future__ import annotations

import json
import socket
import stat

import pytest
from databases import opened
from hypothesis import given
from hypothesis import strategies as st

from coordinator.ledger.device_rows import KINDS
from coordinator.views.layers import coverage
from coordinator.views.page import parse_page
from coordinator.views.source import RunSource
from edge_sdk.errors import SettingsError


def test_the_run_at_a_glance(past, serve) -> None:
    page = serve(past.folder)
    status, body, _ = page.get("api/run")
    facts = json.loads(body)
    assert status == 200
    assert facts["run"]["federation"] == "greenhouse"
    assert facts["rounds_done"] == 2
    assert facts["state"] == "round 3: 1 of 4 updates"
    assert [r["accepted"] for r in facts["rounds"]] == [4, 4, 1]
    assert facts["rounds"][0]["down_bytes"] == 4 * 500
    assert facts["rounds"][1]["scores"]["0.2"]["accuracy"] == pytest.approx(0.9)
    first = facts["devices"][0]
    assert (first["task"], first["online"], first["density"]) == (
        "accepted",
        True,
        0.05,
    )
    assert facts["devices"][1]["refused"] == 1


def test_a_device_a_round_and_the_warm_up(past, serve) -> None:
    page = serve(past.folder)
    device = json.loads(page.get("api/devices/pi-0001")[1])
    assert [t["round"] for t in device["tasks"]] == [3, 2, 1]
    assert device["tasks"][1]["peak_mib"] == 250.0
    assert device["refusals"][0]["why"] == "its norm is not finite"
    assert ["ram_mib", "900"] in device["profile"]
    second = json.loads(page.get("api/rounds/2")[1])
    assert second["round"]["deadline_s"] == 30.0
    fc = next(row for row in second["coverage"] if row["name"] == "fc.weight")
    assert fc["held"] == [[4, 40], [2, 120], [0, 840]]
    warm = json.loads(page.get("api/warm-up")[1])
    assert warm["layers"][0]["kept"] == {"0.05": 15, "0.2": 60}
    for missing in ("api/devices/nobody", "api/rounds/9"):
        answer = json.loads(page.get(missing)[1])
        assert set(answer) == {"missing", "help"}


def test_what_is_counted_as_refused_is_what_is_listed_as_refused(past) -> None:
    verdicts = (*KINDS, "rejected", "corrupt")
    for name in past.names[:2]:
        for verdict in verdicts:
            past.ledger.refuse(name, 2, verdict, "why")
    past.ledger.settle()
    facts = RunSource(past.folder).run().as_json()
    for device in facts["devices"][:2]:
        listed = [
            r
            for r in facts["refusals"]
            if r["device"] == device["name"] and r["kind"] == "refused"
        ]
        assert {r["verdict"] for r in listed} == {"rejected", "corrupt"}
        assert sum(r["count"] for r in listed) == device["refused"]


def test_only_who_has_the_token_sees_anything(past, serve) -> None:
    page = serve(past.folder)
    for path in ("api/run", "api/devices/pi-0001", "events", "files/run.toml"):
        assert page.get(path, cookie=None)[0] == 401
        assert page.get(path, cookie="wrong")[0] == 401
    status, body, headers = page.get("", cookie=None)
    assert status == 401
    assert "greenhouse" not in body
    assert "default-src 'none'" in headers["content-security-policy"]
    assert page.get("?token=wrong", cookie=None)[0] == 401
    mode = stat.S_IMODE((past.folder / "page.token").stat().st_mode)
    assert mode == 0o600


def test_another_sites_host_name_is_not_served(past, serve) -> None:
    page = serve(past.folder)
    assert page.get("api/run", Host="rebound.example")[0] == 421


def test_nothing_but_listed_files_can_be_had(past, serve) -> None:
    exports = past.folder / "exports"
    exports.mkdir()
    (exports / "density-0.05.onnx").write_bytes(b"model")
    (exports / "density-0.05.json").write_text(
        json.dumps({"findings": {"parity": {"max_relative": 2e-7}}})
    )
    (exports / "out.onnx").symlink_to("/etc/hostname")
    page = serve(past.folder)
    files = json.loads(page.get("api/exports")[1])["files"]
    assert [f["path"] for f in files] == [
        "exports/density-0.05.json",
        "exports/density-0.05.onnx",
    ]
    assert files[1]["checks"] == [["parity", "max_relative 2e-07"]]
    assert page.get("files/exports/density-0.05.onnx")[1] == "model"
    for path in ("run.toml", "page.token", "exports/out.onnx", "exports/../run.toml"):
        assert page.get(f"files/{path}")[0] == 404


def test_a_change_of_the_ledger_is_an_event(past, serve) -> None:
    page = serve(past.folder)
    stream = page.ask("events")
    assert stream.readline() == b"data: changed\n"
    past.accept("pi-0001", 3)
    state = ""
    while state != "round 3: 2 of 4 updates":  # the link gives up after 20 s
        assert stream.readline() in (b"data: changed\n", b"\n")
        state = json.loads(page.get("api/run")[1])["state"]


def test_a_page_before_the_run_begins_and_without_devices(tmp_path, serve) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    page = serve(folder)
    answer = json.loads(page.get("api/run")[1])
    assert "holds no run yet" in answer["missing"]


def test_a_run_without_devices_is_a_page_too(tmp_path, serve, make_past) -> None:
    past = make_past(tmp_path / "run", 0)
    page = serve(past.folder)
    facts = json.loads(page.get("api/run")[1])
    assert (facts["devices"], facts["rounds"]) == ([], [])
    assert "not drawn yet" in json.loads(page.get("api/warm-up")[1])["missing"]


def test_a_ledger_of_another_version_is_said(tmp_path, serve, make_past) -> None:
    past = make_past(tmp_path / "run", 1)
    with opened(past.folder / "ledger.sqlite") as db:
        db.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
    page = serve(past.folder)
    answer = json.loads(page.get("api/run")[1])
    assert "schema 1" in answer["missing"]
    assert answer["help"]


def test_a_port_that_is_taken_is_replaced_by_a_free_one(tmp_path) -> None:
    from coordinator.views.page.serve import _listen

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with _listen("127.0.0.1", port) as ours:
            assert ours.getsockname()[1] not in (0, port)


@pytest.mark.parametrize(
    "address", ["", "8080", "127.0.0.1:x", "127.0.0.1:70000", ":1"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="is not host:port"):
        parse_page(address)


@given(
    size=st.integers(1, 50),
    held=st.lists(st.integers(0, 50), min_size=1, max_size=8),
)
def test_coverage_counts_every_weight_once(size: int, held: list[int]) -> None:
    held = [min(h, size) for h in held]
    (row,) = coverage({"fc": size}, [{"fc": h} for h in held])
    assert sum(weights for _, weights in row.held) == size
    assert sum(d * weights for d, weights in row.held) == sum(held)
