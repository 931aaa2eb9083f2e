"""A coordinator on a real terminal, and what its doctor says of a run's folder."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from past import Past
from patience import patience
from rich.cells import cell_len
from screens import on_screen

from coordinator.ledger import is_held, read_ledger
from edge_sdk.terminal import Exit

Make = Callable[..., Any]


def doctor(folder: object, *more: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", "doctor", str(folder), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(120),
    )
    found = {check["name"]: check for check in json.loads(done.stdout)}
    for check in found.values():
        assert bool(check["fix"]) == (check["status"] == "problem"), check
    return done.returncode, found


def test_the_live_table_fits_80_columns_and_log_lines_stand_above_it(
    federation: Make,
) -> None:
    fleet = federation(rounds=1)
    with on_screen("coordinator", "run", fleet.run, cwd=fleet.folder) as screen:
        screen.wait(lambda text: "waiting for 3 devices" in text, 120)
        fleet.start_devices()
        assert screen.end(150) == Exit.DONE
    shown = "\n".join(screen.lines)
    assert re.search(r"^ done +rounds 1/1 done *$", shown, re.MULTILINE), shown
    assert re.search(r"^orin-1 .* 0\.4 .* \d+\.\d *$", shown, re.MULTILINE), shown
    assert re.search(r"INFO +coordinator.server.wiring: broker \(\w+\): mqtt:", shown)
    table = [line for line in screen.lines if re.match(r"(device|pi-\d|orin-1) ", line)]
    assert table
    assert max(map(cell_len, table)) <= 80
    assert (
        "coordinator.views.terminal.display:" not in screen.text
    )  # the table says it already
    assert (
        "coordinator.views.terminal.display"
        in (fleet.run / "coordinator.jsonl").read_text()
    )
    ledger = read_ledger(fleet.run)
    (_, one), deadline = ledger.round_history(), ledger.deadline_of(1)
    ledger.close()
    assert deadline is not None  # what `status` counts down to while a round is open
    assert one["opened"] < deadline


def test_the_doctor_finds_a_run_well_before_and_after_it(federation: Make) -> None:
    fleet = federation(rounds=1)
    code, found = doctor(fleet.run)
    assert code == Exit.DONE
    assert found["task"]["status"] == "PASS"
    assert found["ledger"]["detail"] == "the run has not begun"
    assert str(fleet.port) in found["broker"]["detail"]
    past = Past(fleet.folder / "past", devices=2)
    past.hello()
    (past.folder / "run.toml").write_text((fleet.run / "run.toml").read_text())
    code, found = doctor(past.folder)
    assert code == Exit.DONE
    assert found["ledger"]["detail"] == (
        "0 of 1 rounds done, 2 devices known, its coordinator runs"
    )
    past.ledger.put("schema", 3)
    past.ledger.close()
    code, found = doctor(past.folder)
    assert code == Exit.FOUND
    assert "has schema 3" in found["ledger"]["detail"]


def test_the_doctor_names_what_is_in_the_way(federation: Make) -> None:
    fleet = federation(rounds=1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", fleet.port))
        other.listen()
        code, found = doctor(fleet.run)
    assert code == Exit.FOUND
    assert found["broker"]["detail"] == f"port {fleet.port} is taken by another program"
    text = (fleet.run / "run.toml").read_text()
    (fleet.run / "run.toml").write_text(
        text.replace("port =", 'broker = "mqtt://127.0.0.1:1"\n#')
        .replace('/evaluation"', '/pi-1"')
        .replace("rounds = 1", 'rounds = 1\naddress = "no.such.host.invalid"')
    )
    code, found = doctor(fleet.run)
    assert code == Exit.FOUND
    assert "no MQTT broker answers at mqtt://127.0.0.1:1" in found["broker"]["detail"]
    assert "holds no eval.npz" in found["task"]["detail"]
    assert "is no address" in found["address"]["detail"]
    code, found = doctor(fleet.folder / "nowhere")
    assert code == Exit.FOUND
    assert "run.toml does not exist" in found["settings"]["detail"]


def test_a_brokers_port_that_is_taken_is_named_and_nothing_is_left_running(
    federation: Make,
) -> None:
    fleet = federation(rounds=1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", fleet.port))
        other.listen()
        fleet.start("coordinator", "run", str(fleet.run))
        assert fleet.wait_end() == Exit.BROKER
    said = fleet.logs()
    assert str(fleet.port) in said.split("error: ")[1]
    assert "\nhelp: " in said
    assert "Traceback" not in said
    assert not is_held(fleet.run)
