"""Takes the bundles that a coordinator delivers: fetched, proved here, made live.

Durable are the slots, the chunks and which delivery was last taken: one that was cut is
sent again, goes on with the chunks that are here, and is answered at once if it has
ended here already; one that came before it is refused, over restarts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from numpy.typing import NDArray

from edge_sdk.deploy.delivered_bundle import Installed, install_delivery, live_bundle
from edge_sdk.deploy.last_delivery import Delivered, DeliveredFile
from edge_sdk.deploy.slots import recover
from edge_sdk.deploy.target import DeployTarget
from edge_sdk.errors import EdgeError, StateError
from edge_sdk.storage.blobs import BlobFolder
from edge_sdk.storage.fetcher import Fetcher
from edge_sdk.wire import topics
from edge_sdk.wire.messages import Install, Message, Need, Running

__all__ = ["ASK_S", "Installer"]

log = logging.getLogger(__name__)

Verdict: TypeAlias = Literal["live", "failed", "refused"]

ASK_S = 3.0  # chunks that do not come for so long are asked for again
MAX_BYTES = 1 << 27  # of bundles in part: the largest that can travel
CUT = "the device stopped while the new model was tried; the model before it is live"
REPEATED = (
    "delivery {no} was ordered before delivery {last}, which this device has taken: "
    "an old order was repeated, so nothing was changed. To go back to an older "
    "model, deliver its bundle again"
)
REPEATED_TOLD = 64  # numbers of old orders that are complained of once in a life
UNASKED = 'this device takes no models: "models" is not set in its device.toml'


class Installer:
    """One device's deliveries; its methods are called by the agent's one loop.

    Args:
        place: Where models go; None refuses every delivery.
        fetcher: Gets the chunks.
        say: Sends a message to the coordinator.
        ended: Called by the thread that installs, once.
        own: Gives this device's own values, which go into a new model.
    """

    def __init__(
        self,
        place: DeployTarget | None,
        fetcher: Fetcher,
        say: Callable[[Message], None],
        ended: Callable[[Installed], None],
        own: Callable[[], Mapping[str, NDArray[Any]]] = dict,
    ) -> None:
        self._own = own
        self._place, self._fetcher = place, fetcher
        self._say, self._ended = say, ended
        self._order: Install | None = None  # being fetched or installed
        self._ended_here = False  # whether the last delivery ended in this life
        self._told: set[tuple[int, int]] = set()  # old orders that were complained of
        self._worker: threading.Thread | None = None
        self._file: DeliveredFile | None = None
        self._unkept = Delivered()  # where no models are taken, nothing is durable
        if place is not None:
            self._blobs = BlobFolder(place.state / "bundles", MAX_BYTES)
            self._file = DeliveredFile(place.state)
            cut = recover(place.root)
            if cut:
                log.error("a delivered model is rolled back: %s", CUT)
                self._keep_cut(int(cut))

    @property
    def busy(self) -> bool:
        """True while a delivery is in hand."""
        return self._order is not None

    @property
    def fetching(self) -> bool:
        """True while chunks of a delivery are on their way."""
        return self.busy and self._worker is None

    def greet(self) -> None:
        """Send RUNNING with the live model, if this device accepts models."""
        if self._place is not None:
            self._tell(self._last if self._ended_here else Delivered())

    def take(self, order: Install, epoch: int = 0) -> None:
        """Starts, goes on with, answers or refuses a delivery.

        Args:
            order: What is to be live.
            epoch: Of the coordinator that ordered it.
        """
        last = self._last
        same = last.is_repeated_by(order.no, order.digest)
        if not same and last.is_after(epoch, order.no):
            self.decline(order, epoch, "")
        elif self._worker is not None:
            pass  # one at a time; what is wanted is said again
        elif same and last.verdict:
            self._tell(last)
        elif self._place is None:
            self._end(order, "refused", UNASKED, epoch)
        elif live_bundle(self._place)[0] == order.digest:
            self._end(order, "live", "", epoch)
        elif self._order is None or not same:
            self._begin(order, epoch)
        else:
            self.ask_again()

    def decline(self, order: Install, epoch: int, why: str) -> None:
        """Takes no order that does not hold any more, and names one that was repeated.

        Args:
            order: What was ordered.
            epoch: Of the coordinator that ordered it.
            why: It does not hold, as a predicate; "" for its number alone.
        """
        last, version = self._last, (epoch, order.no)
        if order.no == last.no or not last.is_after(epoch, order.no):
            log.info(
                "delivery %d %s; the coordinator orders it again if it is wanted",
                order.no,
                why,
            )
        elif version not in self._told and len(self._told) < REPEATED_TOLD:
            self._told.add(version)
            told = REPEATED.format(no=order.no, last=last.no)
            log.warning("refused: %s", told)
            live, label = self._live_here()
            self._say(Running(live, label, order.no, "refused", told))

    def ask_again(self) -> None:
        """Request missing chunks again: they may be lost."""
        for need in self._needs():
            self._say(need)
        self._go_on()

    def chunk(self, topic: topics.ChunkTopic, name: str, chunk: bytes) -> None:
        """A chunk arrived.

        Raises:
            RemoteProtocolError: If it is not what the manifest names.
        """
        if not self.fetching:
            return
        try:
            self._fetcher.take(topic, name, chunk)
        except StateError as error:  # the disk refuses; a false chunk is said again
            self._break_off(error)
            return
        self._go_on()

    def finish(self, done: Installed) -> None:
        """The thread that installs has ended."""
        self._order = self._worker = None
        if done.why is None:
            log.info("delivery %d is live", done.order.no)
            self._end(done.order, "live")
        else:
            self._end(done.order, "refused" if done.refused else "failed", done.why)

    def close(self, seconds: float) -> None:
        """Waits for the thread that installs; `recover` mends what it leaves."""
        if self._worker is not None:
            self._worker.join(seconds)

    def _needs(self) -> list[Need]:
        return self._fetcher.needs() if self.fetching else []

    @property
    def _last(self) -> Delivered:
        """The last delivery that was begun here."""
        return self._unkept if self._file is None else self._file.last

    def _keep(self, delivered: Delivered) -> None:
        """Makes a delivery the last one.

        Raises:
            StateError: If the disk refuses.
        """
        if self._file is None:
            self._unkept = delivered
        else:
            self._file.keep(delivered)

    def _keep_cut(self, no: int) -> None:
        """Notes that a delivery failed when the power went in its health check."""
        before = self._last if self._last.no == no else Delivered(no=no)
        cut = msgspec.structs.replace(before, no=no, verdict="failed", why=CUT)
        self._keep_ended(cut)

    def _keep_ended(self, delivered: Delivered) -> None:
        """Notes a verdict, which counts here even where the disk refuses it."""
        self._ended_here = True
        try:
            self._keep(delivered)
        except StateError as error:
            log.error("%s", error)  # noqa: TRY400 - a sentence, no trace

    def _begin(self, order: Install, epoch: int) -> None:
        log.info("delivery %d: fetching %d bytes", order.no, order.blob.size)
        self._order = order
        try:
            self._ended_here = False
            self._keep(Delivered(epoch, order.no, order.digest))
            self._fetcher.begin([order.blob], self._blobs.open)
        except EdgeError as error:
            self._break_off(error)
            return
        self._go_on()

    def _go_on(self) -> None:
        order, place = self._order, self._place
        for need in self._fetcher.ask():
            self._say(need)
        if order is None or place is None or not self._fetcher.whole:
            return
        try:
            (content,) = self._fetcher.contents()
        except EdgeError as error:
            self._break_off(error)
            return
        self._worker = threading.Thread(
            target=self._install, args=(order, place, content), name="install"
        )
        self._worker.daemon = True
        self._worker.start()

    def _install(self, order: Install, place: DeployTarget, content: bytes) -> None:
        self._ended(install_delivery(order, place, content, self._own))

    def _break_off(self, error: EdgeError) -> None:
        order, self._order = self._order, None
        self._fetcher.drop()
        if order is not None:
            self._end(order, "failed", str(error))

    def _end(
        self, order: Install, verdict: Verdict, why: str = "", epoch: int | None = None
    ) -> None:
        """A delivery has ended; `epoch` is that of its beginning unless it had none."""
        if verdict != "live":
            log.warning("delivery %d %s: %s", order.no, verdict, why)
        if self._place is not None:
            self._blobs.forget(order.blob)
        begun = self._last.epoch if epoch is None else epoch
        ended = Delivered(begun, order.no, order.digest, verdict, why[:500])
        self._keep_ended(ended)
        self._tell(ended)

    def _tell(self, last: Delivered) -> None:
        live, label = self._live_here()
        if last.verdict:
            self._say(Running(live, label, last.no, last.verdict, last.why))
        else:  # none yet, or one under way
            self._say(Running(live, label))

    def _live_here(self) -> tuple[bytes | None, str]:
        live, label = (None, "") if self._place is None else live_bundle(self._place)
        return live, label[:200]
