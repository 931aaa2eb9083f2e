"""Measures what a real federation puts on the wire, one codec after the other.

Run from the root of the project:
    python tests/bench/bench_wire.py [--rounds N] [--pairs fp32/fp32,int8/fp16]
        [--guarded] [--json FILE]

Real coordinator, broker and devices as processes. Counted are the bytes of each
device's TCP stream as its kernel acknowledged them: warm-up, orders, offers, receipts,
retries and MQTT itself included. The base of comparison is dense FedAvg in fp32,
counted the same way over the same rounds, in the clear. With --guarded each codec also
runs as a fleet is really set up: enrolled, mutual TLS, every message signed. Training
is a single step a round: it changes no byte of a codec without zstd. Figures of the
day: docs/codecs.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordinator.processes.children import ChildProcess, stop_all
from coordinator.views.terminal.status import summary
from edge_sdk.datasets.prepare import EVALUATION_FOLDER, prepare_folders
from edge_sdk.json_text import to_json

PAIRS = "fp32/fp32,fp16/fp16,int8/fp16,int8/int8"
DEVICES = ("dev-1", "dev-2", "dev-3", "dev-4")
DENSITY = 0.05
PROFILE = 'like = "jetson_orin_nano"\n'
CACHE = Path("~/.cache/flash-edge").expanduser()


def main() -> None:
    """Prints a table; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--pairs", default=PAIRS, help="codec up/down[+zstd], ...")
    parser.add_argument("--guarded", action="store_true", help="also enrolled ones")
    parser.add_argument("--json", type=Path, help="file to write")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="wire-"))
    data = prepare_folders(
        "mnist", CACHE, folder / "data", list(DEVICES), alpha=1.0, seed=1
    )
    dense = _bytes(_run(folder / "dense", data, chosen.rounds, "fedavg", "fp32/fp32"))
    print(f"MNISTNet, {len(DEVICES)} devices, {chosen.rounds} rounds, FLASH warm-up")
    print(f"{'up/down':22s} {'up MB':>8s} {'down MB':>8s} {'both, against dense':>20s}")
    print(f"{'dense':22s} {dense[0] / 1e6:8.2f} {dense[1] / 1e6:8.2f}")
    rows = []
    for pair in chosen.pairs.split(","):
        for guarded in (False, True)[: 1 + chosen.guarded]:
            name = f"{pair}{' guarded' if guarded else ''}"
            where = folder / name.replace("/", "-")
            up, down = _bytes(
                _run(where, data, chosen.rounds, "flash", pair, guarded=guarded)
            )
            ratio = sum(dense) / (up + down)
            rows.append({"codec": name, "up": up, "down": down, "ratio": ratio})
            print(
                f"{name:22s} {up / 1e6:8.2f} {down / 1e6:8.2f} {ratio:19.1f}x",
                flush=True,
            )
    if chosen.json:
        found = {"rounds": chosen.rounds, "dense": dense, "codecs": rows}
        chosen.json.write_text(to_json(found, indent=1), encoding="utf-8")
    shutil.rmtree(folder)


def _run(
    folder: Path,
    data: Mapping[str, Path],
    rounds: int,
    algorithm: str,
    pair: str,
    *,
    guarded: bool = False,
) -> Mapping[str, Any]:
    """One whole run; what the ledger says of it."""
    folder.mkdir()
    port = _free_port()
    place = 'address = "127.0.0.1"' if guarded else f"port = {port}"
    _write_run(folder, data, rounds, algorithm, pair, place)
    # A run that knows tokens asks for identities.
    tokens = (
        _command("coordinator.cli", "enroll", folder, "--new", *DEVICES)
        if guarded
        else ""
    )
    children = [ChildProcess("flash-coordinator", ["run", str(folder)], folder / "log")]
    try:
        made = (
            _enrolled(folder, data, tokens) if guarded else _plain(folder, data, port)
        )
        for name, settings in made.items():
            line = ["run", str(settings), "--until-done"]
            children.append(ChildProcess("flash-edge", line, folder / f"{name}.log"))
        while children[0].alive():
            time.sleep(0.2)
        if children[0].process.returncode:
            raise SystemExit((folder / "log").read_text(encoding="utf-8")[-2000:])
        time.sleep(1)  # for devices to hear that the run is done
    finally:
        stop_all(children)
    return summary(folder)


def _write_run(
    folder: Path,
    data: Mapping[str, Path],
    rounds: int,
    algorithm: str,
    pair: str,
    place: str,
) -> None:
    zstd = pair.endswith("+zstd")
    up, down = pair.removesuffix("+zstd").split("/")
    evaluation = json.dumps(str(data[EVALUATION_FOLDER].resolve()))
    (folder / "run.toml").write_text(
        f'federation = "wire"\ntask = "mnist"\nevaluation = {evaluation}\n'
        f'algorithm = "{algorithm}"\ndensities = [{DENSITY}]\nrounds = {rounds}\n'
        f"wait_for = {len(DEVICES)}\nround_budget_s = 60\n{place}\n"
        "[training]\nmax_steps = 1\n"
        "[warm_up]\ndevices = 2\nmax_steps = 50\n"
        f'[codec]\nup = "{up}"\ndown = "{down}"\nzstd = {str(zstd).lower()}\n',
        encoding="utf-8",
    )


def _plain(folder: Path, data: Mapping[str, Path], port: int) -> dict[str, Path]:
    """Settings of devices that need no identity."""
    (folder / "profile.toml").write_text(PROFILE, encoding="utf-8")
    made = {name: folder / f"{name}.toml" for name in DEVICES}
    for name, settings in made.items():
        settings.write_text(
            f'name = "{name}"\nfederation = "wire"\nthreads = 1\n'
            f'broker = "mqtt://127.0.0.1:{port}"\ntask = "mnist"\n'
            f'data = {json.dumps(str(data[name].resolve()))}\nstate = "{name}"\n'
            'profile = "profile.toml"\n',
            encoding="utf-8",
        )
    return made


def _enrolled(folder: Path, data: Mapping[str, Path], tokens: str) -> dict[str, Path]:
    """Settings of devices that enrolled as the README says."""
    while not (folder / "broker.url").exists():
        time.sleep(0.1)
    made = {}
    for name, token in (line.split() for line in tokens.splitlines()):
        home = folder / name
        _command(
            *("edge_sdk.cli", "enroll", token, "--folder", home, "--data", data[name])
        )
        made[name] = home / "device.toml"
    return made


def _command(module: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def _bytes(run: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes up and down of all devices together."""
    devices = run["devices"]
    return (
        sum(int(d["sent"]) for d in devices),
        sum(int(d["received"]) for d in devices),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
