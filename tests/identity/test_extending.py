"""A run whose devices were revoked, some or all, and that is extended."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli import app
from coordinator.ledger import open_ledger
from coordinator.settings.extension import extended_rounds
from edge_sdk.terminal import Exit

Site = Any
DEVICES = ("pi-1", "pi-2", "pi-3")


@pytest.fixture
def run(site: Site) -> Site:
    """A guarded run of ten rounds that begins with three devices."""
    for name in DEVICES:
        site.device(name)
    folder = site.folder / "run"
    (folder / "run.toml").write_text(
        'federation = "home"\ntask = "digits"\nevaluation = "devices"\n'
        "densities = [0.2]\nrounds = 10\nwait_for = 3\n"
    )
    with closing(open_ledger(folder)):
        return site


def extended(site: Site) -> Any:
    line = ["extend", str(site.folder / "run"), "--rounds", "5"]
    return CliRunner().invoke(app, line)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_run_that_lacks_devices_to_begin_says_so_when_it_is_extended(
    run: Site, gone: int
) -> None:
    for name in DEVICES[:gone]:
        run.identities.revoke(name, "it was stolen")
    done = extended(run)
    assert done.exit_code == 0, done.output
    assert "until 15 rounds are done" in done.stdout
    said = " ".join(done.stderr.split())
    named = f"{3 - gone} are enrolled: revoked are {', '.join(DEVICES[:gone])}."
    assert (named in said) is bool(gone)
    assert ("it begins with 3 devices (wait_for)" in said) is bool(gone)


def test_a_run_that_has_begun_is_extended_with_the_devices_that_are_left(
    run: Site,
) -> None:
    with closing(open_ledger(run.folder / "run")) as ledger:
        ledger.plan_round(1, goal=3, quorum=2, rate=0.1, base="")
        ledger.settle()
    run.identities.revoke("pi-2", "it was stolen")
    done = extended(run)
    assert done.exit_code == 0, done.output
    assert "wait_for" not in done.stderr


def test_a_run_all_of_whose_devices_were_revoked_is_not_extended(run: Site) -> None:
    for name in DEVICES:
        run.identities.revoke(name, "it was stolen")
    done = extended(run)
    assert done.exit_code == Exit.STATE
    assert "was revoked: nobody could train" in " ".join(done.stderr.split())
    assert extended_rounds(run.folder / "run") == 0
