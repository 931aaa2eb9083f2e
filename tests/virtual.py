"""A whole federation in virtual time: the real coordinator and the real agents.

Only three things are not the product's: the broker is in memory, training takes virtual
seconds and changes nothing, and the loops are turned by hand, so that an hour takes
seconds and a seed gives the same hour each time.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from coordinator.ledger import open_ledger
from coordinator.server import evaluation
from coordinator.server.devices import round_workload
from coordinator.server.loop import Server
from coordinator.settings import RunSettings
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.agent.training_thread import Outcome
from edge_sdk.session import Broke, Nudge, SessionPhase
from edge_sdk.sparse import draw
from edge_sdk.sparse.mask import LayerShape
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import Examples, Task, load_task
from edge_sdk.training.local import TrainingResult as Trained
from edge_sdk.training.update import packed, packed_change
from edge_sdk.transport.memory import MemoryBroker, MemoryTransport
from edge_sdk.wire.evidence import Evidence, pack_evidence
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.rules import WarmUp
from edge_sdk.wire.values import Values, unpack_values

__all__ = ["Clock", "Coordinator", "Device", "House"]

STEP_S = 5.0
Takes = Callable[[TaskOrder], float]


@cache
def _digits() -> tuple[Task, Examples]:
    """The task of each house, and what its models are evaluated on."""
    inputs, targets = np.zeros((8, 1, 8, 8), np.float32), np.zeros(8, np.int64)
    return load_task("digits"), Examples(inputs, targets)


def _once(module: Any, name: str) -> None:
    """Has a pure function of a module look at the digits once for each of its settings.

    A coordinator traces a model and its loss when it starts: 0.1 s, three quarters of
    a start, and a test of kills has many.
    """
    found: dict[str, Any] = {}
    look = getattr(module, name)

    def remembered(*given: Any, **named: Any) -> Any:
        own = _digits()
        if not any(one is own[0] for one in given):
            return look(*given, **named)
        rest = [one for one in (*given, *named.items()) if one is not own[0]]
        key = repr([one for one in rest if one is not own[1]])
        if key not in found:
            found[key] = look(*given, **named)
        return found[key]

    setattr(module, name, remembered)


_once(round_workload, "workload_of")
_once(evaluation, "metrics_for")
_once(evaluation, "measure_of")


class Clock:
    """Seconds that pass when somebody says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Wire:
    """A link that can be cut and mended; the broker speaks the will."""

    def __init__(self, link: MemoryTransport, lossy: Callable[[], bool]) -> None:
        self.link, self.up, self._lossy = link, True, lossy
        self._waiting: list[tuple[str, bytes, bool]] = []

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        sure: bool = True,
        expires_s: int | None = None,
    ) -> None:
        if not self.up:
            if sure:
                self._waiting.append((topic, payload, retain))
        elif not self._lossy():
            self.link.publish(topic, payload, retain=retain)

    def cut(self, *, will: bool = True) -> None:
        """The link breaks; without a will the broker has not noticed yet."""
        self.up = False
        broker, link = self.link.broker, self.link
        if link in broker._links:
            broker.leave(link, will=link.will if will else None)

    def mend(self) -> None:
        """The next connection."""
        link = self.link
        if link.will is not None and link.will.renew is not None:
            link.will = replace(link.will, payload=link.will.renew())
        link.broker._links.append(link)
        self.up = True
        for topic, payload, retain in self._waiting:
            link.publish(topic, payload, retain=retain)
        self._waiting.clear()
        link.on_link(True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)


class VirtualWork:
    """Stands for the thread that trains: the result comes when its time has passed."""

    def __init__(self, device: Device) -> None:
        self._device, self.progress, self.told_at = device, 0, 0.0
        self.first_progress = 0  # 1000: as an agent that has not forgotten the last
        self.ends: float | None = None
        self._order: TaskOrder | None = None

    def start(self, order: TaskOrder, blobs: list[bytes], memory: bytes = b"") -> None:
        device = self._device
        self._order, self._base = order, blobs[0]
        self.progress = self.first_progress
        self._began = device.clock()
        self.ends = self._began + device.takes(order)
        device.trained.append(order.round_no)

    def cancel(self) -> None:
        self.ends = None

    stop = cancel

    def join(self, seconds: float) -> None:
        pass

    def turn(self) -> Outcome | None:
        """What training has come to by now."""
        now = self._device.clock()
        if self.ends is None or self._order is None:
            return None
        whole = max(self.ends - self._began, 1e-9)
        self.progress = int(min(1000, 1000 * (now - self._began) / whole))
        if now < self.ends:
            return None
        self.ends = None
        return self._device.result(self._order, self._base)


class Device:
    """One agent on its journal; it can be cut off, killed and started again."""

    def __init__(
        self,
        name: str,
        folder: Path,
        broker: MemoryBroker,
        clock: Clock,
        *,
        takes: Takes,
        lossy: Callable[[], bool] = lambda: False,
        examples: int = 100,
        cannot: str = "",
        lasting: bool = False,
        board: str = "raspberry_pi_4b_4gb",
        bytes_per_round: int | None = None,
    ) -> None:
        self.name, self.folder, self.broker, self.clock = name, folder, broker, clock
        self.takes, self.lossy, self.examples = takes, lossy, examples
        self.cannot, self.lasting, self.board = cannot, lasting, board
        self.bytes_per_round = bytes_per_round
        self.trained: list[int] = []
        self.dense_moves = 0.0
        self.agent: Agent | None = None
        self.start()

    def start(self) -> None:
        """A process begins."""

        def connect(*arguments: Any) -> Any:
            self.wire = Wire(self.broker.connect(*arguments), self.lossy)
            return self.wire

        profile = msgspec.to_builtins(load_board(self.board))
        if self.bytes_per_round is not None:
            profile["caps"]["bytes_per_round"] = self.bytes_per_round
        me = Identity(self.name, "home", "digits", self.examples, profile)
        self.agent = Agent(
            me, connect, Journal(self.folder), _Engines(), clock=self.clock
        )
        self.work = VirtualWork(self)
        self.agent._session_effects._work = self.work  # type: ignore[assignment]
        self.agent._session_effects.boot()
        self._quiet = self.clock()

    def kill(self) -> None:
        """As kill -9: nothing more is said or kept; the broker speaks the will."""
        if self.agent is not None:
            self.wire.cut()
            self.agent._session_effects._journal.close()
            self.agent = None

    def turn(self) -> None:
        """What the agent's loop does in the meantime."""
        agent = self.agent
        if agent is None:
            return
        session_effects = agent._session_effects
        outcome = self.work.turn()
        if outcome is not None:
            agent._queue.put(outcome)
        elif (
            session_effects.session.phase is SessionPhase.TRAIN
            and self.clock() - self.work.told_at >= 15.0
        ):
            session_effects.say_status(online=True)
        while True:
            try:
                item = agent._queue.get_nowait()
            except queue.Empty:
                break
            if item is not None:
                if not agent._is_for_all(item):
                    self._quiet = self.clock()
                agent._handle(item)
        if self.wire.up and agent._patience_s(self._quiet) <= 0.01:
            self._quiet = self.clock()
            session_effects.feed(Nudge())
            agent._tell_silence()

    def result(self, order: TaskOrder, base: bytes) -> Outcome:
        """What training gives: nothing has moved."""
        if self.cannot:
            return Broke(order.id, self.cannot, self.lasting)
        layers = [LayerShape(n, *_shape(n)) for n in order.mask.counts]
        recipe = order.mask
        mask = draw(layers, dict(recipe.counts), recipe.seed, recipe.boxes)
        done = Trained(self.examples, 3, 0.5, self.takes(order))
        if isinstance(order.rule, WarmUp):
            payload, norm = pack_evidence(Evidence(dict(order.mask.counts))), 0.0
        else:
            start = unpack_values(base, mask)
            still = Values(
                mask.digest,
                {n: np.full_like(v, 1e-3) for n, v in start.masked.items()},
                {n: np.full_like(v, self.dense_moves) for n, v in start.dense.items()},
            )
            payload, norm = packed_change(order, still, mask, self.examples)
        return packed(order, mask, payload, norm, done, self.takes(order))


class _Engines:
    engine, engines = "masked", ("masked",)


_SHAPES: dict[str, tuple[int, ...]] = {}


def _shape(name: str) -> tuple[tuple[int, ...]]:
    if not _SHAPES:
        module = _digits()[0].model()
        _SHAPES.update({n: tuple(p.shape) for n, p in module.named_parameters()})
    return (_SHAPES[name],)


class Coordinator:
    """The real server, turned by hand."""

    def __init__(
        self, folder: Path, broker: MemoryBroker, clock: Clock, settings: RunSettings
    ) -> None:
        self.ledger, self.clock = open_ledger(folder), clock
        self.server = Server(
            settings,
            *_digits(),
            self.ledger,
            broker.connect,
            clock=clock,
        )
        self.server._evaluator.submit = lambda *_: None  # type: ignore[method-assign]
        self.server._global_model.load()
        rounds = self.ledger.rounds()
        if rounds and rounds[-1].phase.value in ("run", "closing"):
            self.server._controller.reopen(rounds[-1])
        self.server._announce("waiting")

    @property
    def done(self) -> bool:
        return self.server._end.reached

    def turn(self) -> None:
        self.server._take(0.0)
        if not self.done:
            self.server._go_on()
            self.server._handlers.tick()
        self.server._take(0.0)

    def close(self) -> None:
        self.server.close()
        self.ledger.close()


class House:
    """A coordinator and its devices on one broker.

    Args:
        folder: Where all of them keep what they keep.
        broker: Theirs.
        changes: Settings of the run that differ.
    """

    def __init__(
        self,
        folder: Path,
        broker: MemoryBroker | None = None,
        **changes: Any,
    ) -> None:
        self.folder, self.clock = folder, Clock()
        self.broker = broker or MemoryBroker()
        plain: dict[str, Any] = {"densities": [0.2], "rounds": 3, "wait_for": 2}
        self.settings = RunSettings(
            federation="home",
            task="digits",
            evaluation=Path("eval"),
            **{**plain, **changes},
        )
        self.devices: dict[str, Device] = {}
        self.coordinator = self.coordinate()

    def coordinate(self) -> Coordinator:
        """A coordinator's life begins."""
        return Coordinator(self.folder / "run", self.broker, self.clock, self.settings)

    def join(self, name: str, **named: Any) -> Device:
        """A device's first start."""
        named = {"takes": lambda _: 1.0, **named}
        folder = self.folder / name
        self.devices[name] = Device(name, folder, self.broker, self.clock, **named)
        return self.devices[name]

    def turn(self, step_s: float = STEP_S) -> None:
        """So much time passes."""
        self.clock.now += step_s
        for _ in range(4):  # a question, its answer, the answer to that
            for device in self.devices.values():
                device.turn()
            self.coordinator.turn()

    def until(self, what: Callable[[], bool], most_s: float = 20_000.0) -> None:
        """Time passes until something holds."""
        end = self.clock.now + most_s
        while not what():
            assert self.clock.now < end, self.state()
            self.turn()

    def run(self, most_s: float = 20_000.0) -> None:
        """Time passes until the run is done."""
        self.until(lambda: self.coordinator.done, most_s)

    def state(self) -> str:
        """Where everything stands, for a failing test."""
        ledger = self.coordinator.ledger
        rows = [(r.no, r.phase.value, r.note) for r in ledger.rounds()]
        return f"{rows} {ledger.parts()} {ledger.standing()}"

    def trained(self) -> Mapping[str, int]:
        """Device -> rounds whose model it is in."""
        parts = self.coordinator.ledger.parts()
        return {d: parts.get(d, {}).get("trained", 0) for d in self.devices}

    def close(self) -> None:
        for device in self.devices.values():
            if device.agent is not None:
                device.kill()
        self.coordinator.close()
