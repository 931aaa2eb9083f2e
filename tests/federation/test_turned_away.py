"""Devices that cannot take part: they learn what to do, and the operator sees it."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from in_threads import run_around

from coordinator.ledger import open_ledger
from coordinator.server.loop import Server
from coordinator.settings import load_run
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.memory import MemoryBroker

DEVICES = ("pi-1", "pi-2", "small", "visitor")


def test_who_cannot_take_part_is_told_why_and_what_to_do_and_the_operator_sees_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = prepare_folders(
        "digits", tmp_path / "cache", tmp_path / "data", DEVICES, alpha=1.0, seed=1
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.toml").write_text(
        f'federation = "home"\ntask = "digits"\nevaluation = "{data["evaluation"]}"\n'
        'densities = [0.2]\nrounds = 2\nalgorithm = "erk"\nwait_for = 3\n'
        "[training]\nmax_steps = 2\n"
    )
    broker, task = MemoryBroker(), load_task("digits")
    agents = []
    for name in DEVICES:
        examples, board = load_partition(data[name]), load_board("raspberry_pi_4b_4gb")
        if name == "small":
            caps = msgspec.structs.replace(board.caps, ram_mib=20)
            board = msgspec.structs.replace(board, caps=caps)
        trains = "mine:task" if name == "visitor" else "digits"
        profile = msgspec.to_builtins(board)
        me = Identity(name, "home", trains, len(examples), profile)
        runner = TaskRunner(task, examples, "masked")
        agents.append(Agent(me, broker.connect, Journal(tmp_path / name), runner))
    ledger, settings = open_ledger(run), load_run(run / "run.toml")
    scored_on = task.eval_data(settings.evaluation)
    server = Server(settings, task, scored_on, ledger, broker.connect)
    with closing(ledger), caplog.at_level(logging.INFO):
        assert run_around(server, agents) == []
    told = [
        r.getMessage() for r in caplog.records if r.name.startswith("edge_sdk.agent")
    ]
    away = "this run trains digits, not mine:task: put task = 'digits' into the"
    assert any(f"the coordinator says: {away}" in one for one in told)
    assert any(
        "small: cannot take part" in one and "Raise the caps of its profile" in one
        for one in told
    )
    status = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", "status", str(run)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout
    assert re.search(
        rf"visitor: turned-away \d+ times, last in round \d: {away}", status
    )
    (row,) = [line for line in status.splitlines() if line.startswith("small ")]
    assert "needs 215 MiB of 20" in row
