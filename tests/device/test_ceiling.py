"""An owner's memory ceiling that the whole batch would break, met by the device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from memory_group import inside, memory_group
from patience import patience

TASK = '''
"""A task whose activations dwarf its weights, and a device that trains one step."""
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from device_profiles import load_board
from edge_sdk.commands.trainer import micro_batch_of
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.device.limits.memory import MIB, held_mib
from edge_sdk.device.probe.steps import peak_rss_mib, reset_peak
from edge_sdk.program.ceiling import MemoryCeiling
from edge_sdk.settings import DeviceSettings
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.torch_engine.program import captured
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.rules import Frozen, WarmUp
from edge_sdk.wire.values import Values, pack_values, unpack_values
from msgspec.structs import replace

BATCH, SIDE, WIDE = 256, 32, 16


def examples(_: Path = Path()) -> Examples:
    rng = np.random.default_rng(2)
    inputs = rng.integers(0, 256, size=(BATCH, 1, SIDE, SIDE)).astype(np.uint8)
    return Examples(inputs, rng.integers(0, 10, size=BATCH))


def network() -> nn.Module:
    def block() -> list[nn.Module]:
        return [nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.GroupNorm(4, WIDE), nn.ReLU()]

    return nn.Sequential(
        nn.Conv2d(1, WIDE, 3, padding=1), nn.ReLU(),
        *(layer for _ in range(6) for layer in block()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDE, 10),
    )


task = Task(
    name="wide", model=network, loss=nn.functional.cross_entropy, train_data=examples,
    eval_data=examples, input_shape=(1, SIDE, SIDE), prepare=lambda x: x.float() / 255,
)


def program() -> None:
    """Writes the task's program, as a coordinator would send it."""
    few = tensors(task, examples(), slice(0, 8))
    Path("program.bin").write_bytes(captured(task.model(), task.loss, few))


def planned(ceiling, own, order, base, out, mask) -> None:
    """Held to so many MiB beside what the process has, by the program's own plan."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    before = int(held_mib() * MIB)
    bound = before + ceiling * MIB

    def read() -> MemoryCeiling:
        return MemoryCeiling(bound, int(held_mib() * MIB))

    runner = TaskRunner(task, own, "program", ceiling=read)
    runner.run(order, base, lambda: False, program=Path("program.bin").read_bytes())
    reset_peak()  # what torch takes for its first batch is not the program's
    packed = runner.run(order, base, lambda: False)
    save(packed, mask, out)
    print(peak_rss_mib() - before / MIB)


def save(packed, mask, out) -> None:
    change = unpack_values(packed.payload, mask)
    parts = [*change.masked.values(), *change.dense.values()]
    np.save(out, np.concatenate([p.reshape(-1) for p in parts]))


def main(ceiling: int, engine: str, rule: str, out: str) -> None:
    torch.set_num_threads(1)
    layers = layers_of(network(), task.dense_layers)
    counts = exact_counts(uniform(layers), layers, 0.3)
    mask = draw(layers, counts, 5)
    state = initial_state(task, 1)
    base = pack_values(
        Values(mask.digest, {n: state.pop(n)[mask[n]] for n in mask}, state), mask
    )
    order = TaskOrder(
        id="1-a", round_no=1, density=0.3, base=manifest_of(base),
        mask=MaskRecipe(5, counts, mask.digest), ttl_ms=1000, shard=0, codec="fp32",
        rule=WarmUp() if rule == "warm-up" else Frozen(),
        training=Training(epochs=1, batch_size=BATCH, learning_rate=0.5, seed=9),
    )
    settings = DeviceSettings(
        name="pi", federation="home", broker="mqtt://127.0.0.1", task="wide:task",
        data=Path(), state=Path(), profile="raspberry_pi_4b_4gb",
    )
    profile = load_board(settings.profile)
    cap = replace(profile.caps, ram_mib=ceiling) if ceiling else profile.caps
    own = examples()
    if engine == "planned":
        return planned(ceiling, own, order, base, out, mask)
    runner = TaskRunner(
        task, own, engine,
        micro_batch=micro_batch_of(settings, replace(profile, caps=cap), task, own),
    )
    sent = Path("program.bin").read_bytes()
    packed = runner.run(order, base, lambda: False, program=sent)
    if rule == "frozen":
        save(packed, mask, out)
    print(peak_rss_mib())


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:]) if sys.argv[1:] else program()
'''
CEILING = 300


def device(
    folder: Path, ceiling: int, engine: str, rule: str = "frozen"
) -> tuple[float, Path]:
    """Peak MiB of a device that carries out one order, and where its update is."""
    out = folder / f"update-{ceiling}-{engine}-{rule}.npy"
    return float(python(folder, str(ceiling), engine, rule, str(out))), out


def python(folder: Path, *arguments: str) -> str:
    """What the task's file says, run by itself."""
    done = subprocess.run(
        [sys.executable, "wide.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=patience(300),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the task, with its program."""
    made = tmp_path_factory.mktemp("wide")
    (made / "wide.py").write_text(TASK)
    python(made)
    return made


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[float, np.ndarray]:
    """The whole batch without a ceiling, dense-masked: peak MiB and update."""
    peak, update = device(folder, 0, "masked")
    assert peak > CEILING
    return peak, np.load(update)


def apart(update: Path, reference: np.ndarray) -> float:
    return float(np.linalg.norm(np.load(update) - reference)) / float(
        np.linalg.norm(reference)
    )


@pytest.mark.parametrize("engine", ["program", "masked"])
def test_a_ceiling_that_the_whole_batch_would_break_is_met_and_the_update_equals(
    folder: Path, engine: str, whole: tuple[float, np.ndarray]
) -> None:
    peak, update = device(folder, CEILING, engine)
    assert peak <= CEILING
    assert apart(update, whole[1]) < 1e-3  # float32 sums in another order


@pytest.mark.parametrize("room", [60, 20])
def test_a_program_keeps_to_the_plan_that_it_states(
    folder: Path, room: int, whole: tuple[float, np.ndarray]
) -> None:
    out = folder / f"planned-{room}.npy"
    said = python(folder, str(room), "planned", "frozen", str(out)).splitlines()
    stated = [line for line in said if "memory plan: " in line]
    assert " of 256 examples at once" in stated[0]
    assert "256 of 256" not in stated[0]
    # The batch in torch and in numpy, 2 MiB, is beside what the plan counts.
    assert float(said[-1]) <= room + 4
    assert apart(out, whole[1]) < 1e-3


def test_a_warm_up_keeps_to_the_ceiling_too(folder: Path) -> None:
    peak, _ = device(folder, CEILING, "program", rule="warm-up")
    assert peak <= CEILING


BENCH = Path(__file__).parents[1] / "bench/bench_device.py"


@pytest.mark.slow
def test_in_384_mb_the_kernel_kills_femnist_trained_dense_and_not_sparse() -> None:
    """The peaks are 207 and 500 MiB; the program is captured elsewhere, as usual."""
    made = [sys.executable, str(BENCH), "--part", "program"]
    subprocess.run(made, check=True, timeout=patience(250))
    with memory_group(384 * 10**6) as group:
        if group is None:
            pytest.skip("no control group can be made here: it takes root")
        ends = []
        for density, engine in (("0.05", "program"), ("1.0", "masked")):
            trial = [sys.executable, str(BENCH), "--part", "trial", density, engine]
            done = subprocess.run(
                inside(group, [*trial, "0"]), check=False, timeout=patience(250)
            )
            ends.append(done.returncode)
    assert ends == [0, -9]
