"""A log that a child writes is kept small from outside, and the child goes on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from coordinator.processes.child_log import keep_small

WRITER = """
import sys, time
for number in range(40):
    sys.stderr.write(f"line {number:04d} " + "x" * 90 + "\\n")
    sys.stderr.flush()
    time.sleep(0.005)
"""


def test_a_log_that_its_child_writes_on_is_emptied_and_goes_on_at_its_start(
    tmp_path: Path,
) -> None:
    log = tmp_path / "child.log"
    with log.open("ab") as sink:
        child = subprocess.Popen([sys.executable, "-c", WRITER], stderr=sink)
    while child.poll() is None:
        keep_small(log, 1000)
        time.sleep(0.002)
    keep_small(log, 1000)
    assert log.stat().st_size <= 1000
    aside = tmp_path / "child.log.1"
    assert 0 < aside.stat().st_size < 4100
    assert b"\x00" not in log.read_bytes() + aside.read_bytes()  # no hole at its start
    assert (aside.stat().st_mode & 0o777) == 0o600


def test_a_log_that_is_small_or_not_there_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    assert keep_small(log, 10) is False
    log.write_bytes(b"1234567890")
    assert keep_small(log, 10) is False
    assert log.read_bytes() == b"1234567890"
    assert keep_small(log, 9) is True
    assert (log.read_bytes(), (tmp_path / "child.log.1").read_bytes()) == (
        b"",
        b"1234567890",
    )
    (tmp_path / "child.log.1").unlink()
    (tmp_path / "child.log.1").mkdir()  # cannot be put aside: emptied all the same
    log.write_bytes(b"1234567890")
    assert keep_small(log, 9) is True
    assert log.read_bytes() == b""
