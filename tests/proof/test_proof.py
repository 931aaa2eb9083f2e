"""Proofs of a run: what holds, what is named, what a device can check."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from provable import ProvableRun

from coordinator.ledger import open_ledger
from coordinator.ledger.schema import open_to_write
from coordinator.operations.prove import prove
from coordinator.operations.verify import verify
from edge_sdk.checksums import file_digest
from edge_sdk.errors import IdentityError, StateError
from edge_sdk.proof import read_proof, verify_proof
from edge_sdk.proof.own_updates import own_updates
from edge_sdk.proof.report import as_text


def test_a_stranger_with_the_authority_alone_verifies_it(
    run: ProvableRun, proof: Path
) -> None:
    found = verify(proof, authority=run.authority())
    assert found.found == ()
    assert (found.rounds, found.signed, found.first) == (4, True, 0)
    assert found.devices["pi-00"]["rounds"] == 4
    assert found.devices["pi-02"]["rounds"] == 2  # refused in the others
    assert found.devices["pi-01"]["last"] == 3


def test_what_people_agreed_to_is_signed_with_each_update_and_reported(
    tmp_path: Path,
) -> None:
    made = ProvableRun(tmp_path / "run", devices=2)
    made.consents["pi-01"] = "research only, form 7 of 2026"
    made.round(1)
    made.consents["pi-01"] = "research and product"
    made.round(2)
    prove(made.folder, tmp_path / "proof.zip")
    made.close()
    found = verify(tmp_path / "proof.zip", authority=made.authority())
    assert found.found == ()
    assert found.devices["pi-00"]["consents"] == []
    both = ["research and product", "research only, form 7 of 2026"]
    assert found.devices["pi-01"]["consents"] == both
    assert f"consent: {both[0]}, consent: {both[1]}" in as_text(found)


def test_a_round_that_closes_while_a_proof_is_written_takes_no_update_out_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ProvableRun(tmp_path / "run", devices=2)
    checkpoints, blobs = made.folder / "checkpoints", made.folder / "blobs"
    checkpoints.mkdir(exist_ok=True)
    for no in (1, 2):
        made.round(no)
        path = checkpoints / f"round-{no:05d}.safetensors"
        path.write_bytes(made.model(no))
    left = [3, 4]

    def slowly(path: Path) -> str:
        while left and path.stem == "round-00002":
            for blob in blobs.iterdir():
                blob.unlink()  # updates of rounds before it go with a round's end
            no = left.pop(0)
            made.round(no)
            (checkpoints / f"round-{no:05d}.safetensors").write_bytes(made.model(no))
        return file_digest(path)

    monkeypatch.setattr("coordinator.operations.prove.file_digest", slowly)
    assert prove(made.folder, tmp_path / "proof.zip").updates == 2
    made.close()
    with zipfile.ZipFile(tmp_path / "proof.zip") as archive:
        names = archive.namelist()
    assert sum(name.startswith("updates/") for name in names) == 2
    assert verify(tmp_path / "proof.zip", authority=made.authority()).found == ()


def test_without_an_authority_it_says_that_no_signature_was_checked(
    proof: Path,
) -> None:
    found = verify(proof)
    assert found.holds
    assert not found.signed
    assert any("nobody's signature" in note for note in found.notes)


def test_another_authority_is_named(proof: Path, tmp_path: Path) -> None:
    other = ProvableRun(tmp_path / "other", devices=2)
    other.close()
    found = verify(proof, authority=other.authority())
    assert any("not signed by the run's coordinator" in one for one in found.found)
    (tmp_path / "none.pem").write_text("-----BEGIN nothing")
    with pytest.raises(IdentityError, match="authority's certificate"):
        verify(proof, authority=tmp_path / "none.pem")


def test_a_model_is_found_in_the_log_or_named_as_foreign(
    run: ProvableRun, proof: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(run.model(4))
    assert verify(proof, model=path).holds
    path.write_bytes(run.model(4) + b"x")
    (said,) = verify(proof, model=path).found
    assert "no aggregate and no model of this log" in said


def test_a_proof_continues_an_earlier_one_or_says_where_it_was_cut(
    run: ProvableRun, proof: Path, tmp_path: Path
) -> None:
    early = run.folder / "early.zip"
    assert verify(proof, authority=run.authority(), earlier=early).holds
    (cut,) = verify(early, earlier=proof).found
    assert "it was cut" in cut


def test_a_log_that_was_put_back_and_went_on_has_two_heads(tmp_path: Path) -> None:
    made = ProvableRun(tmp_path / "run", devices=2)
    made.round(1)
    made.close()
    kept = {p.name: p.read_bytes() for p in made.folder.glob("ledger.sqlite*")}
    made.again()
    made.round(2)
    prove(made.folder, tmp_path / "first.zip")
    made.close()
    for path in made.folder.glob("ledger.sqlite*"):
        path.unlink()
    for name, content in kept.items():
        (made.folder / name).write_bytes(content)
    made.seed = 2
    made.again()
    made.round(2)
    made.close()
    prove(made.folder, tmp_path / "second.zip")
    whom = made.authority()
    assert verify(tmp_path / "second.zip", authority=whom).holds  # its own tale
    found = verify(tmp_path / "second.zip", earlier=tmp_path / "first.zip")
    assert any("two heads" in one for one in found.found)


def test_a_device_sees_its_own_updates_and_hashes_of_the_others(
    run: ProvableRun, tmp_path: Path
) -> None:
    prove(run.folder, tmp_path / "own.zip", device="pi-00")
    found = verify(tmp_path / "own.zip", authority=run.authority())
    assert found.found == ()
    assert set(found.devices) == {"pi-00"}
    assert found.devices["pi-00"]["rounds"] == 4
    with zipfile.ZipFile(tmp_path / "own.zip") as archive:
        seen = b"".join(archive.read(n) for n in archive.namelist() if "paths" in n)
    assert b"pi-00" in seen
    assert b"pi-03" not in seen
    with pytest.raises(StateError, match="device pi-77 is in no round"):
        prove(run.folder, tmp_path / "none.zip", device="pi-77")
    assert not (tmp_path / "none.zip").exists()


def test_a_run_without_a_log_is_named_with_the_remedy(tmp_path: Path) -> None:
    db = open_to_write(tmp_path / "ledger.sqlite")
    for table in ("log", "log_contents", "offers"):
        db.execute(f"DROP TABLE {table}")
    db.close()
    with pytest.raises(StateError, match="has no log") as caught:
        prove(tmp_path, tmp_path / "proof.zip")
    assert "flash-coordinator resume" in caught.value.help


def test_rounds_before_the_log_are_not_taken_as_proved(tmp_path: Path) -> None:
    made = ProvableRun(tmp_path, devices=3)
    made.round(1)
    made.close()
    db = open_to_write(tmp_path / "ledger.sqlite")
    db.execute("DELETE FROM log")
    db.execute("DELETE FROM log_contents")
    db.close()
    made.again()
    made.round(2)
    made.close()
    prove(tmp_path, tmp_path / "proof.zip")
    found = verify(tmp_path / "proof.zip", authority=made.authority())
    assert found.holds
    assert any("1 rounds are older than the log" in note for note in found.notes)


def test_a_folded_ledger_proves_what_it_keeps(tmp_path: Path) -> None:
    made = ProvableRun(tmp_path, keep_rounds=4)
    for no in range(1, 13):
        made.round(no)
    made.close()
    prove(tmp_path, tmp_path / "proof.zip")
    found = verify(tmp_path / "proof.zip", authority=made.authority())
    assert found.found == ()
    assert found.first > 0
    assert found.rounds == 5
    assert any("the proof begins with round 8" in note for note in found.notes)
    db = open_to_write(tmp_path / "ledger.sqlite")
    (records,) = db.execute("SELECT count(*) FROM log").fetchone()
    (contents,) = db.execute("SELECT count(*) FROM log_contents").fetchone()
    db.close()
    assert records == 5 * 4
    assert contents == 4 + 3  # certificates of devices, ours; settings, authority


def test_without_identities_the_chain_alone_is_proved(tmp_path: Path) -> None:
    made = ProvableRun(tmp_path, devices=2, identities=False)
    made.round(1)
    made.close()
    prove(tmp_path, tmp_path / "proof.zip")
    assert verify(tmp_path / "proof.zip").holds


def test_a_crash_before_the_commit_leaves_neither_the_round_nor_its_record(
    tmp_path: Path,
) -> None:
    made = ProvableRun(tmp_path, devices=2)
    made.round(1, until="accepted")
    before = made.ledger.read_log()
    with made.ledger._commits.joined() as db:
        made.ledger._append(db, "model", 1, {}, [])
    made.ledger._commits.give_up()  # what a killed process leaves
    made.ledger.close()
    ledger = open_ledger(tmp_path)
    assert ledger.read_log() == before
    ledger.close()


@pytest.mark.parametrize("cut", [0, 10, -30])
def test_a_file_that_is_no_proof_is_named(
    proof: Path, tmp_path: Path, cut: int
) -> None:
    broken = tmp_path / "broken.zip"
    broken.write_bytes(proof.read_bytes()[:cut])
    with (
        pytest.raises(StateError, match="no proof of a run"),
        read_proof(broken) as one,
    ):
        verify_proof(one)


def test_a_proof_of_another_format_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.writestr("proof.json", json.dumps({"format": 2}))
    with pytest.raises(StateError, match="format 2; this version reads 1"):
        verify(tmp_path / "new.zip")


def test_a_device_finds_an_update_that_it_did_not_send(proof: Path) -> None:
    with read_proof(proof) as opened:
        leaves = [
            json.loads(line)
            for name in opened.members
            if name.startswith("leaves/")
            for line in opened.lines(name)
        ]
        sent = {
            leaf["task"]: leaf["update"]
            for leaf in leaves
            if leaf["device"] == "pi-00" and leaf.get("counted")
        }
        told = frozenset(sent)
        mine = own_updates(opened, "pi-00", sent, told)
        assert (set(mine.counted), mine.wrong) == (told, ())
        other = {**sent, min(sent): "0" * 64}
        (wrong,) = own_updates(opened, "pi-00", other, told).wrong
        assert "is not the one that was sent" in wrong
        more = {**sent, "1-gone": "0" * 64, "9-later": "0" * 64}
        mine = own_updates(opened, "pi-00", more, frozenset(more))
        assert mine.open == ("9-later",)
        assert mine.wrong == (
            "the update for task 1-gone was accepted and is not there",
        )
