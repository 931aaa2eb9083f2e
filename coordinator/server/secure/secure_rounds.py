"""`SecureRounds`: the round in hand where updates are masked, beside its state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from coordinator.identity.registry import IdentityRegistry
from coordinator.ledger import Ledger
from coordinator.protocol.publisher import Publisher
from coordinator.rounds.secure.answers import keys_said, read_answer
from coordinator.rounds.secure.stages import SecureState, Stage, from_rows
from coordinator.rounds.secure.unmask import too_few_shares, unreadable
from coordinator.rounds.state import OPEN, RoundPhase, TaskPhase
from coordinator.server.global_model import GlobalModel
from coordinator.server.round_opening import OpenRound
from coordinator.server.secure.known import told_before
from coordinator.server.secure.noisy_rounds import count_sum
from coordinator.server.secure.sums import fits, keep_sum, kept_sum
from coordinator.settings import RunSettings
from edge_sdk.errors import RunError
from edge_sdk.wire.messages import Cancel, Message
from edge_sdk.wire.secure.messages import SecureKeys

__all__ = ["SecureRounds", "secure_rounds"]

log = logging.getLogger(__name__)

RESEND_S = 15.0  # between two words to a device that does not answer
STAGE_S = 30.0  # a device has at least so long for its keys, its shares, its answer
STAGE_SHARE = 0.2  # of the round's time that each of these may take

Failed = Callable[[str, str], None]


def secure_rounds(
    settings: RunSettings,
    ledger: Ledger,
    publisher: Publisher,
    global_model: GlobalModel,
    identities: IdentityRegistry | None,
    clock: Callable[[], float],
) -> SecureRounds | None:
    """The secure rounds of a run; None where updates are not masked.

    Args:
        settings: The run.
        ledger: Its durable memory.
        publisher: Sends.
        global_model: Its models.
        identities: Its identities; None for one machine without any.
        clock: Monotonic seconds.
    """
    privacy = settings.privacy
    if not privacy.secure_aggregation:
        return None

    def keys(device: str) -> Iterable[bytes]:
        people = {} if identities is None else identities.people
        return people[device].keys if device in people else ()

    return SecureRounds(
        *(settings.federation, ledger, publisher, global_model),
        None if identities is None else keys,
        max(0, privacy.num_shares - 1),
        clock,
    )


class SecureRounds:
    """Stages of one round after the other; the coordinator's loop calls every method.

    Args:
        federation: Its name.
        ledger: Its durable memory.
        publisher: Sends.
        global_model: Its models.
        identity_keys: Device to the Ed25519 keys that it may sign with; None in a
            federation without any.
        degree: Neighbours of each device; 0 for as many as are needed.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        federation: str,
        ledger: Ledger,
        publisher: Publisher,
        global_model: GlobalModel,
        identity_keys: Callable[[str], Iterable[bytes]] | None,
        degree: int,
        clock: Callable[[], float],
    ) -> None:
        self._federation, self._ledger, self._publisher = federation, ledger, publisher
        self._global_model = global_model
        self._identity_keys, self._degree = identity_keys, degree
        self._clock = clock
        self._no = -1
        self._state = SecureState({})
        self._until = 0.0  # of the stage
        self._stage_s = STAGE_S
        self._said: dict[str, tuple[float, float]] = {}  # device: when again, the gap
        self._arrived: frozenset[str] = frozenset()
        self._news = False  # since the last attempt to take masks away

    # -- what devices say --------------------------------------------------------------

    def take(
        self, now: OpenRound, device: str, message: Message, failed: Failed
    ) -> None:
        """Notes what a device says; one that says what cannot be is out.

        Args:
            now: The round in hand.
            device: Whose it is.
            message: One of a secure round.
            failed: Told of a device that is out, and why.
        """
        self._take_up(now)
        state = self._state
        order = state.orders.get(device)
        if order is None or getattr(message, "task_id", "") != order.id:
            return  # of a round that is over
        if isinstance(message, SecureKeys):
            held = None if self._identity_keys is None else self._identity_keys(device)
            said = keys_said(state, device, message, self._federation, held)
        else:
            said = read_answer(state, device, message, self._arrived)
        self._state = said.state
        if said.kind:
            self._ledger.keep_secure(self._no, device, said.kind, said.content)
            self._news = True
        if said.why:
            verdict = "unmasking" if self._arrived else "rejected"
            log.warning("%s: %s", device, said.why)
            self._ledger.refuse(device, self._no, verdict, said.why)
            self._out(now, device, said.why, failed)

    # -- stages ------------------------------------------------------------------------

    def tick(self, now: OpenRound, failed: Failed) -> tuple[bool, str]:
        """Goes on with the round in hand: whether it can be closed once it is over.

        Args:
            now: The round.
            failed: Told of each device that is out, and why.

        Returns:
            False while the sum of a round that is over is not here; and why the round
            has to be given up, or "".
        """
        self._take_up(now)
        if now.state.phase is RoundPhase.CLOSING:
            return self._unmask(failed)
        running = now.state.phase is RoundPhase.RUN
        return True, self._go_on(now, failed) if running else ""

    def _go_on(self, now: OpenRound, failed: Failed) -> str:
        """Goes on with a round whose updates are awaited; why it cannot, or ""."""
        state = self._state
        waited = {d for d in state.asked() if now.state.tasks.get(d) in OPEN}
        late = sorted(waited - set(state.here()))
        if state.stage is not Stage.UPDATES and (
            not late or self._clock() >= self._until
        ):
            return self._next_stage(now, late, failed)
        self._tell_again(late)
        return ""

    def _next_stage(self, now: OpenRound, late: list[str], failed: Failed) -> str:
        """Freezes who is in, and tells them; the others are out."""
        state, stage = self._state, self._state.stage
        here = set(state.here())
        if len(here) < state.least:
            return (
                f"{len(here)} devices have sent their {stage.value} for secure "
                f"aggregation; at least {state.least} have to"
            )
        if stage is Stage.KEYS:
            self._state, frozen = state.with_graph(self._degree)
            self._ledger.freeze_secure(self._no, "graph", frozen)
            self._state = told_before(self._ledger, self._state)
        else:
            self._state, frozen = state.with_cohort()
            self._ledger.freeze_secure(self._no, "cohort", frozen)
        for device in late:
            why = f"its {stage.value} for secure aggregation came too late"
            self._out(now, device, why, failed)
        self._until, self._said = self._clock() + self._stage_s, {}
        self._tell_again(sorted(self._state.asked()))
        return ""

    def _out(self, now: OpenRound, device: str, why: str, failed: Failed) -> None:
        """A device is out of the round, and is told so."""
        if now.state.tasks.get(device) not in OPEN:
            return
        log.warning("%s is out of the round: %s", device, why)
        task_id = self._state.orders[device].id
        self._ledger.move_task(task_id, TaskPhase.FAILED, why)
        cancel = Cancel(task_id, why[:500])
        self._publisher.tell(device, cancel, round_no=self._no)
        failed(device, why)

    def _tell_again(self, devices: Iterable[str]) -> None:
        """Says to each device what it has not answered, less and less often."""
        state, at = self._state, self._clock()
        for device in devices:
            due, gap_s = self._said.get(device, (at, RESEND_S))
            if at < due:
                continue
            self._said[device] = at + gap_s, 2 * gap_s
            if self._arrived:
                message: Message = state.unmask(device, self._arrived)
            elif state.stage is Stage.KEYS:
                message = state.orders[device]
            elif state.stage is Stage.SHARES:
                message = state.peers(device)
            else:
                message = state.delivery(device)
            self._publisher.tell(device, message, round_no=self._no)

    def _take_up(self, now: OpenRound) -> None:
        """Takes up another round, as the ledger has it."""
        if self._no == now.state.no:
            return
        self._no = now.state.no
        orders = {device: part.order for device, part in now.parts.items()}
        self._ledger.forget_secure(self._no)
        self._state = from_rows(orders, self._ledger.secure(self._no))
        most = max((order.ttl_ms / 1000 for order in orders.values()), default=0.0)
        self._stage_s = max(STAGE_S, STAGE_SHARE * most)
        at = self._clock()
        self._until, self._said = at + self._stage_s, {}
        if self._state.stage is Stage.KEYS:  # they are asked for with the order
            self._said = dict.fromkeys(orders, (at + RESEND_S, 2 * RESEND_S))
        self._arrived, self._news = frozenset(), True

    # -- the end -----------------------------------------------------------------------

    def _unmask(self, failed: Failed) -> tuple[bool, str]:
        """Return whether the sum of the updates is durable; or why there is none."""
        if kept_sum(self._ledger, self._no) is not None:
            return True, ""
        if not self._arrived and (why := self._freeze()):
            return False, why
        state = self._state
        self._tell_again(sorted(self._arrived - state.revealed.keys()))
        few = too_few_shares(state.cohort(), state.revealed)
        why = few or "the sum cannot be read: shares of its masks do not fit"
        if not few and self._news:
            self._news = False
            try:
                self._sum(state)
            except RunError as error:  # more shares may make up for a wrong one
                why = str(error)
            else:
                return True, ""
        if self._arrived <= state.revealed.keys():
            self._blame(state, failed)
            return False, why
        return False, why if self._clock() >= self._until else ""

    def _blame(self, state: SecureState, failed: Failed) -> None:
        """Name the devices whose masks stay, though all shares are revealed."""
        cohort = state.cohort()
        for device in unreadable(cohort, state.revealed, self._arrived):
            why = "the shares that it sent of its masks cannot be read, or do not fit"
            log.warning("%s: %s", device, why)
            self._ledger.refuse(device, self._no, "unmasking", why)
            failed(device, why)

    def _sum(self, state: SecureState) -> None:
        """Takes the masks away; names who revealed a wrong share.

        Raises:
            RunError: As `keep_sum`.
        """
        base, family = self._global_model.base_of(self._no)
        for device in keep_sum(self._ledger, self._no, state, base, family):
            why = "a share that it revealed does not fit"
            log.warning("%s: %s", device, why)
            self._ledger.refuse(device, self._no, "unmasking", why)

    def _freeze(self) -> str:
        """Fixes which updates are in the sum; why there is none of them, or ""."""
        no, state = self._no, self._state
        self._ledger.freeze(no)
        rows = self._ledger.frozen(no)
        _, family = self._global_model.base_of(no)
        strange = [r.device for r in rows if not fits(self._ledger, state, family, r)]
        if strange:
            why = "its update is not one that it was asked to mask"
            self._ledger.leave_out(no, strange, why, None)
        arrived = frozenset(row.device for row in rows) - frozenset(strange)
        why = state.too_few(arrived)
        if not why:
            count_sum(self._ledger, no, state, arrived)
            self._arrived = arrived
            self._until, self._said = self._clock() + self._stage_s, {}
        return why
