"""Turns the machine: transport, clock and ledger around the pure round."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from coordinator.aggregate import Contribution, Model
from coordinator.algorithm import Family
from coordinator.algorithms import ALGORITHMS
from coordinator.assignment import assign
from coordinator.cohort import choose
from coordinator.evaluate import Evaluator
from coordinator.gate import Refused, check_offer, check_payload
from coordinator.intake import Intake, Upload
from coordinator.ledger import Ledger, TaskRow
from coordinator.orders import (
    deadline_s,
    mask_seed,
    order_for,
    warm_up_cohort,
    warm_up_counts,
)
from coordinator.post import Post
from coordinator.rounds import (
    Accepted,
    Acked,
    Deadline,
    Event,
    Failed,
    Freeze,
    GiveUp,
    Issue,
    Offered,
    Phase,
    Planned,
    Rejected,
    Round,
    Saved,
    Selected,
    TaskPhase,
    advance,
    invited,
    quorum_of,
)
from coordinator.settings import RunSettings
from coordinator.store import ModelStore, model_name
from coordinator.view import DeviceView, FleetView, Observe
from device_profiles import Choice, DeviceProfile, ProfileError, parse_profile
from edge_sdk.errors import EdgeError, RemoteProtocolError, RunError
from edge_sdk.models.cost import workload_of
from edge_sdk.models.inventory import initial_state, layers_of
from edge_sdk.models.task import Task
from edge_sdk.transport.base import Deliver, Delivery, OnLink, Transport
from edge_sdk.wire import topics
from edge_sdk.wire.codec import Envelope, decode, pack, unpack
from edge_sdk.wire.messages import (
    Announce,
    Cancel,
    Data,
    Fail,
    Hello,
    Message,
    Need,
    Offer,
    Receipt,
    Status,
    TaskAck,
    TaskOrder,
    Wait,
)
from edge_sdk.wire.values import (
    CODECS,
    Evidence,
    Values,
    pack_values,
    unpack_evidence,
    unpack_values,
)

__all__ = ["Connect", "Server"]

log = logging.getLogger(__name__)

Connect: TypeAlias = Callable[[Deliver, OnLink], Transport]
QUEUE = 8192
SEEN_S = 90.0  # a device not heard of for so long is not invited
MAX_ABORTS = 5  # rounds in a row; more means something is wrong with the run
TICK_S = 0.5
LAST_WORDS_S = 5.0  # how long the end of a run waits for the devices' last status


@dataclass(frozen=True)
class _Linked:
    """The transport connected."""


@dataclass(frozen=True)
class _Scored:
    """An evaluation is done."""

    round_no: int
    density: float
    metrics: Mapping[str, float]


class Server:
    """Runs one federation to its end, from wherever the ledger says it stands.

    Args:
        settings: The run.
        task: Its task.
        ledger: Its durable memory, held exclusively.
        connect: Makes the transport.
        observe: Told what there is to see, a few times a second.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: RunSettings,
        task: Task,
        ledger: Ledger,
        connect: Connect,
        *,
        observe: Observe = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._task, self._ledger = settings, task, ledger
        self._clock, self._observe = clock, observe
        self._algorithm = ALGORITHMS[settings.algorithm]
        self._layers = layers_of(task.model(), task.dense_layers)
        training = settings.training
        self._batch = training.batch_size or task.batch_size
        steps = training.max_steps * self._batch
        self._workload = workload_of(
            task, examples=max(steps, 1), epochs=training.epochs, batch=self._batch
        )
        self._store = ModelStore(ledger.folder, settings.task, self._layers)
        self._queue: queue.Queue[Delivery | _Linked | _Scored | None] = queue.Queue(
            QUEUE
        )
        self._intake = Intake(clock)
        self._seen: dict[str, float] = {}
        self._profiles: dict[str, DeviceProfile] = {}
        self._examples: dict[str, int] = {}
        self._choices: dict[str, Choice] = {}
        self._status: dict[str, Status] = {}
        self._reported: set[str] = set()
        self._observed: dict[str, float] = {}
        self._orders: dict[str, TaskOrder] = {}
        self._round: Round | None = None
        self._deadline: float | None = None
        self._model: Model | None = None
        self._family: Family | None = None
        self._phase = "starting"
        self._aborts = 0
        self._submitted = 0  # the round whose model the evaluator was last given
        self._stopping = False
        self.dropped = 0  # malformed or foreign messages
        self._epoch = ledger.next_epoch()
        self._evaluator = Evaluator(
            task, task.eval_data(settings.evaluation), self._scored
        )
        self._transport = connect(self._deliver, self._link)
        self._post = Post(self._transport, settings.federation, self._epoch)
        for pattern in (
            topics.all_uploads(settings.federation, data=False),
            topics.all_uploads(settings.federation, data=True),
            topics.all_statuses(settings.federation),
        ):
            self._transport.subscribe(pattern)

    # -- other threads: enqueue and nothing else ---------------------------------------

    def _deliver(self, delivery: Delivery) -> None:
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(delivery)

    def _link(self, up: bool) -> None:  # noqa: FBT001 - the transport's callback
        if up:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(_Linked())

    def _scored(
        self, round_no: int, density: float, metrics: Mapping[str, float]
    ) -> None:
        self._queue.put(_Scored(round_no, density, metrics))

    def stop(self) -> None:
        """Ends `run` soon; the ledger keeps everything for `resume`."""
        self._stopping = True
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)

    # -- the loop --------------------------------------------------------------------------

    def run(self) -> None:
        """Runs until all rounds are done, or `stop`.

        Raises:
            RunError: If no device can take part, or too many rounds in a row abort.
        """
        self._resume()
        while not self._stopping and not self._done():
            self._go_on()
            self._take(TICK_S)
            self._look()
        if not self._stopping:
            self._finish()
        self._look()

    def close(self) -> None:
        """Says whether the run is done, and disconnects."""
        if not self._done():
            self._announce("stopped")
        self._evaluator.close()
        self._transport.close()
        self._ledger.close()

    def _take(self, timeout: float) -> None:
        """Handles one item, then all others that wait, so that a tick is one look."""
        block = True
        while True:
            try:
                item = self._queue.get(block, timeout)
            except queue.Empty:
                return
            block = False
            match item:
                case None:
                    return
                case _Linked():
                    self._post.after_connect()
                case _Scored(round_no, density, metrics):
                    self._ledger.record_score(round_no, density, metrics)
                case Delivery():
                    self._hear(item)

    def _done(self) -> bool:
        done = [r for r in self._ledger.rounds() if r.no and r.phase is Phase.DONE]
        return len(done) >= self._settings.rounds

    def _go_on(self) -> None:
        now = self._clock()
        if self._round is not None:
            if self._deadline is not None and now >= self._deadline:
                self._advance(Deadline())
            return
        if len(self._present()) < self._settings.wait_for and not self._started():
            self._phase = f"waiting for {self._settings.wait_for} devices"
            return
        if self._model is None:
            self._begin()
        elif self._present():
            self._open_round()

    def _started(self) -> bool:
        return bool(self._ledger.rounds())

    # -- start and resume ----------------------------------------------------------------

    def _resume(self) -> None:
        """Picks the run up from the ledger; a fresh one has nothing to pick up."""
        counts = self._ledger.get("counts")
        if counts is not None:
            family = {float(d): dict(c) for d, c in counts.items()}
            seed = mask_seed(self._settings.seed, warm_up=False)
            self._family = Family.draw(self._layers, family, seed)
        rounds = self._ledger.rounds()
        done = [r for r in rounds if r.phase is Phase.DONE and r.model]
        if done and self._family is not None:
            self._model = self._store.load(str(done[-1].model))
        elif self._family is not None:
            self._model = self._store.load(model_name(0))
        last = rounds[-1] if rounds else None
        self._announce("waiting")
        if last is None or last.phase in (Phase.DONE, Phase.ABORTED):
            return
        if last.phase is Phase.PLAN:  # no task was issued: plan it again
            return
        self._reopen(last.no, last.goal, last.quorum, last.phase)

    def _reopen(self, no: int, goal: int, quorum: int, phase: Phase) -> None:
        tasks = self._ledger.tasks(no)
        self._orders = {t.id: unpack(t.order_bytes, TaskOrder) for t in tasks}
        log.info("picking up round %d in phase %s", no, phase.value)
        base, family = self._base_of(no)
        for density in sorted({t.density for t in tasks}):
            content = pack_values(base.on(family.masks[density]), family.masks[density])
            self._post.shelve(content, no)
        self._round = Round(no, goal, quorum, phase, {t.device: t.phase for t in tasks})
        self._deadline = self._clock() + deadline_s([], [], warm_up=no == 0)
        self._phase = "warm-up" if no == 0 else f"round {no}"
        if phase is Phase.CLOSING:
            self._close_round()
        elif self._round.count(TaskPhase.ACCEPTED) >= goal:
            self._round = Round(no, goal, quorum, Phase.CLOSING, self._round.tasks)
            self._ledger.freeze(no)
            self._close_round()

    def _base_of(self, no: int) -> tuple[Model, Family]:
        """What a round starts from; the warm-up has a family of its own."""
        if no == 0:
            return self._warm_up_base()
        if self._model is None or self._family is None:
            raise RunError(f"round {no} has no model to start from")
        return self._model, self._family

    def _warm_up_base(self) -> tuple[Model, Family]:
        counts = warm_up_counts(self._layers, self._settings.densities)
        seed = mask_seed(self._settings.seed, warm_up=True)
        family = Family.draw(self._layers, counts, seed)
        return self._initial(family), family

    def _initial(self, family: Family) -> Model:
        state = initial_state(self._task, self._settings.seed)
        masked = {n: state.pop(n)[family.top[n]] for n in family.top}
        return Model(family.top, masked, state)

    def _begin(self) -> None:
        """The warm-up, or the first masks where the algorithm needs none."""
        self._check_fleet()
        if self._algorithm.evidence is None:
            self._plan_masks(None)
        elif self._present():
            self._open_round(warm_up=True)

    def _check_fleet(self) -> None:
        able = [n for n, c in self._choices.items() if c.density is not None]
        if not able:
            whys = "; ".join(c.sentence(n) for n, c in sorted(self._choices.items()))
            raise RunError(
                f"no device can take part: {whys}",
                remedy="Lower the densities, or raise round_budget_s.",
            )

    def _plan_masks(self, evidence: Mapping[str, float] | None) -> None:
        counts = self._algorithm.plan(self._layers, self._settings.densities, evidence)
        seed = mask_seed(self._settings.seed, warm_up=False)
        self._family = Family.draw(self._layers, counts, seed)
        self._model = self._initial(self._family)
        self._store.save(model_name(0), self._model, 0)
        self._ledger.put("evidence", None if evidence is None else dict(evidence))
        self._ledger.put("counts", {str(d): c for d, c in counts.items()})

    # -- rounds ------------------------------------------------------------------------------

    def _open_round(self, *, warm_up: bool = False) -> None:
        rounds = self._ledger.rounds()
        past = [r for r in rounds if r.phase is not Phase.PLAN]
        no = 0 if warm_up and not past else (past[-1].no + 1 if past else 1)
        if warm_up and past:
            raise RunError(
                f"the warm-up was aborted: {past[-1].note}",
                remedy="Look at the devices' logs, then start the run in a new folder.",
            )
        base, family = self._base_of(0 if warm_up else no)
        densities = self._densities(family)
        if not densities:
            return
        if warm_up:
            goal = min(self._settings.warm_up.devices, len(densities))
            cohort = warm_up_cohort(self._settings.seed, self._affordable(), goal)
        else:
            goal = min(self._settings.cohort or len(densities), len(densities))
            count = invited(goal, len(densities))
            cohort = choose(self._settings.seed, no, densities, count)
        quorum = quorum_of(goal)
        rate = self._settings.training.rate_at(no, self._settings.rounds)
        last = [r.model for r in past if r.model]
        self._ledger.plan_round(
            no, goal=goal, quorum=quorum, rate=rate, base=last[-1] if last else ""
        )
        self._round = Round(no, goal, quorum)
        self._advance(Planned())
        self._issue(no, cohort, densities, base, family)
        self._phase = "warm-up" if no == 0 else f"round {no}"
        self._announce("running")
        self._advance(Selected(cohort))

    def _issue(
        self,
        no: int,
        cohort: tuple[str, ...],
        densities: Mapping[str, float],
        base: Model,
        family: Family,
    ) -> None:
        """Makes the cohort's tasks durable and its bases public."""
        self._post.wipe(before_round=no - 1)
        manifests = {
            d: self._post.shelve(
                pack_values(base.on(family.masks[d]), family.masks[d]), no
            )
            for d in sorted({densities[device] for device in cohort})
        }
        expected = [self._expected(device) for device in cohort]
        observed = [self._observed[d] for d in cohort if d in self._observed]
        ttl = deadline_s(expected, observed, warm_up=no == 0)
        orders = [
            order_for(
                device,
                epoch=self._epoch,
                round_no=no,
                density=densities[device],
                base=manifests[densities[device]],
                mask=family.recipe(densities[device]),
                algorithm=self._algorithm,
                settings=self._settings,
                batch_size=self._task.batch_size,
                ttl_s=ttl,
            )
            for device in cohort
        ]
        self._orders = {order.id: order for order in orders}
        self._ledger.issue_tasks(
            no,
            [
                TaskRow(o.id, no, device, o.density, TaskPhase.ASSIGNED, pack(o))
                for o, device in zip(orders, cohort, strict=True)
            ],
        )
        self._deadline = self._clock() + ttl

    def _affordable(self) -> dict[str, float]:
        present = self._present()
        return {
            device: choice.density
            for device, choice in self._choices.items()
            if device in present and choice.density is not None
        }

    def _densities(self, family: Family) -> dict[str, float]:
        """Density of each device present that can take part."""
        return self._algorithm.assign(self._affordable(), list(family.masks))

    def _expected(self, device: str) -> float:
        choice = self._choices[device]
        cost = choice.costs.get(choice.density or 0.0)
        return cost.seconds if cost else self._settings.round_budget_s

    def _advance(self, event: Event) -> None:
        if self._round is None:
            return
        self._round, effects = advance(self._round, event)
        for effect in effects:
            match effect:
                case Issue(devices):
                    by_device = {
                        t.device: t.id for t in self._ledger.tasks(self._round.no)
                    }
                    for device in devices:
                        self._tell(device, self._orders[by_device[device]])
                case Freeze():
                    self._ledger.freeze(self._round.no)
                    self._close_round()
                    return
                case GiveUp(why):
                    self._give_up(why)
                    return

    def _close_round(self) -> None:
        """Aggregates the frozen rows; a crash here repeats it with the same result."""
        if self._round is None:
            return
        no = self._round.no
        self._phase = "planning masks" if no == 0 else f"aggregating round {no}"
        rows = self._ledger.frozen(no)
        for row in rows:
            self._observed[row.device] = row.metrics.get("seconds", 0.0)
        if no == 0:
            sizes = {s.name: s.numel for s in self._layers}
            counts = [unpack_evidence(self._ledger.blob(r.blob), sizes) for r in rows]
            mean = {n: sum(c.counts[n] for c in counts) / len(counts) for n in sizes}
            self._plan_masks(mean)
            name = model_name(0)
        else:
            base, family = self._base_of(no)
            self._model, _ = self._algorithm.aggregate(
                base,
                (
                    Contribution(
                        row.device,
                        family.masks[row.density],
                        row.examples,
                        unpack_values(
                            self._ledger.blob(row.blob), family.masks[row.density]
                        ),
                    )
                    for row in rows
                ),
            )
            name = self._store.save(model_name(no), self._model, no)
        self._ledger.finish(no, model=name)
        self._aborts = 0
        if no and self._model is not None and self._family is not None:
            self._submitted = no
            self._evaluator.submit(no, self._model, self._family)
            self._store.prune(no)
            self._ledger.forget_blobs(no - 2)
        self._advance(Saved())
        self._leave_round()

    def _give_up(self, why: str) -> None:
        if self._round is None:
            return
        log.warning("round %d aborted: %s", self._round.no, why)
        self._ledger.abort(self._round.no, why)
        for task in self._ledger.tasks(self._round.no):
            if task.phase is TaskPhase.EXPIRED:
                self._tell(task.device, Cancel(task.id, why))
        self._aborts += 1
        self._leave_round()
        if self._aborts >= MAX_ABORTS:
            raise RunError(
                f"{self._aborts} rounds in a row were aborted; the last: {why}"
            )

    def _leave_round(self) -> None:
        self._intake.forget()
        self._orders = {}
        self._round = self._deadline = None

    def _finish(self) -> None:
        """The last evaluation, one checkpoint per density, and the word that it is done."""
        if self._model is None or self._family is None:
            raise RunError("there is no model at the end of the run")
        self._phase = "evaluating"
        self._look()
        last = max(r.no for r in self._ledger.rounds() if r.phase is Phase.DONE)
        wanted = set(self._family.masks)
        if self._submitted != last:  # resumed at the very end
            self._evaluator.submit(last, self._model, self._family)
        give_up = self._clock() + 600
        while wanted - set(self._ledger.scores().get(last, {})):
            self._take(TICK_S)
            if self._clock() > give_up or self._stopping:
                break
        scores = self._ledger.scores().get(last, {})
        self._store.deploy(self._model, self._family, last, scores)
        self._phase = "done"
        self._collect_last_words()

    def _collect_last_words(self) -> None:
        """Devices answer the end with a last status: what they sent and received."""
        waiting = {d for d, s in self._status.items() if s.online}
        self._reported.clear()
        self._announce("done")
        give_up = self._clock() + LAST_WORDS_S
        while waiting - self._reported and self._clock() < give_up:
            self._take(TICK_S)

    # -- messages -----------------------------------------------------------------------------

    def _hear(self, delivery: Delivery) -> None:
        try:
            topic = topics.parse(delivery.topic, self._settings.federation)
            if not delivery.payload:
                return
            envelope = decode(delivery.payload)
            self._check_sender(topic, envelope)
            device = envelope.header.source
            if isinstance(envelope.message, Status):
                self._note(device, envelope.message)
            else:
                self._seen[device] = self._clock()
                self._answer(device, envelope.message)
        except RemoteProtocolError as error:
            self.dropped += 1
            log.warning("dropped a message on %s: %s", delivery.topic[:120], error)
        except EdgeError:
            raise
        except Exception:  # a surprise in one message must not end the federation
            self.dropped += 1
            log.exception("a message on %s could not be handled", delivery.topic[:120])

    def _check_sender(self, topic: topics.Topic, envelope: Envelope) -> None:
        """The broker's ACL guards the topic, so the name in it is the device's."""
        match topic:
            case topics.Upload(device, _, data):
                if data != isinstance(envelope.message, Data):
                    raise RemoteProtocolError(
                        "chunks and control have their own topics"
                    )
            case topics.Status(device):
                if not isinstance(envelope.message, Status):
                    raise RemoteProtocolError("only a status belongs there")
            case _:
                raise RemoteProtocolError("devices do not write there")
        if envelope.header.source != device:
            raise RemoteProtocolError(f"{device} speaks as {envelope.header.source}")

    def _answer(self, device: str, message: Message) -> None:
        match message:
            case Hello():
                self._hello(device, message)
            case TaskAck(task_id):
                if self._is_open(device, task_id):
                    self._ledger.move_task(task_id, TaskPhase.ACKED)
                    self._advance(Acked(device))
            case Offer():
                self._offer(device, message)
            case Data():
                self._data(device, message)
            case Fail(task_id, why):
                if self._is_open(device, task_id):
                    log.warning("%s cannot do its task: %s", device, why)
                    self._ledger.move_task(task_id, TaskPhase.FAILED, why)
                    self._advance(Failed(device))
            case Need():
                self._post.send_again(message)
            case _:
                raise RemoteProtocolError("a device does not send that")

    def _hello(self, device: str, hello: Hello) -> None:
        if hello.task != self._settings.task:
            self._tell(device, Wait(60_000, f"this run trains {self._settings.task}"))
            log.warning("%s is set up for task %s", device, hello.task)
            return
        try:
            profile = parse_profile(hello.profile, file=f"profile of {device}")
        except ProfileError as error:
            self._tell(device, Wait(60_000, str(error)[:500]))
            log.warning("%s: %s", device, error)
            return
        self._ledger.see_device(
            device,
            profile=hello.profile,
            examples=hello.examples,
            version=hello.version,
        )
        known = self._profiles.get(device) == profile
        self._profiles[device], self._examples[device] = profile, hello.examples
        if not known or device not in self._choices:
            self._choose(device)
        current = self._task_of(device)
        if current is not None:
            if hello.task_id != current.id:
                self._tell(device, self._orders[current.id])
        elif hello.task_id is not None:
            self._tell(device, self._receipt_for(hello.task_id))
        else:
            self._tell(device, Wait(1000 * int(SEEN_S / 3), "no task for you just now"))

    def _choose(self, device: str) -> None:
        limit = self._settings.training.max_steps * self._batch
        own = self._examples[device]
        examples = max(1, min(own, limit) if limit else own)
        choice = assign(
            {device: self._profiles[device]},
            self._workload,
            self._settings.densities,
            self._settings.round_budget_s,
            examples={device: examples},
        )[device]
        self._choices[device] = choice
        self._ledger.assign(device, choice.density, choice.why)
        log.info("%s", choice.sentence(device))

    def _receipt_for(self, task_id: str) -> Receipt | Cancel:
        """What became of a task that is not open any more."""
        if self._ledger.accepted_blob(task_id) is not None:
            return Receipt(task_id, "accepted")
        if self._ledger.task(task_id) is not None:
            return Receipt(task_id, "late", "its round is closed")
        return Receipt(task_id, "unknown", "this run has no such task")

    def _offer(self, device: str, offer: Offer) -> None:
        if not self._is_open(device, offer.task_id):
            self._tell(device, self._receipt_for(offer.task_id))
            return
        order = self._orders[offer.task_id]
        refused = check_offer(offer, order, max_examples=self._examples.get(device, 0))
        if refused is not None:
            self._reject(device, order, refused)
            return
        need = self._intake.offer(device, offer)
        if need is None:
            self._tell(device, Wait(1000, "others are uploading"))
            return
        self._ledger.move_task(offer.task_id, TaskPhase.OFFERED)
        self._advance(Offered(device))
        self._tell(device, need)

    def _data(self, device: str, data: Data) -> None:
        try:
            upload, need = self._intake.data(device, data)
        except RemoteProtocolError as error:
            self._tell(device, Receipt(data.task_id, "corrupt", str(error)[:500]))
            raise
        if need is not None:
            self._tell(device, need)
        if upload is not None:
            self._accept(device, upload)

    def _accept(self, device: str, upload: Upload) -> None:
        task_id = upload.offer.task_id
        if not self._is_open(device, task_id) or self._round is None:
            self._tell(device, self._receipt_for(task_id))
            return
        order = self._orders[task_id]
        base, family = self._base_of(self._round.no)
        content = upload.assembly.content()
        checked = check_payload(content, order, family.masks[order.density], base.dense)
        if isinstance(checked, Refused):
            self._reject(device, order, checked)
            return
        assert isinstance(checked, Values | Evidence)  # noqa: S101 - the union's rest
        task = self._ledger.task(task_id)
        if task is None:
            return
        offer = upload.offer
        self._ledger.accept(
            task,
            content,
            examples=offer.examples,
            norm=offer.norm,
            metrics=offer.metrics,
        )
        self._tell(device, Receipt(task_id, "accepted"))
        self._advance(Accepted(device))

    def _reject(self, device: str, order: TaskOrder, refused: Refused) -> None:
        log.warning("rejected the update of %s: %s", device, refused.why)
        self._ledger.move_task(order.id, TaskPhase.REJECTED, refused.why)
        self._ledger.refuse(device, order.round_no, "rejected", refused.why)
        self._tell(device, Receipt(order.id, "rejected", refused.why[:500]))
        self._advance(Rejected(device))

    def _note(self, device: str, status: Status) -> None:
        self._status[device] = status
        self._reported.add(device)
        if status.online:
            self._seen[device] = self._clock()
        else:
            self._seen.pop(device, None)
        self._ledger.count_traffic(
            device,
            sent=status.sent,
            received=status.received,
            rss_mib=status.rss_mib,
            engine=status.engine,
        )

    # -- small things ------------------------------------------------------------------------

    def _task_of(self, device: str) -> TaskRow | None:
        """The device's open task of the running round, if any."""
        if self._round is None or self._round.phase is not Phase.RUN:
            return None
        for task in self._ledger.tasks(self._round.no):
            if task.device == device and task.phase in (
                TaskPhase.ASSIGNED,
                TaskPhase.ACKED,
                TaskPhase.OFFERED,
            ):
                return task
        return None

    def _is_open(self, device: str, task_id: str) -> bool:
        task = self._task_of(device)
        return task is not None and task.id == task_id

    def _tell(self, device: str, message: Message) -> None:
        self._post.tell(device, message, round_no=self._round.no if self._round else 0)

    def _present(self) -> set[str]:
        """Devices heard of lately whose profile is known."""
        since = self._clock() - SEEN_S
        return {d for d, at in self._seen.items() if at >= since and d in self._choices}

    def _announce(self, state: str) -> None:
        known = {"waiting": "waiting", "running": "running", "done": "done"}
        self._post.announce(
            Announce(
                state=known.get(state, "stopped"),  # type: ignore[arg-type]
                task=self._settings.task,
                round_no=self._round.no if self._round else 0,
                rounds=self._settings.rounds,
                codecs=list(CODECS),
            )
        )

    def _look(self) -> None:
        """Tells the observer what there is to see."""
        scores = self._ledger.scores()
        refused = self._ledger.refusals()
        latest = max(scores, default=0)
        tasks = self._round.tasks if self._round else {}
        rows = []
        for row in self._ledger.devices():
            name = row["name"]
            status = self._status.get(name)
            rows.append(
                DeviceView(
                    name=name,
                    board=str(
                        row["profile"].get("board", row["profile"].get("name", ""))
                    ),
                    density=row["density"],
                    why=row["why"],
                    online=bool(status and status.online),
                    phase=status.phase if status else "",
                    task=tasks[name].value if name in tasks else "",
                    engine=row["engine"],
                    sent=row["sent"],
                    received=row["received"],
                    rss_mib=row["rss_mib"],
                    refused=refused.get(name, 0),
                )
            )
        self._observe(
            FleetView(
                phase=self._phase,
                round_no=self._round.no if self._round else 0,
                rounds=self._settings.rounds,
                accepted=self._round.count(TaskPhase.ACCEPTED) if self._round else 0,
                goal=self._round.goal if self._round else 0,
                left_s=None
                if self._deadline is None
                else self._deadline - self._clock(),
                devices=tuple(rows),
                scores=scores.get(latest, {}),
                scored_round=latest,
            )
        )
