"""Whatever is done to a proof is found; `make bench-proof` does 10,000 such things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proof_mutations import KINDS, Draft, Signing, mutated
from provable import ProvableRun

from coordinator.operations.prove import prove
from coordinator.operations.verify import verify_open
from edge_sdk.errors import StateError
from edge_sdk.proof import ProofFile, read_proof
from edge_sdk.proof.signed import load_authority


def members_of(path: Path) -> dict[str, bytes]:
    with read_proof(path) as proof:
        return dict(proof.members)


@pytest.fixture(scope="module")
def true(proof: Path) -> dict[str, bytes]:
    return members_of(proof)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    made = ProvableRun(tmp_path_factory.mktemp("other"))
    for no in range(1, 5):
        made.round(no)
    made.close()
    prove(made.folder, made.folder / "proof.zip")
    return members_of(made.folder / "proof.zip")


@pytest.fixture(scope="module")
def signing(run: ProvableRun, true: dict[str, bytes]) -> Signing:
    """The coordinator's own key, as its log names it last."""
    assert run.identities is not None
    certificate = json.loads(true["heads.jsonl"].splitlines()[-1])["certificate"]
    return certificate, run.identities.log_keys().sign


def found(run: ProvableRun, members: dict[str, bytes], **more: Any) -> tuple[str, ...]:
    whom = load_authority(run.authority().read_bytes())
    try:
        return verify_open(ProofFile(members), authority=whom, **more).found
    except StateError as error:
        return (str(error),)


def test_sealing_a_draft_anew_changes_nothing(true: dict[str, bytes]) -> None:
    assert Draft.of(true).sealed() == true


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_stranger_does_is_found(
    run: ProvableRun, true: dict[str, bytes], other: dict[str, bytes], kind: str
) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(10):
        assert found(run, mutated(true, kind, rng, other=other))


@pytest.mark.parametrize("kind", KINDS[:12])
def test_what_an_insider_does_is_found_beside_a_proof_from_before(
    run: ProvableRun,
    true: dict[str, bytes],
    other: dict[str, bytes],
    signing: Signing,
    kind: str,
) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(3):
        made = mutated(true, kind, rng, other=other, signing=signing)
        assert found(run, made, earlier=ProofFile(true))


def _leaf(draft: Draft, name: str) -> dict[str, Any]:
    """The last update of a device that counted, as an insider can rewrite it."""
    return next(
        leaf
        for leaves in reversed(draft.leaves)
        for leaf in leaves
        if leaf.get("counted") and leaf["device"] == name
    )


def test_an_insider_alone_cannot_weigh_a_device_anew_or_speak_for_it(
    run: ProvableRun, true: dict[str, bytes], signing: Signing
) -> None:
    """Without any earlier proof: by the settings, and by the devices' signatures."""
    for change, said in (
        ({"weight": 8.0}, "by the settings 9 by 1"),
        ({"scale": 0.5}, "by the settings 9 by 1"),
        ({"weight": 18.0, "examples": 18}, "signed another number of examples"),
        ({"weight": 18.0}, "it counts 18 of 9 examples"),
        ({"scale": 2.0}, "its change was taken 2 times"),
        ({"update": "0" * 64}, "signed another update"),
        ({"offer": ""}, "its device's signature is missing"),
        ({"phase": "rejected"}, "that was not accepted"),
        ({"counted": False}, "counts other updates than its leaves"),
    ):
        draft = Draft.of(true)
        _leaf(draft, "pi-00").update(change)
        told = found(run, draft.sealed(signing))
        assert any(said in one for one in told), (change, told)
    draft = Draft.of(true)
    _leaf(draft, "pi-00").update(
        {k: _leaf(draft, "pi-03")[k] for k in ("offer", "certificate", "update")}
    )
    told = found(run, draft.sealed(signing))
    assert any("not signed by the device" in one for one in told)


def test_an_update_of_a_device_that_was_revoked_before_it_was_asked_is_found(
    run: ProvableRun, true: dict[str, bytes], signing: Signing
) -> None:
    draft = Draft.of(true)
    at = next(i for i, r in enumerate(draft.records) if r["kind"] == "revoked")
    to = max(i for i, r in enumerate(draft.records[:at]) if r["kind"] == "round")
    for part in (draft.records, draft.leaves, draft.heads):
        part.insert(to, part.pop(at))  # type: ignore[attr-defined]
    told = found(run, draft.sealed(signing))
    assert any("after it had been revoked" in one for one in told), told
