"""Checks of a log's records: what each says must follow from those before it.

Rule 1. A round starts from the model of the last one that gave one, and is opened and
        ended once each.
Rule 2. Every task that was given out is in the leaves of its round's end, once; what
        counted answers a task, once, and was signed by its device.
Rule 3. Nobody counts more than the examples that it signed, or by a factor above 1.
Rule 4. Where the settings mask updates, a model is made of one sum, of as many devices
        as the settings ask for, and which weighs no more than they do.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from edge_sdk.proof.file import ProofFile
from edge_sdk.proof.leaves import leaves_of
from edge_sdk.proof.records import Found, misformed, number, object_of, text
from edge_sdk.proof.signed import Certificates
from edge_sdk.proof.sums import wrong_sums

__all__ = ["RoundChecks"]

Record = Mapping[str, Any]
KINDS = frozenset(
    {"start", "key", "round", "model", "aborted", "scores", "best", "deployed"}
    | {"revoked", "tests"}
)


class RoundChecks:
    """Takes records in order; what is wrong is said.

    Args:
        proof: Whose leaves and contents.
        certificates: Of coordinator and devices; None checks no signature.
        found: Told what is wrong.
        whole: Whether all leaves are there; else those of one device.

    Attributes:
        done: Rounds that gave a model.
        models: SHA-256 of a model's file to its round.
        devices: Device to rounds, examples, first, last and the consents it signed.
        first_round: Number of the first round; None before one.
        unlogged: Rounds before the log began.
        unsigned: Updates without a device's signature, of a round that was open when
            the log began.
    """

    def __init__(
        self,
        proof: ProofFile,
        certificates: Certificates | None,
        found: Found,
        *,
        whole: bool,
    ) -> None:
        self._proof, self._certificates = proof, certificates
        self._found, self._whole = found, whole
        self._open: Record | None = None
        self._tasks: dict[str, Record] = {}  # given out in the open round
        self._given: set[str] = set()  # tasks of all rounds
        self._last, self._base, self._epoch = -1, "", -1
        self._revoked: dict[str, int] = {}  # device to the record that says so
        self._certified: dict[str, dict[str, int]] = {}  # device to when first seen
        self._consents: dict[str, set[str]] = {}
        self._opened = 0
        self.done, self.unlogged, self.unsigned = 0, 0, 0
        self.models: dict[str, int] = {}
        self.devices: dict[str, dict[str, Any]] = {}
        self.first_round: int | None = None

    def take(self, seq: int, record: Record) -> None:
        """Checks one record."""
        kind, no = text(record, "kind"), int(number(record, "round"))
        if kind not in KINDS:
            self._found.say(f"record {seq} is of no kind that a log has: {kind[:40]!r}")
        elif kind == "start":
            self._start(seq, record)
        elif kind == "round":
            self._begin(seq, no, record)
        elif kind in ("model", "aborted"):
            self._end(seq, no, record, kind)
        elif kind == "revoked":
            self._revoked[text(record, "device")] = seq
        elif kind == "deployed":
            files = record.get("files")
            for digest in files.values() if isinstance(files, Mapping) else ():
                self.models.setdefault(str(digest), no)
        elif kind == "best":
            self._best(seq, record)

    def end(self) -> None:
        """After the last record; a round may be open."""
        names = set(self._proof.members)
        used = {f"{kind}/{seq:08}.jsonl" for seq in self._trees for kind in FOLDERS}
        for name in sorted(names - used):
            if name.split("/")[0] in FOLDERS:
                self._found.say(f"member {name} belongs to no record")

    # -- kinds of records --------------------------------------------------------------

    _trees: tuple[int, ...] = ()

    def _start(self, seq: int, record: Record) -> None:
        epoch = int(number(record, "epoch"))
        if epoch <= self._epoch:
            self._found.say(f"record {seq} begins an epoch that is not newer: {epoch}")
        self._epoch = max(epoch, self._epoch)
        self.unlogged = self.unlogged or max(0, int(number(record, "unlogged")))
        self._has(seq, record, "settings")

    def _begin(self, seq: int, no: int, record: Record) -> None:
        if self._open is not None:
            self._found.say(f"record {seq} opens round {no} while another is open")
        again = no == 0 and self._last == 0 and not self.done
        if no <= self._last and not again:
            self._found.say(f"record {seq} opens round {no} again")
        base = text(record, "base")
        if self._base and base != self._base:
            self._found.say(
                f"round {no} (record {seq}) does not start from the model before it"
            )
        if base:
            self.models.setdefault(base, no - 1 if no else 0)
        if self.first_round is None:
            self.first_round = no
        self._has(seq, record, "settings")
        leaves = self._leaves(seq, record)
        tasks = {text(one, "task"): one for one in leaves}
        repeated = len(tasks) < len(leaves) or self._given & set(tasks)
        if repeated:
            self._found.say(f"round {no} (record {seq}) gives out a task again")
        self._tasks = {**self._tasks, **tasks} if again else tasks
        self._given |= set(tasks)
        self._open, self._opened, self._last = record, seq, max(no, self._last)

    def _end(self, seq: int, no: int, record: Record, kind: str) -> None:
        opened = self._open
        unplanned = opened is None and kind == "aborted"  # it could not be opened
        # A warm-up that nobody could do ends with masks that need no data.
        unplanned = unplanned or (opened is None and no == 0)
        if not unplanned and (opened is None or number(opened, "round") != no):
            self._found.say(f"record {seq} ends round {no}, which is not open")
        leaves = self._leaves(seq, record)
        counted = [one for one in leaves if one.get("counted") is True]
        self._check_tasks(seq, no, leaves)
        if self._whole and number(record, "counted") != len(counted):
            self._found.say(f"record {seq} counts other updates than its leaves")
        if kind == "aborted" and counted:
            self._found.say(f"round {no} (record {seq}) gave no model of its updates")
        for one in counted:
            self._check_counted(seq, no, one)
        if kind == "model":
            self.done += no > 0
            self._base = text(record, "model")
            self.models[self._base] = no
            if not self._base:
                self._found.say(f"round {no} (record {seq}) names no model")
            for one in counted:
                self._count(no, one)
            self._check_sum(seq, no, record, counted)
        if kind == "model" or no:
            self._tasks = {}
        self._open = None

    def _check_sum(
        self, seq: int, no: int, record: Record, counted: Sequence[Record]
    ) -> None:
        digest = text(self._open or {}, "settings")
        settings = object_of_content(self._proof, digest) or {}
        members = counted if self._whole else None
        for why in wrong_sums(settings, record, members) if no else ():
            self._found.say(f"round {no} (record {seq}): {why}")

    def _best(self, seq: int, record: Record) -> None:
        best = record.get("best")
        ended = set(self.models.values())
        for density, one in best.items() if isinstance(best, Mapping) else ():
            no = one.get("round") if isinstance(one, Mapping) else None
            if no not in ended and (self.first_round or 0) <= (no or 0):
                self._found.say(
                    f"record {seq} has a best model at density {density} of round {no},"
                    " which gave none"
                )

    # -- updates -----------------------------------------------------------------------

    def _leaves(self, seq: int, record: Record) -> Sequence[Record]:
        self._trees = (*self._trees, seq)
        return leaves_of(self._proof, seq, record, self._found, whole=self._whole)

    def _check_tasks(self, seq: int, no: int, leaves: Sequence[Record]) -> None:
        seen: set[str] = set()
        for one in leaves:
            task, device = text(one, "task"), text(one, "device")
            if task in seen:
                self._found.say(f"record {seq} has task {task} of {device} twice")
            seen.add(task)
            order = self._tasks.get(task)
            if order is None and self._opened:
                self._found.say(
                    f"record {seq} has a task of {device} that round {no} did not give "
                    f"out: {task}"
                )
            elif order is not None and (
                text(order, "device") != device
                or number(order, "density") != number(one, "density")
            ):
                self._found.say(f"record {seq} has task {task} of another device")
        if self._whole and no and (missing := set(self._tasks) - seen):
            self._found.say(f"record {seq} leaves out tasks: {sorted(missing)[:3]}")

    def _check_counted(self, seq: int, no: int, one: Record) -> None:
        device, weight, scale = text(one, "device"), number(one, "weight"), 1.0
        examples, scale = number(one, "examples"), number(one, "scale")
        where = f"round {no} (record {seq}), {device}"
        if text(one, "phase") != "accepted":
            self._found.say(f"{where}: an update counted that was not accepted")
        if not 0 < weight <= examples:
            self._found.say(f"{where}: it counts {weight:g} of {examples:g} examples")
        if name := misformed(one):
            self._found.say(f"{where}: its {name} cannot be read")
        if not 0 < scale <= 1:
            self._found.say(f"{where}: its change was taken {scale:g} times")
        if self._certificates is None:
            return
        if not text(one, "offer"):
            self.unsigned += 1
            if not self.unlogged or no != self.first_round:
                self._found.say(f"{where}: its device's signature is missing")
            return
        certificate = text(one, "certificate")
        self._check_offer(where, device, certificate, one)
        first = self._certified.setdefault(device, {}).setdefault(certificate, seq)
        if first < self._revoked.get(device, -1) < self._opened:
            self._found.say(f"{where}: it was asked after it had been revoked")

    def _check_offer(
        self, where: str, device: str, certificate: str, one: Record
    ) -> None:
        assert self._certificates is not None  # noqa: S101 - by the caller
        try:
            packet = base64.b64decode(text(one, "offer"), validate=True)
        except (ValueError, binascii.Error):
            packet = b""
        offer = self._certificates.offer_of(device, certificate, packet)
        if isinstance(offer, str):
            self._found.say(f"{where}: not signed by the device: {offer}")
        elif offer.task_id != text(one, "task"):
            self._found.say(f"{where}: the device signed an update for another task")
        elif offer.manifest.sha256.hex() != text(one, "update"):
            self._found.say(f"{where}: the device signed another update")
        elif (offer.examples, offer.manifest.size) != (
            number(one, "examples"),
            number(one, "size"),
        ):
            self._found.say(f"{where}: the device signed another number of examples")
        elif isinstance(offer.consent, str):
            self._consents.setdefault(device, set()).add(offer.consent)

    def _count(self, no: int, one: Record) -> None:
        part = self.devices.setdefault(
            text(one, "device"),
            {"rounds": 0, "examples": 0, "first": no, "last": no},
        )
        part["rounds"] += 1
        part["examples"] += int(number(one, "examples"))
        part["last"] = no
        part["consents"] = sorted(self._consents.get(text(one, "device"), ()))

    def _has(self, seq: int, record: Record, name: str) -> None:
        """A record names a content that is in the proof."""
        digest = text(record, name)
        if digest and object_of_content(self._proof, digest) is None:
            self._found.say(f"record {seq} names {name} that are not in the proof")


FOLDERS = ("leaves", "paths")


def object_of_content(proof: ProofFile, digest: str) -> Record | None:
    """A content of a proof as a JSON object; None if it is not there."""
    content = proof.members.get(f"contents/{digest}")
    return None if content is None else object_of(content)
