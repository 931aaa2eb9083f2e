"""Log lines: where their run, round and device come from, and what a full disk does."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_sdk.terminal import log_about, log_from_now_on, log_to_file

log = logging.getLogger("coordinator.test")


@pytest.fixture(autouse=True)
def told() -> Iterator[None]:
    log.setLevel(logging.INFO)
    yield
    log_from_now_on(run=None, round=None, device=None)


def test_the_nearest_fact_stands_on_the_line_and_other_threads_keep_theirs(
    tmp_path: Path,
) -> None:
    with log_to_file(tmp_path / "log"):
        log_from_now_on(run="home", round=3)
        log.info("a")
        with log_about(device="pi-1"):
            log.info("b")
            log.info("c", extra={"device": "pi-2"})
            other = threading.Thread(target=log.info, args=("d",))
            other.start()
            other.join()
        log.info("e")
    log.info("f")  # the file is closed
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    found = [(x["message"], x["run"], x["round"], x["device"]) for x in lines]
    assert found == [
        ("a", "home", 3, None),
        ("b", "home", 3, "pi-1"),
        ("c", "home", 3, "pi-2"),
        ("d", "home", 3, None),
        ("e", "home", 3, None),
    ]


def test_a_full_disk_costs_log_lines_and_nothing_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with log_to_file(Path("/dev/full")):
        log.info("lost")
    assert "Logging error" not in capfd.readouterr().err
