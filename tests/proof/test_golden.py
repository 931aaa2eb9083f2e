"""The bytes of a log and of a proof, as the first version that had them wrote them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from edge_sdk.proof import FIRST, link, read_proof, record_line, root_of, write_proof

RECORD = {
    "seq": 0, "kind": "model", "round": 1, "at": "2026-11-29T00:00:00.000+00:00",
    "counted": 1, "note": "ü", "model": "0" * 64, "leaves": 1,
}  # fmt: skip
LEAF = {"task": "1-a", "device": "pi-1", "weight": 9.0, "scale": 1.0, "why": "a\nb"}
GOLDEN_LINE = (
    b'{"at": "2026-11-29T00:00:00.000+00:00", "counted": 1, "kind": "model", '
    b'"leaves": 1, "model": "' + b"0" * 64 + b'", "note": "\\u00fc", "round": 1, '
    b'"seq": 0}'
)
GOLDEN_LEAF = (
    b'{"device": "pi-1", "scale": 1.0, "task": "1-a", "weight": 9.0, "why": "a\\nb"}'
)
GOLDEN_HEAD = "6752672d5d6029f5b75ba2479da4dad64bf2305d6a0e103869c862d85d24fb36"
GOLDEN_ROOT = "ea1aa5f79102af0de7752783988ba40170da81c105ec8b7ed747164151a92b75"
GOLDEN_FILE = "d885aea54338ab2d2b76d973b271dedf4603b84a958ffad92c2f379ac791f277"


def test_records_and_leaves_have_one_form() -> None:
    assert record_line(RECORD) == GOLDEN_LINE
    assert record_line(LEAF) == GOLDEN_LEAF


def test_heads_and_roots_are_as_they_were() -> None:
    assert link(FIRST, GOLDEN_LINE).hex() == GOLDEN_HEAD
    by_hand = sha256(
        b"flash-edge log 1\n" + bytes(32) + sha256(GOLDEN_LINE).digest()
    ).hexdigest()
    assert by_hand == GOLDEN_HEAD
    assert root_of([GOLDEN_LEAF]).hex() == GOLDEN_ROOT


def test_a_proof_has_the_same_bytes_wherever_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "proof.zip"
    members = [("records.jsonl", GOLDEN_LINE + b"\n"), ("run.json", b"{}")]
    table = {"federation": "f", "made": "now", "device": ""}
    write_proof(path, members, table, lambda text: sha256(text).digest() * 2)
    assert sha256(path.read_bytes()).hexdigest() == GOLDEN_FILE
    with read_proof(path) as proof:
        assert list(proof.members) == [
            "records.jsonl", "run.json", "proof.json", "proof.sig",
        ]  # fmt: skip
        assert proof.lines("records.jsonl") == [GOLDEN_LINE]
