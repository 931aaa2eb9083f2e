"""How long a revocation takes, on a real mosquitto with access control; a measurement.

Run from the root of the project:
    python tests/bench/bench_revocation.py [--devices 20] [--json FILE]

The clock starts when the command's transaction has committed, and stops for each
device when its signature is not believed any more and when its link is cut; then it
tries to come in again at once.
"""

from __future__ import annotations

import argparse
import queue
import statistics
import tempfile
import threading
import time
from pathlib import Path

from coordinator.broker.check import check_broker
from coordinator.identity.broker_access import BrokerAccess, open_gate
from coordinator.identity.registry import IdentityRegistry
from coordinator.identity.revocation import RevocationWatcher
from coordinator.settings import RunSettings
from edge_sdk.access import access_of
from edge_sdk.errors import BrokerError
from edge_sdk.identity.enroll import enroll, settings_text
from edge_sdk.identity.token import read_token
from edge_sdk.json_text import to_json
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.transport.address import Address
from edge_sdk.transport.mqtt import MqttTransport

LOOK_S = 0.001


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = RunSettings(
            federation="home", task="digits", evaluation=folder, densities=[0.1],
            rounds=1,
        )  # fmt: skip
        identities = IdentityRegistry(folder / "run", "home")
        with open_gate(folder / "run", settings, identities) as gate:
            found = _measure(folder, identities, gate, asked.devices)
    for what, value in found.items():
        print(f"{what:34} {value:8.3f}")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(to_json(found, indent=2))


def _measure(
    folder: Path, identities: IdentityRegistry, gate: BrokerAccess, devices: int
) -> dict[str, float]:
    command = IdentityRegistry(
        folder / "run", "home"
    )  # what another process would open
    names = [f"pi-{number}" for number in range(1, devices + 1)]
    addresses = {name: _admit(folder, identities, name) for name in names}
    disbelieved, cut, let_in = [], [], 0
    guard = RevocationWatcher(
        identities,
        gate.broker,
        gate.access_control,
        gate.takeover,
        revoked=lambda _: None,
        rotated=lambda: None,
    )
    with guard:
        for name in names:
            links: queue.Queue[tuple[bool, float]] = queue.Queue()
            link = MqttTransport(
                addresses[name],
                name,
                lambda _: None,
                lambda up, links=links: links.put((up, time.monotonic())),
                wait_s=10,
            )
            links.get(timeout=10)
            unheard = threading.Thread(
                target=_until_refused, args=(identities, name, disbelieved)
            )
            command.revoke(name, "measured")
            began = time.monotonic()
            unheard.start()
            cut.append(links.get(timeout=30)[1] - began)
            try:
                check_broker(addresses[name], timeout_s=5)
                let_in += 1
            except BrokerError:
                pass
            unheard.join()
            disbelieved[-1] -= began
            link.close()
    return {
        "devices": devices,
        "not believed any more, median s": statistics.median(disbelieved),
        "not believed any more, longest s": max(disbelieved),
        "link cut, median s": statistics.median(cut),
        "link cut, longest s": max(cut),
        "let in again": let_in,
    }


def _admit(folder: Path, identities: IdentityRegistry, name: str) -> Address:
    token = identities.token(name, "127.0.0.1", identities.port(0, lambda: 0), hours=1)
    own = folder / name
    answer = enroll(read_token(token), own / "identity")
    text = settings_text(answer, identity="identity", data="d", state="s", profile="p")
    (own / "device.toml").write_text(text)
    return access_of(load_settings(own / "device.toml", DeviceSettings))[0]


def _until_refused(identities: IdentityRegistry, name: str, ends: list[float]) -> None:
    """Notes when the coordinator's own picture has the device as revoked."""
    while name not in identities.refused():
        time.sleep(LOOK_S)
    ends.append(time.monotonic())


if __name__ == "__main__":
    main()
