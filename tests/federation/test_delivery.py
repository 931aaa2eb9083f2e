"""Bundles over the federation's own MQTT, to real devices that are killed meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from patience import patience

import export
from coordinator.delivery.store import DeliveryStore
from edge_sdk.deploy.slots import look
from edge_sdk.infer.packed import files_in, pack_bundle
from edge_sdk.kernels.build import find_compiler, this_machine
from edge_sdk.wire.blob import blob_id, manifest_of

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
    ),
]
Federations = Callable[..., Any]


class Site:
    """A run that is over, and its devices, which stay."""

    def __init__(self, federation: Any) -> None:
        self.fed, self.run, self.folder = federation, federation.run, federation.folder
        # One takes models, one's app never likes them, one takes none.
        self.settings("pi-1", f"test -e {self.folder}/calm || sleep 600")
        self.settings("pi-2", f"test ! -e {self.folder}/moody")
        (self.folder / "calm").touch()
        # As little training as there can be: it is not what is tested here.
        toml = self.run / "run.toml"
        brief = toml.read_text().replace("max_steps = 25", "max_steps = 1")
        toml.write_text(f'algorithm = "erk"\nround_budget_s = 300.0\n{brief}')
        federation.start("coordinator", "run", str(self.run))
        for name in ("pi-1", "pi-2", "orin-1"):
            self.start(name)
        assert federation.wait_end() == 0, federation.logs()

    def settings(self, name: str, health: str) -> None:
        with (self.folder / f"{name}.toml").open("a") as file:
            file.write(f"models = 'models-{name}'\nhealth = \"sh -c '{health}'\"\n")

    def start(self, name: str) -> None:
        self.fed.start(name, "run", str(self.folder / f"{name}.toml"))

    def bundle(self, density: str) -> Path:
        out: Path = self.folder / f"bundle-{density}"
        checkpoint = self.run / "models" / f"density-{density}.safetensors"
        export.make_bundle(checkpoint, out, formats=("native",), seconds=0)
        return out

    def deliver(self, bundle: Path, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "coordinator.cli", "deliver"]
        return subprocess.run(
            [*command, self.run, bundle, *more],
            capture_output=True, text=True, timeout=patience(120), check=False,
            cwd=self.folder,
        )  # fmt: skip

    def device(self, name: str) -> dict[str, Any]:
        return next(d for d in self.fed.summary()["devices"] if d["name"] == name)

    def verdict(self, name: str) -> str:
        last = self.device(name)["delivery"]
        return "" if last is None else str(last["verdict"])

    def live(self, name: str) -> bytes:
        slots = look(self.folder / f"models-{name}")
        return bytes.fromhex(slots.digests[slots.live]) if slots.live else b""

    def wait(self, until: Callable[[], bool], what: str) -> None:
        self.fed.wait(until, what)


def test_a_run_that_is_over_delivers_to_its_devices_which_say_what_they_run(
    federation: Federations,
) -> None:
    site = Site(federation(rounds=1))
    first, second = site.bundle("0.1"), site.bundle("0.4")

    # Corrupt where it is sent from: nothing is recorded.
    model = first / "model.native.flsp"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1])
    done = site.deliver(first)
    assert done.returncode != 0
    assert "model.native.flsp was changed" in done.stderr
    assert site.verdict("pi-1") == ""
    model.write_bytes(whole)

    done = site.deliver(first)
    assert done.returncode == 1  # one of three takes no models
    assert "pi-1: live" in done.stdout
    assert "pi-2: live" in done.stdout
    assert (
        'problem: orin-1: refused: this device takes no models: "models"' in done.stdout
    )
    assert site.device("pi-1")["model"]["digest"] == site.live("pi-1").hex()
    assert site.live("pi-1") == site.live("pi-2") != b""
    said = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", "status", site.run],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in ("pi-1", "pi-2"):
        assert f"{name} runs digits, round 1 ({site.live(name).hex()[:8]})" in said
    assert "orin-1 runs" not in said
    assert "orin-1 delivery 1 of digits, round 1 is refused" in said

    # An app that is not well: its board goes back.
    before = site.live("pi-2")
    (site.folder / "moody").touch()
    done = site.deliver(second, "--device", "pi-2")
    assert done.returncode == 1
    assert (
        "problem: pi-2: failed: delivery 2 was live in slot b for a moment"
        in done.stdout
    )
    assert site.live("pi-2") == before
    assert site.device("pi-2")["model"]["digest"] == before.hex()

    # Corrupt where it arrives: a board does not believe its coordinator blindly.
    files = files_in(pack_bundle(second))
    files["model.native.flsp"] = files["model.native.flsp"][::-1]
    packed = msgpack.packb(files)
    DeliveryStore(site.run).add(
        packed, blob_id(manifest_of(packed)), digest=b"x" * 32, key=None,
        label="forged", devices=["pi-1"],
    )  # fmt: skip
    site.fed.start("coordinator", "resume", str(site.run))
    assert site.fed.wait_end() == 0
    assert site.verdict("pi-1") == "failed"
    assert site.live("pi-1") == before


def test_a_device_and_a_coordinator_that_are_killed_in_a_delivery_end_it_all_the_same(
    federation: Federations,
) -> None:
    site = Site(federation(rounds=1))
    first, second = site.bundle("0.1"), site.bundle("0.4")
    assert "pi-1: live" in site.deliver(first, "--device", "pi-1").stdout
    before = site.live("pi-1")

    # The device dies while its health command runs: the new model is live just then.
    (site.folder / "calm").unlink()
    site.fed.start("coordinator", "deliver", str(site.run), str(second),
                   "--device", "pi-1")  # fmt: skip
    site.wait(lambda: site.live("pi-1") != before, "the switch")
    assert (site.folder / "models-pi-1" / ".trial").exists()
    site.fed.kill("pi-1")
    site.fed.kill("coordinator")
    assert site.verdict("pi-1") == "pending"
    (site.folder / "calm").touch()
    site.start("pi-1")
    site.wait(lambda: site.live("pi-1") == before, "the way back")
    site.fed.start("coordinator", "resume", str(site.run))
    assert site.fed.wait_end() == 0
    last = site.device("pi-1")["delivery"]
    assert last["verdict"] == "failed"
    assert "the device stopped while the new model was tried" in last["why"]

    # A device that is away gets its model when it is back, from another coordinator.
    site.fed.kill("pi-1")
    site.fed.start("coordinator", "deliver", str(site.run), str(second),
                   "--device", "pi-1")  # fmt: skip
    site.wait(lambda: site.verdict("pi-1") == "pending", "the record")
    time.sleep(0.5)
    site.fed.kill("coordinator")
    site.start("pi-1")
    site.fed.start("coordinator", "resume", str(site.run))
    assert site.fed.wait_end() == 0
    assert site.verdict("pi-1") == "live"
    assert site.live("pi-1") != before
    assert list((site.run / "deliveries").glob("[0-9a-f]" * 64)) == []
