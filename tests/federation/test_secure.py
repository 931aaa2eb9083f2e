"""A federation on a real broker whose coordinator learns sums alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from coordinator.operations.prove import prove
from coordinator.operations.verify import verify

pytestmark = pytest.mark.broker

Make = Callable[..., Any]


def test_a_device_killed_amid_a_secure_round_leaves_the_sum_of_the_others(
    federation: Make,
) -> None:
    """Masks by units of two densities; the weaker of three devices is killed."""
    fleet = federation(rounds=3)
    path = fleet.run / "run.toml"
    path.write_text(
        path.read_text().replace(
            "[training]", 'algorithm = "flash-edge(epochs=0)"\n[training]'
        )
        + "[privacy]\nsecure_aggregation = true\nmin_devices = 2\n"
    )
    own = fleet.folder / "pi-1.toml"
    own.write_text(own.read_text().replace("pi.toml", "raspberry_pi_4b_4gb"))
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()

    def masked_of_round_two() -> bool:
        if not (fleet.run / "ledger.sqlite").exists():
            return False
        uri = f"file:{fleet.run}/ledger.sqlite?mode=ro"
        query = "SELECT count(*) FROM secure WHERE round >= 2 AND kind = 'graph'"
        db = sqlite3.connect(uri, uri=True)
        try:
            return bool(db.execute(query).fetchone()[0])
        except sqlite3.Error:
            return False
        finally:
            db.close()

    fleet.wait(masked_of_round_two, "the keys of round 2")
    fleet.kill("pi-2")
    assert fleet.wait_end() == 0, fleet.logs()
    found = fleet.summary()
    assert found["rounds_done"] == 3
    assert found["updates"]["1"] == 3
    assert found["updates"]["3"] in (2, 3)  # its last update may just have been sent
    assert {d["density"] for d in found["devices"]} == {0.1, 0.4}
    for density in ("0.1", "0.4"):
        # A mask left in the sum is noise, and ends its round; guessing costs log 10.
        assert found["scores"]["3"][density]["loss"] < 5
    for name in ("pi-1", "orin-1"):
        assert fleet.wait_end(name) == 0, fleet.logs()
    log = fleet.logs()
    assert "Traceback" not in log
    proof = fleet.folder / "proof.zip"
    prove(fleet.run, proof)
    told = verify(proof)
    assert (told.found, told.rounds) == ((), 3)
    assert any("models were made again, bit for bit" in note for note in told.notes)
