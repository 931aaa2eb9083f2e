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
from coordinator.rounds.secure.orders import units_kept
from coordinator.rounds.secure.stages import from_rows
from coordinator.server.secure.sums import kept_sum
from edge_sdk.wire.messages import Data, Receipt, TaskOrder
from edge_sdk.wire.secure.fixed_point import centred, unpack_ring
from edge_sdk.wire.secure.layout import unflat
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

__all__ = [
    "STEPS",
    "exact",
    "killed_at_each_step",
    "killed_at_random",
    "unequal_house",
]

# Every message of a round: to a device, then from one.
STEPS: Sequence[type] = (
    *(TaskOrder, SecurePeers, SecureDelivery, SecureUnmask, Receipt),
    *(SecureKeys, SecureShares, SecureReady, Data, SecureReveal),
)


def exact(here: SecureHouse, no: int) -> None:
    """The means of a round are those of its survivors' own numbers, bit for bit.

    Of each density's values of those that hold them.
    """
    ledger = here.coordinator.ledger
    rows = ledger.frozen(no)
    orders = {t.device: t.order(ledger.folder) for t in ledger.tasks(no)}
    state = from_rows(orders, ledger.secure(no))
    widest = state.cohort().sizes
    total, whole = np.zeros(widest[-1], np.int64), np.zeros(widest[-1])
    base, family = here.coordinator.server._global_model.base_of(no)
    weighs: dict[int, float] = {}
    for row in rows:
        order, mask = orders[row.device], family.of(row.device, row.density)
        how, level = order.secure, state.levels[row.device]
        sent = pack_values(base.sent(mask), mask)
        plain = here.devices[row.device].result(order, sent)
        vector = unpack_ring(plain.payload, mask.digest, how.bits, how.sizes[-1])
        share = min(row.examples, how.most_examples) / how.most_examples
        total[: widest[level - 1]] += centred(vector)[: widest[level - 1]]
        whole[: widest[level - 1]] += share
        weighs[level] = weighs.get(level, 0.0) + share * how.most_examples
    mean = (total * (how.clip / how.steps) / np.maximum(whole, 1e-9)).astype(np.float32)
    kept = kept_sum(ledger, no)
    densities = sorted(family.masks)
    assert [d for d, _, _ in kept] == [densities[at - 1] for at in sorted(weighs)]
    dense = {n: a for n, a in base.travelling.items() if a.dtype.kind == "f"}
    for (density, blob, weight), level in zip(kept, sorted(weighs), strict=True):
        mask = family.masks[density]
        smaller = [family.masks[d] for d in densities[: level - 1]]
        units = units_kept(family, densities[:level], dense)
        wanted = unflat(mean[: widest[level - 1]], smaller, mask, dense, units)
        values = unpack_values(ledger.blob(blob), mask)
        for own, made in (
            (values.masked, wanted.masked),
            (values.dense, wanted.dense),
        ):
            for name in made:
                assert own[name].tobytes() == made[name].tobytes(), name
        assert abs(weight - weighs[level]) < 1e-6 * weight


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


def unequal_house(folder: Path, weak: int, strong: int, **changes: Any) -> SecureHouse:
    """Devices of two densities, whose masks are cut by units.

    Args:
        folder: An empty one.
        weak: Devices of the smaller one.
        strong: Of the larger one.
        changes: Settings of the run that differ.
    """
    plain = {"densities": [0.1, 0.4], "wait_for": weak + strong, "algorithm": "fjord"}
    here = SecureHouse(folder, 0, **{**plain, **changes})
    for place in range(weak + strong):
        caps = {"bytes_per_round": 20_000} if place < weak else {}
        here.join(f"pi-{place}", board="jetson_orin_nano", **caps)
    return here


def killed_at_random(folder: Path, seed: int) -> dict[str, int]:
    """A run whose coordinator and devices are killed at random, and start again.

    With an odd seed devices have two densities.
    """
    rng, rounds = np.random.default_rng(seed), {"rounds": 3, "round_budget_s": 30.0}
    if seed % 2:
        here = unequal_house(folder, 1, 5, **rounds)
    else:
        here = SecureHouse(folder, 5, **rounds)
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
    smallest = here.coordinator.server._global_model.family.masks
    inner = smallest[min(smallest)]  # every sum has its values
    for name, values in last.masked.items():
        moved = (values - first.masked[name])[inner.within(last.mask, name)]
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
