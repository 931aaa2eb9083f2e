"""Forged proofs by the thousand, and the time that long runs take to prove.

    python tests/bench/bench_proof.py [--mutations 10000] [--rounds 400] [--json FILE]

Mutations: each of the kinds of `tests/proof_mutations.py`, by somebody without a key
and, beside an earlier proof, by somebody with the coordinator's; a run of four devices
and four rounds. As many again of a run with secure aggregation, whose devices have no
identities: what is done to its proof shows in itself, or beside an earlier one; those
that show in itself are counted. Rounds: a run of the task `digits` (three devices,
updates drawn by chance, all kept), proved and verified with every model made again of
its updates.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "proof")]

from proof_mutations import KINDS, mutated  # noqa: E402
from provable import ProvableRun  # noqa: E402
from secure_house import SecureHouse  # noqa: E402
from test_recompute import Digits, settings_of  # noqa: E402

from coordinator.operations.prove import prove  # noqa: E402
from coordinator.operations.verify import verify, verify_open  # noqa: E402
from edge_sdk.errors import StateError  # noqa: E402
from edge_sdk.proof import ProofFile, read_proof  # noqa: E402
from edge_sdk.proof.signed import load_authority  # noqa: E402


def proof_of(folder: Path) -> tuple[ProvableRun, dict[str, bytes]]:
    made = ProvableRun(folder)
    for no in range(1, 5):
        made.round(no)
    made.close()
    prove(folder, folder / "proof.zip")
    with read_proof(folder / "proof.zip") as proof:
        return made, dict(proof.members)


def forged(count: int, folder: Path) -> dict[str, object]:
    run, true = proof_of(folder / "one")
    _, other = proof_of(folder / "other")
    assert run.identities is not None
    whom = load_authority(run.identities.authority)
    certificate = json.loads(true["heads.jsonl"].splitlines()[-1])["certificate"]
    signing = certificate, run.identities.log_keys().sign
    rng = np.random.default_rng(1)
    done: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    began = time.process_time()
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        insider = i // len(KINDS) % 4 == 3
        made = mutated(
            true, kind, rng, other=other, signing=signing if insider else None
        )
        earlier = ProofFile(true) if insider else None
        found = found_in(made, authority=whom, earlier=earlier)
        name = f"{kind}, {'insider' if insider else 'stranger'}"
        done[name] += 1
        if not found:
            missed[name] += 1
            print("MISSED", name, flush=True)
    return {
        "mutations": count,
        "missed": sum(missed.values()),
        "by_kind": dict(sorted(done.items())),
        "cpu_s": round(time.process_time() - began, 1),
    }


def forged_sums(count: int, folder: Path) -> dict[str, object]:
    """Forgeries of a proof whose updates are masked."""
    true, other = (secure_proof(folder / name) for name in ("masked", "masked-too"))
    rng = np.random.default_rng(2)
    missed: Counter[str] = Counter()
    alone = 0
    began = time.process_time()
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        made = mutated(true, kind, rng, other=other)
        if found_in(made):
            alone += 1
        elif not found_in(made, earlier=ProofFile(true)):
            missed[kind] += 1
            print("MISSED", kind, "of a secure run", flush=True)
    return {
        "mutations": count,
        "missed": sum(missed.values()),
        "found_in_itself": alone,
        "cpu_s": round(time.process_time() - began, 1),
    }


def found_in(made: dict[str, bytes], **more: Any) -> tuple[str, ...]:
    try:
        return verify_open(ProofFile(made), **more).found
    except StateError as error:
        return (str(error),)


def secure_proof(folder: Path) -> dict[str, bytes]:
    here = SecureHouse(folder, 4, rounds=3, keep_updates=True)
    try:
        here.run(8000)
        prove(here.run_folder, folder / "proof.zip")
    finally:
        here.close()
    with read_proof(folder / "proof.zip") as proof:
        return dict(proof.members)


def long_run(rounds: int, folder: Path) -> dict[str, object]:
    folder.mkdir()
    run = Digits(folder, settings_of(folder, rounds=rounds, keep_updates=True))
    for no in range(1, rounds + 1):
        run.round(no)
    run.close()
    walls, cpus = [time.perf_counter()], [time.process_time()]
    made = prove(folder, folder / "proof.zip")
    walls, cpus = [*walls, time.perf_counter()], [*cpus, time.process_time()]
    found = verify(folder / "proof.zip")
    walls, cpus = [*walls, time.perf_counter()], [*cpus, time.process_time()]
    assert found.holds, found.found
    return {
        "rounds": rounds,
        "records": made.records,
        "updates": made.updates,
        "proof_mib": round((folder / "proof.zip").stat().st_size / 2**20, 1),
        "prove_s": round(walls[1] - walls[0], 1),
        "verify_s": round(walls[2] - walls[1], 1),
        "cpu_s": round(cpus[2] - cpus[0], 1),
        "notes": found.notes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    told: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        told["long_run"] = long_run(given.rounds, Path(folder) / "long")
        print(json.dumps(told["long_run"]), flush=True)
        told["forged"] = forged(given.mutations, Path(folder))
        print(json.dumps(told["forged"]), flush=True)
        told["forged_sums"] = forged_sums(given.mutations, Path(folder))
        print(json.dumps(told["forged_sums"]), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
