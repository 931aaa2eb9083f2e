"""Runs through each known broker's limits, as real processes: time and breaches.

Run: python tests/bench/bench_brokers.py [--rounds N] [--seeds N] [--json FILE]
A part is one profile's demo (eight devices, then three checked models, which no broker
takes part in and whose time is left out), the delivery of a bundle to four of its
boards, or one chaos seed. Parts that the file holds are not run again.

A profile may take 1.5 times mosquitto's time. Where rates bound it, it may also take
mosquitto's time and what the busiest coordinator and device need to send their
messages and bytes at these rates: each waits for the other.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from brokers import mosquitto
from chaos.fleet import Fleet
from chaos.run import run_seed
from limiting import LimitingBroker
from warm import Zygote

import export
from coordinator.demo import files, run
from coordinator.processes.children import ChildProcess, stop_all
from coordinator.views.terminal.status import summary
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.deploy.slots import look
from edge_sdk.json_text import to_json
from edge_sdk.transport.limits import PROFILES, BrokerLimits

CACHE = Path("~/.cache/flash-edge").expanduser()
BOARDS = 4  # of the eight devices, which a bundle is delivered to
RATIO = 1.5
GIVE_UP_S = 1200.0


@dataclass
class Part:
    """A part's outcome.

    Attributes:
        profile: Whose limits.
        part: ``demo``, ``delivery`` or ``chaos N``.
        rounds: Rounds of the run.
        seconds: From the last process's first CONNECT to the coordinator's last packet;
            of chaos, whose processes come and go, from start to end.
        least_s: What the rates alone take, of coordinator and busiest device.
        breaches: Counted by the proxy.
        wrong: In words; empty for a part that did all it should.
        told: The proxy's lines on the first breaches.
    """

    profile: str
    part: str
    rounds: int
    seconds: float
    least_s: float
    breaches: int
    wrong: list[str]
    told: list[str]

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from other parts."""
        return self.profile, self.part, self.rounds


class Watch:
    """Time, rates and breaches from here on, of all proxies together."""

    def __init__(self, *proxies: LimitingBroker) -> None:
        self._proxies, self._began = proxies, time.monotonic()
        for proxy in proxies:
            proxy.first_connect.clear()
            proxy.last_packet.clear()
            proxy.published.clear()
            proxy.bytes.clear()
            proxy.breaches.clear()
            proxy.told.clear()

    def part(self, name: str, rounds: int, wrong: list[str]) -> Part:
        """What there is to say of a part."""
        began, limits = self._began, self._proxies[0].limits
        end = time.monotonic()
        least: dict[bool, float] = {True: 0.0, False: 0.0}
        for proxy in self._proxies:
            for client, count in proxy.published.items():
                of_bytes = proxy.bytes[client] / limits.bytes_per_s
                kind = "coordinator" in client
                took_s = max(count / limits.publishes_per_s, of_bytes)
                least[kind] = max(least[kind], took_s)
            if not name.startswith("chaos"):
                # Imports of a busy machine's processes take longer than a delivery,
                # and so does Python's end.
                began = max(proxy.first_connect.values(), default=began)
                seen = proxy.last_packet.items()
                end = max((at for c, at in seen if "coordinator" in c), default=end)
        return Part(
            limits.name,
            name,
            rounds,
            round(end - began, 2),
            round(sum(least.values()), 2),
            sum(proxy.breaches.total() for proxy in self._proxies),
            wrong,
            [line for proxy in self._proxies for line in proxy.told],
        )


# -- demo and delivery -----------------------------------------------------------------


def demo(limits: BrokerLimits, folder: Path, rounds: int) -> Iterator[Part]:
    """The demo's federation on a broker with limits, its exports, and a delivery."""
    with (
        mosquitto(folder, "allow_anonymous true", "max_queued_messages 0") as broker,
        LimitingBroker(broker.port, limits) as proxy,
    ):
        main, devices = _write(folder, proxy, rounds)
        watch = Watch(proxy)
        with _running(folder, devices) as children:
            code = _wait(ChildProcess("flash-coordinator", ["run", str(main)], None))
            wrong = [] if code == 0 else [f"the run ended with {code}"]
            done = summary(main)["rounds_done"]
            wrong += [] if done == rounds else [f"{done} rounds of {rounds}"]
            yield watch.part("demo", rounds, wrong)
            if wrong:
                return
            wrong = _export(folder, main)
            watch = Watch(proxy)
            wrong += _deliver(folder, main, devices[:BOARDS])
            wrong += [f"{c.name} ended" for c in children[:BOARDS] if not c.alive()]
            yield watch.part("delivery", rounds, wrong)


def _write(folder: Path, proxy: LimitingBroker, rounds: int) -> tuple[Path, list[str]]:
    """Settings of the demo, with the proxy for its broker."""
    main = folder / "federation"
    devices = sorted(files.device_names(), key=lambda name: name.rpartition("-")[2])
    data = prepare_folders(
        "digits", CACHE, folder / "data", devices, alpha=files.ALPHA, seed=files.SEED
    )
    files.write_run(main, "digits", data, rounds)
    files.write_devices(folder, main, "digits", devices, data)
    port = (main / "port").read_text(encoding="utf-8")
    url = f"mqtt://127.0.0.1:{proxy.port}?profile={proxy.limits.name}"
    toml = main / "run.toml"
    lines = [
        f'broker = "{url}"' if line.startswith("port =") else line
        for line in toml.read_text(encoding="utf-8").splitlines()
        if not line.startswith("page =")
    ]
    toml.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for place, name in enumerate(devices):
        toml = folder / "devices" / f"{name}.toml"
        text = toml.read_text(encoding="utf-8")
        text = text.replace(f"mqtt://127.0.0.1:{port}", url)
        if place < BOARDS:
            text += f'models = "{name}/models"\n'
        toml.write_text(text, encoding="utf-8")
    return main, devices


@contextlib.contextmanager
def _running(folder: Path, devices: list[str]) -> Iterator[list[ChildProcess]]:
    logs = folder / "devices"
    children = [
        ChildProcess("flash-edge", ["run", str(logs / f"{n}.toml")], logs / f"{n}.log")
        for n in devices
    ]
    try:
        yield children
    finally:
        stop_all(children)


def _wait(child: ChildProcess) -> int | None:
    """Its exit code; None if it does not end."""
    try:
        return child.process.wait(GIVE_UP_S)
    except subprocess.TimeoutExpired:
        stop_all([child])
        return None


def _export(folder: Path, main: Path) -> list[str]:
    """Exports every density, checked, and makes a bundle; returns what went wrong."""
    evaluation = folder / "data" / "evaluation"
    reports = run._export(main, {"evaluation": evaluation}, run._Stop())
    model = main / "models" / f"density-{files.DENSITIES[0]:g}.safetensors"
    export.make_bundle(model, folder / "bundle", formats=("native",), seconds=0)
    wanted = len(files.DENSITIES)
    return [] if len(reports) == wanted else [f"{len(reports)} exports of {wanted}"]


def _deliver(folder: Path, main: Path, boards: list[str]) -> list[str]:
    """Delivers the bundle to boards; returns what went wrong."""
    asked = [word for name in boards for word in ("--device", name)]
    line = ["deliver", str(main), str(folder / "bundle"), *asked]
    code = _wait(ChildProcess("flash-coordinator", line, None))
    wrong = [] if code == 0 else [f"the delivery ended with {code}"]
    for name in boards:
        slots = look(folder / "devices" / name / "models")
        wrong += [] if slots.live else [f"{name} has no live model"]
    return wrong


# -- chaos -----------------------------------------------------------------------------


def chaos(
    limits: BrokerLimits, seed: int, folder: Path, rounds: int, zygote: Zygote
) -> Part:
    """One seed of faults, with the limits between the faults and the broker."""
    kept: list[Watch] = []

    def began(fleet: Fleet) -> None:
        kept.append(Watch(*fleet.limiting.values()))

    found = run_seed(
        *(seed, "mosquitto", folder, zygote),
        rounds=rounds,
        limits=limits,
        limit_s=GIVE_UP_S,
        at_start=began,
    )
    return kept[0].part(f"chaos {seed}", rounds, found.violations)


# -- table -----------------------------------------------------------------------------


def table(parts: list[Part]) -> None:
    """Prints, by kind of part, each profile's time beside mosquitto's."""
    print(
        f"{'part':<9} {'profile':<11} {'runs':>4} {'seconds':>8} {'ratio':>6}", end=""
    )
    print(f" {'least':>6} {'allowed':>8} {'breaches':>8} {'wrong':>5}")
    for kind in ("demo", "delivery", "chaos"):
        plain = _of(parts, kind, "mosquitto")
        for name in PROFILES:
            mine = _of(parts, kind, name)
            both = sorted(mine.keys() & plain.keys())
            if not both:
                continue
            took_s = sum(mine[one].seconds for one in both)
            plain_s = sum(plain[one].seconds for one in both)
            least_s = sum(mine[one].least_s for one in both)
            allowed_s = max(RATIO * plain_s, plain_s + least_s)
            breaches = sum(mine[one].breaches for one in mine)
            wrong = sum(bool(mine[one].wrong) for one in mine)
            print(
                f"{kind:<9} {name:<11} {len(both):4} {took_s:8.1f} "
                f"{took_s / plain_s:6.2f} {least_s:6.1f} {allowed_s:8.1f} "
                f"{breaches:8} {wrong:5}"
            )
    for one in parts:
        for line in (*one.told, *one.wrong):
            print(f"  {one.profile}, {one.part}: {line}")


def _of(parts: list[Part], kind: str, profile: str) -> dict[str, Part]:
    return {
        one.part: one
        for one in parts
        if one.part.split()[0] == kind and one.profile == profile
    }


@contextlib.contextmanager
def _folder(keep: Path | None, name: str) -> Iterator[Path]:
    if keep is not None:
        found = keep / name.replace(" ", "-")
        found.mkdir(parents=True)
        yield found
        return
    with tempfile.TemporaryDirectory() as text:
        yield Path(text)


def main() -> None:
    """Runs what the file does not hold, and prints the table of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--chaos-rounds", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--profiles", nargs="*", default=[*PROFILES])
    parser.add_argument("--kinds", nargs="*", default=["demo", "chaos"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="Folder of all files of parts.")
    given = parser.parse_args()
    done: list[Part] = []
    if given.json and given.json.exists():
        done = [Part(**row) for row in json.loads(given.json.read_text())]

    def add(part: Part) -> None:
        done.append(part)
        line = f"{part.profile:<11} {part.part:<9} {part.seconds:7.1f} s"
        print(f"{line}, {part.breaches} breaches {part.wrong or ''}", flush=True)
        if given.json:
            given.json.write_text(to_json([asdict(one) for one in done], indent=1))

    with contextlib.closing(Zygote()) as zygote:
        wanted = ["demo", *(f"chaos {seed}" for seed in range(1, given.seeds + 1))]
        for what, name in itertools.product(wanted, given.profiles):
            kind, _, seed = what.partition(" ")
            rounds = given.chaos_rounds if seed else given.rounds
            have = {one.key for one in done}
            if kind not in given.kinds or (name, what, rounds) in have:
                continue
            limits = PROFILES[name]
            with _folder(given.keep, f"{name}-{what}") as folder:
                if seed:
                    add(chaos(limits, int(seed), folder, rounds, zygote))
                else:
                    for part in demo(limits, folder, rounds):
                        add(part)
    table(done)


if __name__ == "__main__":
    main()
