"""Seconds from an agent's start to its HELLO, with torch and without.

``python tests/bench/bench_hello.py [times]``: interleaved, on mosquitto; medians of the
wall clock, and of the processor time that the process has taken by then (what an idle
core would need).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

sys.path.insert(0, str(Path(__file__).parents[1]))

from brokers import mosquitto
from without_torch import python_without_torch

from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.wire import topics


def hello_after(python: str, settings: Path, port: int) -> tuple[float, float]:
    """Wall and processor seconds of one agent up to its first message."""
    heard = threading.Event()
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda *_: heard.set()
    client.connect("127.0.0.1", port)
    client.subscribe(topics.all_uploads("bench", data=False))
    client.loop_start()
    time.sleep(0.5)
    began = time.monotonic()
    agent = subprocess.Popen(
        [python, "-m", "edge_sdk.cli", "run", str(settings)],
        cwd=settings.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        if not heard.wait(120):
            raise SystemExit("no HELLO within two minutes")
        wall = time.monotonic() - began
        took = psutil.Process(agent.pid).cpu_times()
        return wall, took.user + took.system
    finally:
        agent.kill()
        agent.wait()
        client.loop_stop()
        client.disconnect()


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    pythons = {"with torch": sys.executable, "without": python_without_torch()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        data = prepare_folders(
            "digits", folder / "cache", folder / "data", ("pi-1",), alpha=1.0, seed=1
        )
        with mosquitto(folder, "allow_anonymous true") as broker:
            settings = folder / "pi-1.toml"
            settings.write_text(
                'name = "pi-1"\nfederation = "bench"\ntask = "digits"\n'
                'state = "state"\n'
                f'broker = "mqtt://127.0.0.1:{broker.port}"\ndata = "{data["pi-1"]}"\n'
                'profile = "raspberry_pi_4b_4gb"\n'
            )
            for _ in range(times):
                for name, python in pythons.items():
                    found[name].append(hello_after(python, settings, broker.port))
    for name, pairs in found.items():
        wall, cpu = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(f"{name:>10}: {wall:.2f} s, {cpu:.2f} s of processor time")


if __name__ == "__main__":
    main()
