"""Proofs of runs whose updates are masked: what is verified, and what is found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from proof_mutations import KINDS, Draft, mutated
from secure_house import SecureHouse

import coordinator
from coordinator.operations.prove import prove
from coordinator.operations.verify import verify, verify_open
from edge_sdk.errors import StateError
from edge_sdk.proof import ProofFile, read_proof
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.secure.fixed_point import pack_ring, unpack_ring
from edge_sdk.wire.secure.messages import SecureDelivery

DONE = "3 of 3 models were made again, bit for bit"


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three rounds of six devices; one is lost in the first, after its shares.

    One has far more examples than the others: by `[gate]` it would not count in full.
    """
    folder = tmp_path_factory.mktemp("proved")
    more = {"rounds": 3, "keep_updates": True, "round_budget_s": 60.0}
    here = SecureHouse(folder, 5, wait_for=6, **more)
    here.join("rich", examples=9000)
    lost = here.devices["pi-2"]
    here.broker.before(SecureDelivery, "pi-2", lost.kill)
    here.run(8000)
    coordinator.prove(here.run_folder, folder / "proof.zip")
    prove(here.run_folder, folder / "one.zip", device="pi-1")
    prove(here.run_folder, folder / "small.zip", with_updates=False)
    yield folder
    here.close()


def members_of(path: Path) -> dict[str, bytes]:
    with read_proof(path) as proof:
        return dict(proof.members)


def found(members: dict[str, bytes], **more: Any) -> tuple[str, ...]:
    try:
        return verify_open(ProofFile(members), **more).found
    except StateError as error:
        return (str(error),)


def test_each_sum_is_read_again_from_masked_updates_and_each_model_of_sums(
    proved: Path,
) -> None:
    told = coordinator.verify(proved / "proof.zip")
    assert told.found == ()
    assert DONE in told.notes
    assert any("no single update is in the proof" in note for note in told.notes)
    assert "pi-2" not in told.devices  # it was dropped: no masked update of it counts
    assert told.devices["pi-1"]["rounds"] == 3


@pytest.mark.parametrize("name", ["one", "small"])
def test_without_updates_the_chain_holds_and_says_that_no_model_was_made(
    proved: Path, name: str
) -> None:
    told = verify(proved / f"{name}.zip")
    assert told.found == ()
    assert any("no model was made again" in note for note in told.notes)
    names = members_of(proved / f"{name}.zip")
    assert not [n for n in names if n.startswith("updates/")]


def of_round(draft: Draft, no: int, kind: str = "model") -> int:
    return next(
        at
        for at, record in enumerate(draft.records)
        if record["kind"] == kind and record["round"] == no
    )


def told_otherwise(proved: Path, change: Any) -> tuple[str, ...]:
    draft = Draft.of(members_of(proved / "proof.zip"))
    change(draft, draft.records[of_round(draft, 2)])
    return found(draft.sealed())


def test_a_sum_that_is_not_that_of_the_masked_updates_is_found(proved: Path) -> None:
    """By somebody who may write every hash anew: the log then follows from itself."""

    def heavier(_: Draft, record: dict[str, Any]) -> None:
        record["sum"]["means"][0][2] -= 10

    def another(draft: Draft, record: dict[str, Any]) -> None:
        other = draft.records[of_round(draft, 3)]
        record["sum"]["means"] = other["sum"]["means"]

    def unmasked_otherwise(draft: Draft, record: dict[str, Any]) -> None:
        other = draft.records[of_round(draft, 3)]
        record["sum"]["unmasking"] = other["sum"]["unmasking"]

    for change in (heavier, another, unmasked_otherwise):
        (said,) = told_otherwise(proved, change)
        assert said.startswith("the sum of round 2"), said


def test_a_survivor_that_is_said_to_be_out_and_one_that_is_made_up_are_found(
    proved: Path,
) -> None:
    def out(draft: Draft, record: dict[str, Any]) -> None:
        leaves = draft.leaves[of_round(draft, 2)]
        one = next(leaf for leaf in leaves if leaf.get("counted"))
        one["counted"], record["counted"] = False, record["counted"] - 1

    def out_with_its_weight(draft: Draft, record: dict[str, Any]) -> None:
        out(draft, record)
        record["sum"]["means"][0][2] = record["counted"] * 1.0

    (said,) = told_otherwise(proved, out)
    assert "its sum weighs" in said
    (said,) = told_otherwise(proved, out_with_its_weight)
    assert said.startswith("the sum of round 2 is not that of its masked updates: ")

    def few(draft: Draft, record: dict[str, Any]) -> None:
        leaves = draft.leaves[of_round(draft, 2)]
        counted = [leaf for leaf in leaves if leaf.get("counted")]
        for one in counted[2:]:
            one["counted"] = False
        record["counted"] = 2

    assert any("its sum is of 2 updates" in one for one in told_otherwise(proved, few))


def test_a_model_without_a_sum_and_a_sum_where_none_belongs_are_found(
    proved: Path,
) -> None:
    def without(_: Draft, record: dict[str, Any]) -> None:
        del record["sum"]

    def malformed(_: Draft, record: dict[str, Any]) -> None:
        record["sum"] = {"means": [[0.2, 3, "x"]], "unmasking": "0" * 64}

    def heavy(_: Draft, record: dict[str, Any]) -> None:
        record["sum"]["means"][0][2] *= 3

    for change, said in (
        (without, "it names no sum of masked updates"),
        (malformed, "it names no sum of masked updates"),
        (heavy, "its updates have"),
    ):
        assert any(said in one for one in told_otherwise(proved, change)), said


@pytest.mark.parametrize("kind", sorted(KINDS[:-1]))
def test_whatever_is_done_to_such_a_proof_is_found(proved: Path, kind: str) -> None:
    true = members_of(proved / "proof.zip")
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(3):
        made = mutated(true, kind, rng, other=true)
        assert found(made, earlier=ProofFile(true)), kind


def test_what_reads_the_sums_of_old_rounds_goes_with_their_updates(
    tmp_path: Path,
) -> None:
    here = SecureHouse(tmp_path, 3, rounds=4)
    try:
        here.run(8000)
        kept = {path.name for path in (here.run_folder / "blobs").iterdir()}
    finally:
        here.close()
    prove(here.run_folder, tmp_path / "proof.zip")
    told = verify(tmp_path / "proof.zip")
    assert told.found == ()
    assert "2 of 4 models were made again, bit for bit" in told.notes
    sums = [
        {*(name for _, name, _ in record["sum"]["means"]), record["sum"]["unmasking"]}
        for record in Draft.of(members_of(tmp_path / "proof.zip")).records
        if record["kind"] == "model"
    ]
    assert [bool(names & kept) for names in sums] == [False, True, True, True]


def test_an_update_of_another_length_is_in_neither_the_sum_nor_the_proof(
    tmp_path: Path,
) -> None:
    """Its device is named; what the log counts is what the sum is made of."""
    unequal = {"algorithm": "secure_messages:UNEQUAL", "densities": [0.1, 0.4]}
    board = "jetson_orin_nano"
    here = SecureHouse(tmp_path, 8, board=board, rounds=1, **unequal)
    aggregator = here.devices["pi-2"].agent._session_effects.secure
    masked = aggregator.masked

    def shorter(order: TaskOrder, update: PackedUpdate) -> PackedUpdate | None:
        found = masked(order, update)
        if found is None:
            return None
        how, digest = order.secure, found.offer.mask_digest
        vector = unpack_ring(found.payload, digest, how.bits, how.sizes[-1])
        payload = pack_ring(vector[: how.sizes[0]], digest)
        offer = structs.replace(found.offer, manifest=manifest_of(payload))
        return replace(found, offer=offer, payload=payload)

    aggregator.masked = shorter
    try:
        here.run(8000)
        why = here.coordinator.ledger._db.execute(
            "SELECT why FROM tasks WHERE device = 'pi-2'"
        ).fetchone()["why"]
    finally:
        here.close()
    assert why == "its update is not one that it was asked to mask"
    prove(here.run_folder, tmp_path / "proof.zip")
    told = verify(tmp_path / "proof.zip")
    assert told.found == ()
    assert "1 of 1 models were made again, bit for bit" in told.notes
    assert "pi-2" not in told.devices
