"""A run with identities, written through the real ledger: what proofs are made of."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from coordinator.identity.registry import IdentityRegistry
from coordinator.identity.run_log import LoggedBest, begin_log
from coordinator.identity.signed_offers import SignedOffers
from coordinator.ledger import Ledger, TaskRow, open_ledger
from coordinator.rounds.contribution_limits import shares
from coordinator.rounds.state import TaskPhase
from coordinator.settings import RunSettings
from edge_sdk.identity.keys import raw_key, request_for
from edge_sdk.identity.signatures import signer
from edge_sdk.identity.token import read_token
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import Header, encode
from edge_sdk.wire.messages import Offer

__all__ = ["ProvableRun"]


class ProvableRun:
    """Rounds of a federation, one after the other; no model is made of them.

    Args:
        folder: The run's.
        devices: How many take part.
        identities: Whether they have keys.
        seed: Of the updates.
        rounds: As the settings say.
    """

    def __init__(
        self,
        folder: Path,
        devices: int = 4,
        *,
        identities: bool = True,
        seed: int = 1,
        keep_rounds: int = 0,
    ) -> None:
        self.folder, self.seed = folder, seed
        self.consents: dict[str, str] = {}  # device to what it signs with its updates
        self.names = [f"pi-{i:02d}" for i in range(devices)]
        self.settings = RunSettings(
            federation="greenhouse", task="digits", evaluation=folder,
            densities=[0.2, 0.05], rounds=3, algorithm="equal-counts",
            keep_rounds=keep_rounds, cohort=devices,
        )  # fmt: skip
        self.keys: dict[str, Ed25519PrivateKey] = {}
        self.identities: IdentityRegistry | None = None
        self.ledger: Ledger = open_ledger(folder)
        if identities:
            self.identities = IdentityRegistry(folder, "greenhouse")
            for name in self.names:
                self.enrol(name)
        self.offers = SignedOffers(self.identities) if self.identities else None
        self.start()

    def enrol(self, name: str) -> None:
        """A device gets a key and its certificate."""
        assert self.identities is not None
        token = self.identities.token(name, "127.0.0.1", 1, hours=1)
        self.keys[name] = Ed25519PrivateKey.generate()
        self.identities.enrol(read_token(token).secret, request_for(self.keys[name]))

    def start(self) -> None:
        """A coordinator begins."""
        self.ledger.next_epoch()
        self.rotated = begin_log(self.ledger, self.settings, self.identities)
        self._put(0)

    def again(self) -> None:
        """The coordinator is started again, after `close`."""
        self.ledger = open_ledger(self.folder)
        self.start()

    def round(self, no: int, *, until: str = "end", without: str = "") -> None:
        """A round in which all but one take part; pi-03 has much, pi-02 is refused."""
        past = [r.model for r in self.ledger.rounds() if r.model]
        base = past[-1] if past else ""
        names = [name for name in self.names if name != without]
        self.ledger.plan_round(no, goal=len(names), quorum=1, rate=0.1, base=base or "")
        tasks = {name: self.task(name, no) for name in names}
        self.ledger.issue_tasks(no, list(tasks.values()))
        for name, task in tasks.items():
            if name == "pi-02" and no % 2:
                self.ledger.move_task(task.id, TaskPhase.REJECTED, "not finite")
            else:
                self.accept(name, task)
        self.ledger.settle()
        if until == "end":
            self.end(no)

    def end(self, no: int) -> None:
        """The round is closed and scored."""
        bounds = self.settings.bounds
        limit = partial(
            shares, clip=bounds.clip, weight=bounds.weight, influence=bounds.influence
        )
        self.ledger.freeze(no, limit)
        name = self._put(no)
        self.ledger.finish(no, model=name)
        self.ledger.record_score(no, 0.2, {"accuracy": no / 100})
        best = {"0.2": {"round": no, "value": no / 100}}
        LoggedBest(self.ledger).put("best", best)
        if self.settings.keep_rounds:
            self.ledger.fold(no - self.settings.keep_rounds)

    def accept(self, name: str, task: TaskRow) -> None:
        """A device's update comes in."""
        content = f"{self.seed} {task.id}".encode() * 10
        examples = 90 if name == "pi-03" else 9
        offer = Offer(
            task.id, manifest_of(content), bytes(32), "fp32", examples, 1.5,
            {"loss": 0.5, "steps": 3.0},
        )  # fmt: skip
        signed = None
        if name in self.consents:
            offer = replace(offer, consent=self.consents[name])
        if self.offers is not None:
            header = Header(
                "offer", "greenhouse", name, "coordinator", 1, 7, task.round_no
            )
            packet = encode(header, offer, sign=signer(lambda: self.keys[name]))
            self.offers.heard(name, offer, packet)
            signed = self.offers.of(name, offer)
        self.ledger.accept(
            task, content, examples=examples, norm=1.5, metrics=offer.metrics,
            signed=signed,
        )  # fmt: skip

    def task(self, name: str, no: int) -> TaskRow:
        """What a device is asked in a round."""
        task_id = f"{no}-{sha256(f'{no} {name}'.encode()).hexdigest()[:16]}"
        density = 0.2 if self.names.index(name) % 2 else 0.05
        order = f"order {task_id}".encode()
        return TaskRow(task_id, no, name, density, TaskPhase.ASSIGNED, order)

    def key_of(self, name: str) -> bytes:
        """A device's public key."""
        return raw_key(self.keys[name])

    def authority(self) -> Path:
        """The federation's authority, as a file."""
        assert self.identities is not None
        path = self.folder / "authority.der"
        path.write_bytes(self.identities.authority)
        return path

    def model(self, no: int) -> bytes:
        """The bytes of a round's model."""
        return f"model {self.seed} {no}".encode()

    def _put(self, no: int) -> str:
        name = f"round-{no:05d}.safetensors"
        self.ledger.put(f"sha256 of {name}", sha256(self.model(no)).hexdigest())
        return name

    def close(self) -> None:
        """Ends it."""
        self.ledger.close()
