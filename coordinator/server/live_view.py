"""Draws the fleet as it is just now, for whoever watches the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coordinator.ledger import Ledger
from coordinator.rounds.state import TaskPhase
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.round_controller import RoundController
from coordinator.views.device_view import DeviceView
from coordinator.views.run_view import FleetView, Observe
from coordinator.views.scores import told_metric

__all__ = ["LiveView"]

LOOK_S = 0.25  # at most so often does the observer see a picture of the whole fleet,
LOOK_SHARE = 50  # and at most a fiftieth of the time goes into drawing it


class LiveView:
    """Shows an observer the run, a few times a second.

    Args:
        rounds: Of the whole run.
        ledger: Its durable memory.
        fleet: Its devices.
        controller: Its round in hand.
        observe: Told what there is to see.
        clock: Monotonic seconds.

    Attributes:
        unheard: Devices that are connected, and whose HELLO does not come.
        revoked: Devices that were, and will not come.
        due: Monotonic seconds at which the next whole picture is drawn.
        opened: Whether a round has begun since the last picture.
    """

    def __init__(
        self,
        rounds: int,
        ledger: Ledger,
        fleet: DeviceRegistry,
        controller: RoundController,
        observe: Observe,
        clock: Callable[[], float],
    ) -> None:
        self._rounds, self._ledger, self._fleet = rounds, ledger, fleet
        self._controller, self._observe, self._clock = controller, observe, clock
        self.unheard: list[str] = []
        self.revoked: list[str] = []
        self.due, self.opened = clock(), False
        self._devices: tuple[DeviceView, ...] = ()  # as they were read last

    def waiting(self, wanted: int, here: int, *, linked: bool) -> str:
        """The run's phase while fewer devices than wanted are here.

        Args:
            wanted: Devices.
            here: Devices.
            linked: Whether there is a link to the broker.
        """
        phase = f"waiting for {wanted} devices, {here} here"
        if not linked:
            phase = "waiting for a link to the broker: the log says why there is none"
        if self.unheard:
            phase += f"; without a HELLO, see the log: {', '.join(self.unheard)}"
        if self.revoked:
            phase += f"; revoked: {', '.join(self.revoked[:5])}"
        return phase

    def pausing(self, devices: Sequence[str]) -> str:
        """The run's phase while no round can be opened; names some that pause."""
        named = f"; they pause: {', '.join(devices[:5])}" if devices else ""
        return f"waiting for devices{named}"

    def tick(self, phase: str) -> None:
        """Draw the picture that is due, if any; `phase` is the run's between rounds.

        A round is seen, however short it is: with the devices as they were read last,
        since to read a hundred takes a twentieth of one without training.
        """
        if self._clock() >= self.due:
            self.draw(phase)
        elif self.opened:
            self._show(phase)

    def draw(self, phase: str) -> None:
        """Give the observer the present view; `phase` is the run's between rounds."""
        began = self._clock()
        self.unheard = self._fleet.unheard()
        self._devices = self._fleet.view()
        self.revoked = [one.name for one in self._devices if one.is_revoked]
        self._show(phase)
        took = self._clock() - began  # grows with the fleet; its share does not
        self.due = began + max(LOOK_S, LOOK_SHARE * took)

    def _show(self, phase: str) -> None:
        now, controller = self._controller.round, self._controller
        self.opened = False
        latest, deadline = self._ledger.last_scored(), controller.timing.deadline
        scores = self._ledger.scores(since=latest)
        self._observe(
            FleetView(
                phase=controller.phase if now else phase,
                round_no=controller.round_no,
                rounds=self._rounds,
                rounds_done=self._ledger.rounds_done(),
                accepted=now.count(TaskPhase.ACCEPTED) if now else 0,
                goal=now.goal if now else 0,
                left_s=None if deadline is None else deadline - self._clock(),
                devices=self._devices,
                scores=scores.get(latest, {}),
                scored_round=latest,
                metric=told_metric(self._ledger.get("metric")),
            )
        )
