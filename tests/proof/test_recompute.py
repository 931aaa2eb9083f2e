"""Models are made again from a proof, bit for bit, by the product's own aggregation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from proof_mutations import Draft

from coordinator.algorithms.load import load_algorithm
from coordinator.identity.run_log import begin_log
from coordinator.ledger import Ledger, TaskRow, open_ledger
from coordinator.operations.prove import prove
from coordinator.operations.verify import verify, verify_open
from coordinator.rounds.contribution_limits import shares
from coordinator.rounds.state import TaskPhase
from coordinator.server.global_model import GlobalModel
from coordinator.settings import RunSettings
from edge_sdk.proof import ProofFile, read_proof
from edge_sdk.proof.chain import record_line
from edge_sdk.tasks.task import load_task
from edge_sdk.wire.values import Values, pack_values

DEVICES = {"pi-0": 0.2, "pi-1": 0.2, "pi-2": 0.05}


@dataclass
class Digits:
    """A run of the task ``digits``, its devices' updates drawn by chance."""

    folder: Path
    settings: RunSettings

    def __post_init__(self) -> None:
        self.ledger: Ledger = open_ledger(self.folder)
        self.ledger.next_epoch()
        begin_log(self.ledger, self.settings, None)
        algorithm = load_algorithm(self.settings.algorithm)
        task = load_task("digits")
        self.model = GlobalModel(self.settings, task, algorithm, self.ledger)
        self.model.plan_masks()

    def round(self, no: int) -> None:
        """A round of three devices, and what the coordinator makes of it."""
        base, family = self.model.base_of(no)
        done = [r.model for r in self.ledger.rounds() if r.model]
        self.ledger.plan_round(
            no, goal=3, quorum=1, rate=0.1, base=str(done[-1]) if done else ""
        )
        tasks = [
            TaskRow(f"{no}-{device}", no, device, density, TaskPhase.ASSIGNED, b"order")
            for device, density in DEVICES.items()
        ]
        masks = {t.device: family.of(t.device, t.density) for t in tasks}
        self.ledger.issue_tasks(no, tasks, masks)
        for task in tasks:
            rng = np.random.default_rng([no, *task.device.encode()])
            mask = masks[task.device]
            sent = base.sent(mask)

            def drawn(like: Any, rng: np.random.Generator = rng) -> Any:
                return rng.normal(0, 0.01, like.shape).astype(like.dtype)

            change = Values(
                mask.digest,
                {n: drawn(a) for n, a in sent.masked.items()},
                {n: drawn(a) for n, a in sent.dense.items()},
            )
            self.ledger.accept(
                task, pack_values(change, mask), examples=7, norm=change.norm(),
                metrics={"steps": 2.0},
            )  # fmt: skip
        bounds = self.settings.bounds
        limit = partial(
            shares, clip=bounds.clip, weight=bounds.weight, influence=bounds.influence
        )
        self.ledger.freeze(no, limit)
        self.ledger.finish(no, model=self.model.grow(no, self.ledger.frozen(no)))
        if not self.settings.keep_updates:
            self.ledger.forget_blobs(no - 2)

    def close(self) -> None:
        """Ends it."""
        self.ledger.close()


def settings_of(folder: Path, **more: Any) -> RunSettings:
    given = {
        "federation": "greenhouse", "task": "digits", "evaluation": folder,
        "densities": [0.2, 0.05], "rounds": 5, "algorithm": "equal-counts",
    }  # fmt: skip
    return msgspec.convert({**given, **more}, RunSettings)


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    run = Digits(folder, settings_of(folder, keep_updates=True))
    for no in range(1, 6):
        run.round(no)
    run.close()
    prove(folder, folder / "proof.zip")
    return folder


def test_every_model_is_made_again_where_updates_are_kept(proved: Path) -> None:
    newest = proved / "checkpoints" / "round-00005.safetensors"
    found = verify(proved / "proof.zip", model=newest)
    assert found.found == ()
    assert "5 of 5 models were made again, bit for bit" in found.notes


def test_a_model_that_its_updates_do_not_make_is_found(proved: Path) -> None:
    """An insider's own tale: all hashes fit, and every update is as it was sent."""
    with read_proof(proved / "proof.zip") as proof:
        draft = Draft.of(dict(proof.members))
    for no in (3, 5):
        told = Draft(
            [dict(r) for r in draft.records], draft.leaves, draft.heads, draft.rest
        )
        old = next(
            r["model"]
            for r in told.records
            if r["kind"] == "model" and r["round"] == no
        )
        for record in told.records:
            for name in ("model", "base"):
                if record.get(name) == old:
                    record[name] = "0" * 64
        found = verify_open(ProofFile(told.sealed()))
        assert found.found == (f"the model of round {no} is not what its updates make",)


def test_fields_of_another_type_are_named_and_raise_nothing(proved: Path) -> None:
    """Whoever makes a proof up, hashes and all, chooses the types of its values."""
    with read_proof(proved / "proof.zip") as proof:
        members = dict(proof.members)
    fields = ("device", "update", "density", "examples", "norm", "scale", "weight")
    cases = [(name, value) for name in fields for value in (None, [1], {})]
    metrics = ("x", None, [2.0], {"steps": "x"}, {"steps": [1]}, {"steps": True})
    cases += [("metrics", value) for value in metrics]
    for name, value in cases:
        told = Draft.of(members)
        leaf = next(one for own in told.leaves for one in own if one.get("counted"))
        leaf[name] = value
        found = verify_open(ProofFile(told.sealed())).found
        assert any(f"its {name} cannot be read" in one for one in found), (name, value)


@pytest.mark.parametrize("content", [{}, {"privacy": 3}, {"privacy": {}, "gate": 3}])
def test_settings_of_another_form_are_a_finding_and_raise_nothing(
    proved: Path, content: dict[str, Any]
) -> None:
    with read_proof(proved / "proof.zip") as proof:
        told = Draft.of(dict(proof.members))
    line = record_line(content)
    name = sha256(line).hexdigest()
    told.rest[f"contents/{name}"] = line
    for record in told.records:
        if "settings" in record:
            record["settings"] = name
    assert verify_open(ProofFile(told.sealed())).found


def test_by_default_the_last_rounds_are_made_again(tmp_path: Path) -> None:
    run = Digits(tmp_path, settings_of(tmp_path))
    for no in range(1, 5):
        run.round(no)
    run.close()
    prove(tmp_path, tmp_path / "proof.zip")
    found = verify(tmp_path / "proof.zip")
    assert found.found == ()
    assert "2 of 4 models were made again, bit for bit" in found.notes
    prove(tmp_path, tmp_path / "small.zip", with_updates=False)
    notes = verify(tmp_path / "small.zip").notes
    assert any("no updates' bytes" in note for note in notes)


def test_a_task_that_is_not_here_is_said_and_the_rest_holds(tmp_path: Path) -> None:
    run = Digits(tmp_path, settings_of(tmp_path))
    run.round(1)
    run.close()
    prove(tmp_path, tmp_path / "proof.zip")
    with read_proof(tmp_path / "proof.zip") as proof:
        members = dict(proof.members)
    draft = Draft.of(members)
    settings = next(r["settings"] for r in draft.records if r["kind"] == "round")
    content = members[f"contents/{settings}"]
    other = content.replace(b'"task": "digits"', b'"task": "nowhere:task"')
    name = sha256(other).hexdigest()
    draft.rest[f"contents/{name}"] = other
    for record in draft.records:
        if "settings" in record:
            record["settings"] = name
    found = verify_open(ProofFile(draft.sealed()))
    assert found.found == ()
    assert any("no model was made again here" in note for note in found.notes)


def test_the_updates_of_a_private_run_stay_where_they_are(tmp_path: Path) -> None:
    private = {"noise_multiplier": 1.0, "clip": 0.5}
    run = Digits(tmp_path, settings_of(tmp_path, privacy=private, cohort=3))
    run.round(1)
    run.close()
    assert prove(tmp_path, tmp_path / "proof.zip").updates == 0
    with read_proof(tmp_path / "proof.zip") as proof:
        assert not [n for n in proof.members if n.startswith(("updates/", "models/"))]
        assert b"noise_key" not in b"".join(proof.members.values())
    assert verify(tmp_path / "proof.zip").holds
