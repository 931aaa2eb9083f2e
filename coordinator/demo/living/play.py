"""The living demo: a federation without a last round, and what happens to it.

Each step waits for a round and counts on from the round that is done by then, so that
the story is the same on a slow machine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from coordinator.demo.living.checks import LivingFigures, checks, checks_table
from coordinator.demo.living.deliver import delivered, round_of
from coordinator.demo.living.files import FIRST, JOIN, LEAVES, Fleet, write_run
from coordinator.demo.living.watch import Seen, Watch, trained_anew
from coordinator.ledger import read_ledger
from coordinator.processes.children import ChildProcess, stop_all
from coordinator.rounds.state import RoundPhase
from coordinator.views.report import write_report
from coordinator.views.terminal.status import summary
from edge_sdk.errors import RunError, StateError
from edge_sdk.private_files import keep_private
from edge_sdk.tasks.task import Examples
from edge_sdk.terminal import on_stop, say, show

__all__ = ["ROUNDS", "run_living"]

log = logging.getLogger(__name__)

ROUNDS = 200
RECOVERY = 20  # rounds after the shift
LOOK_S = 0.1
LOOKS = 3
TESTED = 3  # rounds after which devices that have not tested a model will not


class _Story:
    """The processes of one demo, and its way from event to event."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.rounds, self.stopped = rounds, False
        self.run = folder / "federation"
        self.keep_rounds = max(3, rounds // 10)
        port = write_run(self.run, self.keep_rounds)
        self.fleet = Fleet(folder, list(range(1, FIRST + 1)))
        for number in (*self.fleet.numbers, *JOIN):
            self.fleet.write_settings(number, port)
        for number in self.fleet.numbers:
            self.fleet.write(number)
        self.children: dict[int, ChildProcess] = {}
        line = ["run", str(self.run), "--quiet"]
        self.coordinator = ChildProcess("flash-coordinator", line, None)
        self.watch = Watch(self.run, self.coordinator.process.pid)
        self.got = LivingFigures()
        self.undelivered: str | None = None  # why the first delivery did not go out

    def begin(self, number: int) -> None:
        """Starts a device."""
        settings = self.fleet.settings_of(number)
        log_file = settings.with_suffix(".log")
        arguments = ["run", str(settings)]
        self.children[number] = ChildProcess("flash-edge", arguments, log_file)

    def until(self, there: Callable[[], bool]) -> None:
        """Waits for something, as long as the federation lives.

        Raises:
            RunError: If the coordinator or a device ends, or Ctrl-C was pressed.
        """
        while not there():
            if self.stopped:
                raise RunError("the demo was stopped", remedy="Start it anew.")
            for child in (self.coordinator, *self.children.values()):
                if not child.alive():
                    raise RunError(
                        f"{child.name} ended with exit code {child.process.returncode}",
                        remedy="Its message is above, or in its log beside its "
                        "settings.",
                    )
                child.tend_log()
            time.sleep(LOOK_S)

    def until_round(self, no: int) -> int:
        """Waits for a round; returns the last that is done by then."""
        self.until(lambda: self.watch.last_round >= no)
        return self.watch.last_round

    def look(self, hidden: Examples) -> Seen:
        """A model on the hidden set, and by the tests of all who train.

        Where an answer is lost, the next model is asked about: twice at most.
        """
        one = self._look_once(hidden)
        for _ in range(LOOKS - 1):
            if one.devices is None:
                one = self._look_once(hidden)
        log.info("round %d: %s", one.round, asdict(one))
        return one

    def _look_once(self, hidden: Examples) -> Seen:
        found: list[Seen] = []

        def seen() -> bool:
            one = self.watch.look(hidden)
            found.extend([] if one is None else [one])
            return bool(found)

        self.until(seen)
        one = found[0]

        def tested() -> bool:
            count, value = self.watch.tests(one.round)
            one.devices = value if count >= len(self.fleet.numbers) else None
            late = self.watch.last_round > one.round + TESTED
            return one.devices is not None or late

        self.until(tested)
        return one

    def join(self) -> None:
        """Two devices come, and one goes as soon as they train."""
        for number in JOIN:
            self.fleet.write(number)
            self.begin(number)
        new = {f"pi-{number}" for number in JOIN}
        self.until(lambda: new <= self.watch.trained(self.watch.last_round))
        gone = self.children.pop(LEAVES)
        gone.process.terminate()
        gone.process.wait()
        self.fleet.numbers = [*(n for n in self.fleet.numbers if n != LEAVES), *JOIN]

    def shift(self) -> None:
        """The data of all devices shift, and three have a new class."""
        self.fleet.shifted = True
        for number in self.fleet.numbers:
            self.fleet.write(number)

    def spoil(self) -> None:
        """Devices train on wrong labels until a round of theirs is marked as worse."""
        first = self.watch.last_round + 1
        for number in self.fleet.numbers:
            self.fleet.write(number, spoiled=True)
        spoiled = self.until_round(self.watch.last_round + 2)
        marked: list[int] = []

        def is_marked() -> bool:
            done = self.watch.last_round
            self.watch.model(done)
            marked[:] = self.watch.worse(first, done)
            return bool(marked) or done > spoiled + TESTED

        self.until(is_marked)
        self.got.spoiled = list(marked)
        if marked:
            self.watch.save(marked[0], "bad")
        for number in self.fleet.numbers:
            self.fleet.write(number)
        if marked:
            self.got.refused = delivered(self.watch, marked[0], "bad")

    def end(self) -> None:
        """Stops all processes."""
        stop_all([*self.children.values(), self.coordinator])

    def tell(self) -> None:
        """Goes through the story, and measures."""
        got, watch, rounds = self.got, self.watch, self.rounds
        for number in self.fleet.numbers:
            self.begin(number)
        hidden = self.fleet.hidden()
        early = self.until_round(rounds // 4)
        got.ledger = (watch.ledger_bytes(), 0)
        got.memory = (watch.memory_mib(), 0)
        got.seen.append(self.look(hidden))
        got.delivered = got.seen[0].round
        sender = threading.Thread(target=self._deliver_first, args=(got.delivered,))
        sender.start()
        self.until_round(early + rounds // 4)
        self.until(lambda: not sender.is_alive())
        self.until(self._arrived)
        got.before = self.look(hidden)
        got.seen.append(got.before)
        self.join()
        self.shift()
        got.shift = watch.last_round
        hidden = self.fleet.hidden()
        self.until_round(got.shift + max(1, min(RECOVERY, rounds // 5) - 1))
        got.seen.append(self.look(hidden))
        after = [one for no, one in sorted(watch.seen.items()) if no > got.shift]
        got.recovered = after[0]  # later ones were looked at for their tests alone
        self.until_round(got.shift + rounds // 4)
        self.spoil()
        self.until_round(max(rounds, watch.last_round + rounds // 10))
        got.last = self.look(hidden)
        got.seen.append(got.last)
        got.ledger = (got.ledger[0], watch.ledger_bytes())
        got.memory = (got.memory[0], watch.memory_mib())
        self._ends(hidden)

    def _deliver_first(self, no: int) -> None:
        self.undelivered = delivered(self.watch, no, "good")
        if self.undelivered is not None:
            log.warning("round %d was not delivered: %s", no, self.undelivered)

    def _arrived(self) -> bool:
        """Return whether every board has answered the first delivery."""
        if self.undelivered is not None:
            return True
        told = [device["delivery"] for device in summary(self.run)["devices"]]
        return all(last and last["verdict"] for last in told)

    def _ends(self, hidden: Examples) -> None:
        got = self.got
        got.rounds = self.watch.last_round
        got.live = {
            device["name"]: round_of(device)
            for device in summary(self.run)["devices"]
            if device["name"] != f"pi-{LEAVES}"
        }
        ledger = read_ledger(self.run)
        try:
            kept = ledger.rounds()
            got.aborted = sum(r.phase is RoundPhase.ABORTED for r in kept)
            frozen = [
                {row.device for row in ledger.frozen(r.no)}
                for r in kept[-self.keep_rounds :]
                if r.phase is RoundPhase.DONE
            ]
        finally:
            ledger.close()
        for number in JOIN:
            name = f"pi-{number}"
            there = [name in devices for devices in frozen]
            got.joined[name] = sum(there) / max(len(there), 1)
        self.end()
        log.info("training a model anew on all devices' data, for comparison")
        got.anew = trained_anew(self.fleet.training(), hidden)


def run_living(folder: Path, *, rounds: int, as_json: bool) -> None:
    """Runs the living demo in a folder, and prints its table of checks.

    Args:
        folder: New, or one without a run.
        rounds: About how many; 200 shows it all, 16 is for a look.
        as_json: Whether to print JSON.

    Raises:
        RunError: If a process ends before its time.
        StateError: If the folder holds a run already.
    """
    if (folder / "federation" / "ledger.sqlite").exists():
        raise StateError(
            f"{folder} holds a living demo already", remedy="Give a new --folder."
        )
    keep_private(folder, ("*",))
    torch.set_num_threads(1)  # beside ten processes more only wait for each other
    began = time.monotonic()
    story = _Story(folder, rounds)

    def stop() -> None:
        story.stopped = True

    on_stop(stop)
    try:
        story.tell()
    finally:
        story.end()
    found = checks(story.got)
    report = write_report(story.run)
    facts = {
        "folder": str(story.run),
        "report": str(report),
        "seconds": round(time.monotonic() - began),
        "rounds": story.got.rounds,
        "figures": asdict(story.got),
        "checks": [check.as_json() for check in found],
    }
    show(facts, lambda: checks_table(found), as_json=as_json)
    say(
        f"{story.got.rounds} rounds in {facts['seconds']} s\nreport: {report}",
        aside=as_json,
    )
