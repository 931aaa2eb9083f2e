"""Settings files of the demo's coordinator and devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.broker.start import free_port
from coordinator.views.page import DEFAULT_ADDRESS
from device_profiles.toml_text import quoted
from edge_sdk.checkpoint import replace_file
from edge_sdk.datasets.prepare import EVALUATION_FOLDER

__all__ = [
    "ALPHA",
    "DENSE_ROUNDS",
    "DENSITIES",
    "FLEET",
    "SEED",
    "device_names",
    "write_dense",
    "write_devices",
    "write_run",
]

ALPHA, SEED = 1.0, 1
MAX_STEPS = 80  # of 32 examples per round: 24 rounds see 60 000 examples per device
# MNISTNet is small: in this time every board could train at d = 0.2 (a Zero 2 W is
# predicted to take 5.7 s). What binds here is what the owners lend of their links.
BUDGET_S = 12.0
DENSITIES = (0.05, 0.1, 0.2)
DENSE_ROUNDS = 2


@dataclass(frozen=True)
class DemoBoard:
    """One kind of simulated board, and the bytes its owner lends per round."""

    prefix: str
    count: int
    like: str
    bytes_per_round: int | None = None


FLEET = (
    DemoBoard("pi-zero", 2, "raspberry_pi_zero_2_w", bytes_per_round=60_000),
    DemoBoard("pi-4b", 2, "raspberry_pi_4b_4gb", bytes_per_round=110_000),
    DemoBoard("orin", 4, "jetson_orin_nano"),
)


def device_names() -> list[str]:
    """Every device of the fleet, such as ``pi-4b-1``."""
    return [f"{b.prefix}-{i + 1}" for b in FLEET for i in range(b.count)]


def write_run(main: Path, task: str, data: Mapping[str, Path], rounds: int) -> None:
    """``run.toml`` of the federation that is shown."""
    lines = [
        'federation = "demo"',
        f"task = {quoted(task)}",
        f"evaluation = {quoted(str(data[EVALUATION_FOLDER].resolve()))}",
        f"densities = {list(DENSITIES)}",
        f"rounds = {rounds}",
        f"wait_for = {len(device_names())}",
        f"round_budget_s = {BUDGET_S}",
        f"seed = {SEED}",
        f"port = {_port(main)}",
        f'page = "{DEFAULT_ADDRESS}"',
        "",
        "[training]",
        f"max_steps = {MAX_STEPS}",
        "rate = 0.02",
        "rate_end = 0.002",
        "momentum = 0.9",
        "",
        "[warm_up]",
        "devices = 2",
        "max_steps = 200",
    ]
    _write(main / "run.toml", lines)


def write_dense(dense: Path, main: Path, task: str, data: Mapping[str, Path]) -> None:
    """``run.toml`` of plain FedAvg, whose bytes are measured beside it."""
    lines = [
        'federation = "dense"',
        f"task = {quoted(task)}",
        f"evaluation = {quoted(str(data[EVALUATION_FOLDER].resolve()))}",
        f"densities = {list(DENSITIES)}",
        'algorithm = "fedavg"',
        f"rounds = {DENSE_ROUNDS}",
        "wait_for = 2",
        "round_budget_s = 60",
        f"port = {_port(dense)}",
        "",
        "[training]",
        "max_steps = 1  # only the bytes are measured",
        "",
        "[codec]",
        'up = "fp32"',
        'down = "fp32"',
        "zstd = false  # plain FedAvg; one step's changes would squeeze too well",
    ]
    _write(dense / "run.toml", lines)


def write_devices(
    folder: Path, run: Path, task: str, devices: list[str], data: Mapping[str, Path]
) -> None:
    """A settings file per device, and a profile per kind of board."""
    federation = "demo" if run.name == "federation" else "dense"
    for board in FLEET:
        profile = [f'like = "{board.like}"']
        if board.bytes_per_round is not None and federation == "demo":
            profile += ["[caps]", f"bytes_per_round = {board.bytes_per_round}"]
        _write(folder / "devices" / f"{board.prefix}.profile.toml", profile)
    for name in devices:
        board = next(b for b in FLEET if name.startswith(b.prefix))
        _write(
            folder / "devices" / f"{name}.toml",
            [
                f'name = "{name}"',
                f'federation = "{federation}"',
                f'broker = "mqtt://127.0.0.1:{_port(run)}"',
                f"task = {quoted(task)}",
                f"data = {quoted(str(data[name].resolve()))}",
                f'state = "{name}/state"',
                f'profile = "{board.prefix}.profile.toml"',
                "threads = 1",
            ],
        )


def _write(path: Path, lines: list[str]) -> None:
    replace_file(path, ("\n".join(lines) + "\n").encode())


def _port(run: Path) -> int:
    """The broker's port: the one this run had before, or a free one."""
    kept = run / "port"
    if kept.exists():
        return int(kept.read_text(encoding="utf-8"))
    port = free_port("127.0.0.1")
    replace_file(kept, str(port).encode())
    return port
