"""Calls of this project's functions from an update's last packet to its commit.

Run from the root of the project:
    python tests/bench/bench_calls.py [--all] [--json FILE]

One device, one round, the broker in memory. Only the coordinator's thread is traced:
from the packet with the update's last chunk to the COMMIT that makes it durable,
without other messages (a status) that share this commit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import FrameType

import msgspec

from coordinator.ledger import open_ledger
from coordinator.protocol.events import Item
from coordinator.server.loop import Server
from coordinator.settings import RunSettings, TrainingSettings
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.memory import MemoryBroker

ROOT = Path(__file__).resolve().parents[2]
OURS = ("coordinator", "edge_sdk", "device_profiles")


class Trace:
    """Counts the calls of this project's functions on one thread."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            name = path.relative_to(ROOT)
            if name.parts[0] in OURS:
                self.calls[str(name), frame.f_code.co_name] += 1

    @property
    def files(self) -> Counter[str]:
        """Calls by file."""
        found = Counter[str]()
        for (file, _), count in self.calls.items():
            found[file] += count
        return found


def traced_update(folder: Path) -> Trace:
    """Runs one round of one device; traces how its update is accepted."""
    data = prepare_folders(
        "digits", folder / "cache", folder / "data", ["pi-1"], alpha=1.0, seed=1
    )
    settings = RunSettings(
        federation="calls",
        task="digits",
        evaluation=data["evaluation"],
        densities=[0.1],
        rounds=1,
        wait_for=1,
        algorithm="pdst",
        training=TrainingSettings(max_steps=2),
    )
    broker, trace, task = MemoryBroker(), Trace(), load_task("digits")
    examples = load_partition(data["pi-1"])
    profile = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
    agent = Agent(
        Identity("pi-1", "calls", "digits", len(examples), profile),
        broker.connect,
        Journal(folder / "pi-1"),
        TaskRunner(task, examples, "masked"),
    )
    with closing(open_ledger(folder / "run")) as ledger:
        scored = task.eval_data(settings.evaluation)
        server = Server(settings, task, scored, ledger, broker.connect)
        handle = server._handle

        def handled(item: Item) -> None:
            chunk = isinstance(item, ReceivedMessage) and item.topic.endswith("/dat")
            first, outer = chunk and not trace.calls, sys.getprofile()
            sys.setprofile(trace if first else None)
            handle(item)
            if not first:
                sys.setprofile(outer)

        def executed(statement: str) -> None:
            if statement == "COMMIT":  # the receipt comes after it
                sys.setprofile(None)

        server._groups._handle = handled
        server._groups._is_over = lambda: False  # as of any but the last update
        ledger._db.set_trace_callback(executed)
        device = threading.Thread(target=agent.run, kwargs={"until_done": True})
        device.start()
        try:
            server.run()
        finally:
            agent.stop()
            device.join()
            agent.close()
            server.close()
    return trace


def main() -> None:
    """Prints calls by file; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--all", action="store_true", help="each function, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trace = traced_update(Path(folder))
    for file, count in trace.files.most_common():
        print(f"{count:5d}  {file}")
        for (where, name), times in trace.calls.most_common():
            if options.all and where == file:
                print(f"       {times:5d}  {name}")
    total = {"calls": trace.calls.total(), "files": len(trace.files)}
    print(f"{total['calls']} calls in {total['files']} files")
    if options.json:
        found = {**total, "by_file": dict(trace.files)}
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
