"""One run of a few rounds and its proof, shared by the tests that only read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from provable import ProvableRun

from coordinator.operations.prove import prove


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProvableRun]:
    """Four rounds, a restart, a key that was replaced, a device that was revoked."""
    made = ProvableRun(tmp_path_factory.mktemp("run"))
    made.round(1)
    made.close()
    made.again()
    prove(made.folder, made.folder / "early.zip")
    made.round(2)
    assert made.identities is not None
    made.identities.rotate()
    made.identities.take_up()
    made.rotated()
    made.round(3)
    made.ledger.see_device("pi-01", profile={}, examples=9, version="1")
    made.ledger.dismiss("pi-01")
    made.round(4, without="pi-01")
    prove(made.folder, made.folder / "proof.zip")
    yield made
    made.close()


@pytest.fixture(scope="session")
def proof(run: ProvableRun) -> Path:
    """Its proof."""
    return run.folder / "proof.zip"
