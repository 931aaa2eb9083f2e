"""Secure rounds whose coordinator and devices are killed; `main` does many seeds.

``python tests/secure_kills.py --seeds 50``: a run of three rounds for each seed, in
virtual time, and a reader of every message that went through the broker.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from secure_house import SecureHouse
from secure_messages import check

from coordinator.checkpoints.models import model_name
from coordinator.operations.prove import prove
from coordinator.operations.verify import verify
from coordinator.server.secure.sums import kept_sum
from edge_sdk.wire.messages import Data, Receipt, TaskOrder
from edge_sdk.wire.secure.fixed_point import centred, unpack_ring
from edge_sdk.wire.secure.messages import (
    SecureDelivery,
    SecureKeys,
    SecurePeers,
    SecureReady,
    SecureReveal,
    SecureShares,
    SecureUnmask,
)
from edge_sdk.wire.values import pack_values, unpack_values

__all__ = ["STEPS", "exact", "killed_at_each_step", "killed_at_random"]

# Every message of a round: to a device, then from one.
STEPS: Sequence[type] = (
    *(TaskOrder, SecurePeers, SecureDelivery, SecureUnmask, Receipt),
    *(SecureKeys, SecureShares, SecureReady, Data, SecureReveal),
)


def exact(here: SecureHouse, no: int) -> None:
    """The mean of a round is that of its survivors' own numbers, bit for bit."""
    ledger = here.coordinator.ledger
    rows = ledger.frozen(no)
    orders = {t.device: t.order(ledger.folder) for t in ledger.tasks(no)}
    ((_, blob, weight),) = kept_sum(ledger, no)
    how = orders[rows[0].device].secure
    total, whole = np.zeros(how.sizes[0], np.int64), 0.0
    base, family = here.coordinator.server._global_model.base_of(no)
    sent = pack_values(base.sent(family.top), family.top)
    for row in rows:
        plain = here.devices[row.device].result(orders[row.device], sent)
        digest = family.top.digest
        vector = unpack_ring(plain.payload, digest, how.bits, how.sizes[0])
        total += centred(vector)
        whole += min(row.examples, how.most_examples) / how.most_examples
    mean = (total * (how.clip / how.steps) / whole).astype(np.float32)
    values = unpack_values(ledger.blob(blob), family.top)
    flat = [values.masked[name] for name in family.top]
    flat += [values.dense[n].reshape(-1) for n in sorted(values.dense)]
    assert np.concatenate(flat).tobytes() == mean.tobytes()
    assert abs(weight - whole * how.most_examples) < 1e-6 * weight


def killed_at_each_step(folder: Path, who: str) -> int:
    """A run in which one is killed before each message of its rounds; how often.

    Args:
        folder: An empty one.
        who: ``coordinator`` or a device, which then starts again.
    """
    steps = [kind for kind in STEPS if who != "coordinator" or kind in STEPS[5:]]
    here = SecureHouse(folder, 4, rounds=len(steps), round_budget_s=60.0)
    killed: list[type] = []

    def kill(kind: type) -> None:
        killed.append(kind)
        if who == "coordinator":
            here.kill_coordinator()
        else:
            here.devices[who].kill()

    def arm(kind: type) -> None:
        to = who if kind in STEPS[:5] else "coordinator"
        here.recorded.before(kind, to, lambda: kill(kind))

    waiting = list(steps)

    def go_on() -> bool:
        for device in here.devices.values():
            if device.agent is None:
                device.start()
        done = [r for r in here.coordinator.ledger.rounds() if r.phase.value == "done"]
        if waiting and len(steps) - len(waiting) <= len(killed) <= len(done):
            arm(waiting.pop(0))
        return here.coordinator.done

    try:
        here.until(go_on, 50_000)
        _sound(here, len(steps))
    finally:
        here.close()
    assert killed == steps
    return len(killed)


def killed_at_random(folder: Path, seed: int) -> dict[str, int]:
    """A run whose coordinator and devices are killed at random, and start again."""
    rng = np.random.default_rng(seed)
    here = SecureHouse(folder, 5, rounds=3, round_budget_s=30.0)
    for device in here.devices.values():
        device.takes = lambda _: float(rng.uniform(1, 20))
    kills = 0

    def disturb() -> bool:
        nonlocal kills
        for device in here.devices.values():
            if device.agent is None:
                if rng.random() < 0.5:
                    device.start()
            elif rng.random() < 0.04:
                device.kill()
                kills += 1
        if rng.random() < 0.06:
            here.kill_coordinator()
            kills += 1
        return here.coordinator.done

    try:
        here.until(disturb, 50_000)
        found = _sound(here, 3)
    finally:
        here.close()
    return {**found, "kills": kills}


def _sound(here: SecureHouse, rounds: int) -> dict[str, int]:
    """No wrong sum, no device with both secrets told, and a proof that holds."""
    found = check(here.recorded.said)
    done = [r.no for r in here.coordinator.ledger.rounds() if r.phase.value == "done"]
    assert len(done) == rounds
    exact(here, done[-1])
    store = here.coordinator.server._global_model._store
    first, last = store.load(model_name(0)), store.load(model_name(done[-1]))
    for name, values in last.masked.items():
        moved = values - first.masked[name]
        assert np.abs(moved - rounds * 1e-3).max() < rounds * 4e-4, name
    proof = here.folder / "proof.zip"
    prove(here.run_folder, proof)
    told = verify(proof)
    assert (told.found, told.rounds) == ((), rounds)
    assert any("models were made again, bit for bit" in note for note in told.notes)
    return found


def main() -> None:
    """Prints what was found for each seed, and sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    total: dict[str, int] = {}
    for seed in range(parser.parse_args().seeds):
        with tempfile.TemporaryDirectory() as folder:
            found: dict[str, Any] = killed_at_random(Path(folder), seed)
        total = {name: total.get(name, 0) + count for name, count in found.items()}
        print(seed, found, flush=True)
    print("no wrong sum, no two secrets of a device:", total)


if __name__ == "__main__":
    main()
