"""A real run's log lines: run, round and device on each; shown, followed, and ended."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import patience
from screens import on_screen

from coordinator.server.log_file import LOG, Wanted, follow_log, keep_log, read_log
from edge_sdk.terminal import Exit
from edge_sdk.terminal.logs import FILE_BYTES

Make = Callable[..., Any]
KEYS = ["time", "level", "logger", "message", "run", "round", "device"]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coordinator.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(60),
    )


def test_every_line_of_a_real_run_names_run_round_and_device(
    federation: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASH_EDGE_LOG_FORMAT", "json")
    fleet = federation(rounds=20)  # on idle cores two end before `stop` has started
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    fleet.wait(lambda: fleet.rounds_done() >= 1, "the first round")
    assert run("stop", fleet.run).returncode == Exit.DONE
    assert fleet.wait_end() == Exit.DONE
    assert run("stop", fleet.run).returncode == Exit.STATE  # nobody is there any more
    fleet.start("coordinator", "resume", str(fleet.run), "--quiet")
    assert fleet.wait_end() == Exit.DONE
    fleet.close()

    for name in ("pi-1", "pi-2", "orin-1"):
        lines = read(fleet.folder / f"{name}.log")
        assert all(list(line)[:7] == KEYS for line in lines)
        told = [line for line in lines if line["logger"] != "edge_sdk.commands.options"]
        assert {(line["run"], line["device"]) for line in told} == {("test", name)}
        trained = {x["round"] for x in lines if x["message"].startswith("training")}
        assert trained >= {1, 2}
    shown, kept = read(fleet.folder / "coordinator.log"), read(fleet.run / LOG)
    for line in (*shown, *kept):
        assert list(line)[:7] == KEYS
        assert line["run"] == "test"
    about = [x for x in kept if re.match(r"(pi|orin)-\d", x["message"])]
    assert about
    assert all(line["message"].startswith(line["device"]) for line in about)
    assert {x["round"] for x in kept} >= {None, 0, 1, 2}
    again = max(at for at, x in enumerate(shown) if "plain MQTT" in x["message"])
    assert {x["level"] for x in shown[again:]} <= {"warning", "error"}  # --quiet
    # The file has it all; who still uploads as the run ends is named in brackets.
    ends = re.compile(r"done: 0/0 updates( \([a-z0-9-]+ \w+(, [a-z0-9-]+ \w+)*\))?")
    assert any(ends.fullmatch(x["message"]) for x in kept)

    only = run("logs", fleet.run, "--device", "pi-1", "--json").stdout.splitlines()
    assert only
    assert {json.loads(line)["device"] for line in only} == {"pi-1"}
    people = run("logs", fleet.run, "--round", "1").stdout
    assert re.search(r"^\d{4}-\d\d-\d\d [\d:]{8} INFO +coordinator\.", people, re.M)
    assert "round 2" not in people


def test_a_log_is_followed_over_a_change_of_files_until_ctrl_c(tmp_path: Path) -> None:
    log = tmp_path / LOG
    entry = {"time": "2026-01-05T10:00:01.500Z", "level": "info", "logger": "a"}
    with log.open("w") as file:
        file.writelines(json.dumps({**entry, "message": f"m{n}"}) + "\n" for n in "12")
        file.write('{"cut off')
    with on_screen("coordinator", "logs", tmp_path, "--follow", "-n", "1") as screen:
        screen.wait(lambda text: "a: m2" in text)
        log.rename(tmp_path / f"{LOG}.1")
        log.write_text(json.dumps({**entry, "message": "m3\x1b[2J"}) + "\n")
        screen.wait(lambda text: r"a: m3\x1b[2J" in text)
        screen.process.send_signal(2)
        assert screen.end() == Exit.DONE
    assert "m1" not in screen.text


def test_a_run_waits_for_a_broker_that_is_away_and_ends_when_told(
    federation: Make,
) -> None:
    fleet = federation(rounds=1)
    text = (fleet.run / "run.toml").read_text()
    url = f"mqtt://127.0.0.1:{fleet.port}"  # where nobody listens
    (fleet.run / "run.toml").write_text(text.replace("port =", f'broker = "{url}"\n#'))
    fleet.start("coordinator", "run", str(fleet.run))
    waits = "waiting for a link to the broker"
    fleet.wait(lambda: waits in fleet.logs(), "a word on the broker")
    assert f"no link to {url}: Connection refused" in fleet.logs()
    fleet.processes["coordinator"].terminate()
    assert fleet.wait_end() == Exit.DONE


def test_a_run_that_cannot_start_says_so_in_its_log(federation: Make) -> None:
    fleet = federation(rounds=1)
    text = (fleet.run / "run.toml").read_text()
    (fleet.run / "run.toml").write_text(
        text.replace(
            "port =", 'broker = "mqtts://127.0.0.1:1"\nbroker_ca = "none.pem"\n#'
        )
    )
    fleet.start("coordinator", "run", str(fleet.run))
    assert fleet.wait_end() == Exit.BROKER
    last = read(fleet.run / LOG)[-1]
    assert last["level"] == "error"
    assert "none.pem" in last["message"]
    assert last["help"]


def test_logs_and_stop_of_a_folder_without_a_run_are_refused(tmp_path: Path) -> None:
    done = run("logs", tmp_path)
    assert done.returncode == Exit.STATE
    assert "has no log yet" in done.stderr
    done = run("stop", tmp_path)
    assert done.returncode == Exit.STATE
    assert "no coordinator runs in" in done.stderr


def test_a_log_put_aside_between_reading_and_following_loses_no_line(
    tmp_path: Path,
) -> None:
    log, entry = tmp_path / LOG, {"level": "info", "logger": "a"}

    def line(no: int) -> str:
        return json.dumps({**entry, "message": f"m{no}"}) + "\n"

    log.write_text(line(1))
    past, place = read_log(tmp_path, Wanted())
    with log.open("a") as file:
        file.write(line(2))
    log.rename(tmp_path / f"{LOG}.1")
    log.write_text(line(3))
    rest = follow_log(tmp_path, Wanted(), place, over=lambda _: True)
    assert [x["message"] for x in (*past, *rest)] == ["m1", "m2", "m3"]


@pytest.mark.parametrize("away", [0, 1, 2])
def test_a_log_is_read_and_followed_while_one_file_is_away(
    tmp_path: Path, away: int
) -> None:
    """The writer renames its file first and opens a new one after that."""
    log, old = tmp_path / LOG, tmp_path / f"{LOG}.1"

    def line(no: int) -> str:
        return json.dumps({"level": "info", "logger": "a", "message": f"m{no}"}) + "\n"

    steps = [
        lambda: log.rename(old),
        lambda: log.write_text(line(2) + line(3)),
        lambda: None,
    ]
    log.write_text(line(1) + '{"cut off')
    for step in steps[:away]:
        step()
    past, place = read_log(tmp_path, Wanted())
    seen = [x["message"] for x in past]
    looks = iter(steps[away:])

    def over(_: float) -> bool:
        step = next(looks, None)
        if step is not None:
            step()
        return step is None

    seen += [x["message"] for x in follow_log(tmp_path, Wanted(), place, over)]
    assert seen == ["m1", "m2", "m3"]


def test_a_log_that_changes_between_the_opening_of_its_two_files_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, opened = tmp_path / LOG, Path.open
    log.write_text('{"level": "info", "message": "m1"}\n')

    def changing(path: Path, mode: str = "r") -> Any:
        file = opened(path, mode)
        if path == log:
            log.rename(tmp_path / f"{LOG}.1")
        return file

    monkeypatch.setattr(Path, "open", changing)
    assert [x["message"] for x in read_log(tmp_path, Wanted())[0]] == ["m1"]


def test_the_log_of_a_run_rotates_so_that_two_files_of_8_mib_hold_it(
    tmp_path: Path,
) -> None:
    assert FILE_BYTES == 8 << 20
    text = "x" * (1 << 20)
    with keep_log(tmp_path):
        for no in range(20):
            logging.getLogger("coordinator.test").warning("%d %s", no, text)
    sizes = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    assert set(sizes) == {LOG, f"{LOG}.1"}
    assert all(0 < size <= FILE_BYTES for size in sizes.values())
    kept = [int(x["message"].split()[0]) for x in read_log(tmp_path, Wanted())[0]]
    assert kept == [*range(kept[0], 20)]  # the newest, none missing between
