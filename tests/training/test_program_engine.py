"""Orders on programs and arrays, as on a board without torch, beside torch's."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from msgspec import structs
from torch import nn

from edge_sdk import Examples, Task, by_name
from edge_sdk.errors import DataError, EdgeError, EngineError
from edge_sdk.kernels.library import kernels, unavailable_reason
from edge_sdk.program.capture import capture, compiled
from edge_sdk.program.ceiling import (
    MemoryCeiling,
    MemoryExceededError,
    StepPlan,
    planned_step,
)
from edge_sdk.program.file import pack_program, unpack_program
from edge_sdk.program.graph import TrainingProgram
from edge_sdk.sparse import Mask, draw, exact_counts, uniform
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.layers import initial_state, layers_of, make_model
from edge_sdk.training.checkpoint import Progress
from edge_sdk.training.holdout.divided import DividedExamples
from edge_sdk.training.local import Stopped
from edge_sdk.training.program_engine import choice, example_check
from edge_sdk.training.program_engine.kept import (
    keep_program,
    kept_program,
    stated_plans,
)
from edge_sdk.training.program_engine.late_torch import LateTorchRunner
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.evidence import unpack_evidence
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.rules import (
    Controlled,
    Frozen,
    LocalRule,
    Member,
    Nested,
    Proximal,
    Regrow,
    Rewire,
    Sandwich,
    Score,
    Swat,
    WarmUp,
)
from edge_sdk.wire.values import Values, pack_values, unpack_values
from edge_sdk.zoo import VitTiny

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels here")

RNG = np.random.default_rng(0)
EXAMPLES = Examples(
    RNG.integers(0, 255, (40, 1, 8, 8)).astype(np.uint8), RNG.integers(0, 5, 40)
)
PLAN = Training(2, 8, 0.05, 0.9, 1e-3, seed=3)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(288, 16), nn.ReLU(), nn.Linear(16, 5),
    )  # fmt: skip


def task(**more: object) -> Task:
    """Of two modules, if this one could be imported by its name."""
    named = by_name("torch.nn.functional:cross_entropy")
    return Task(
        name="two", model=Here(), loss=named, input_shape=(1, 8, 8),
        train_data=lambda _: EXAMPLES,
        prepare=lambda raw: raw.astype(np.float32) / np.float32(255), **more,
    )  # fmt: skip


class Here(type(by_name("math:sqrt"))):  # type: ignore[misc]
    """A model that is named, and is this module's."""

    def __init__(self) -> None:
        super().__init__("test_program_engine:network")

    def __call__(self, *_: object, **__: object) -> nn.Module:
        return network()


TASK = task()
LAYERS = layers_of(network())
SIZES = {layer.name: layer.numel for layer in LAYERS}
COUNTS = exact_counts(uniform(LAYERS), LAYERS, 0.3)


def program() -> bytes:
    batch = tensors(TASK, EXAMPLES, slice(0, 8))
    found = compiled(make_model(TASK, 0), TASK.loss, *batch)
    assert found.file, found.reason
    return found.file


@pytest.fixture(scope="module")
def file() -> bytes:
    return program()


def order_of(rule: LocalRule, plan: Training = PLAN) -> tuple[TaskOrder, bytes, Values]:
    density = 1.0 if isinstance(rule, Score) else 0.3
    counts = exact_counts(uniform(LAYERS), LAYERS, density)
    mask = draw(LAYERS, counts, 5)
    state = initial_state(TASK, 1)
    dense = {n: a for n, a in state.items() if n not in mask}
    start = Values(mask.digest, {n: state[n][mask[n]] for n in mask}, dense)
    sent = start
    if isinstance(rule, Controlled):
        weights = {**start.masked, "0.bias": dense["0.bias"]}
        control = {f".control.{n}": np.full_like(a, 0.01) for n, a in weights.items()}
        sent = Values(mask.digest, start.masked, {**dense, **control})
    base = pack_values(sent, mask)
    order = TaskOrder(
        id="1-a", round_no=1, density=density, base=manifest_of(base), rule=rule,
        mask=MaskRecipe(5, dict(counts), mask.digest), training=plan, ttl_ms=1000,
        shard=0, codec="fp32", moves=isinstance(rule, Rewire | Regrow),
    )  # fmt: skip
    return order, base, start


def run(
    order: TaskOrder, base: bytes, file: bytes, *, own: Task = TASK, **more: object
) -> PackedUpdate:
    """On torch's masked engine without a program, else as a board without torch."""
    with pytest.MonkeyPatch.context() as patch:
        if file:
            patch.setattr(choice, "torch_is_here", lambda: False)
        engine = "auto" if file else "masked"
        stop = more.pop("stop", lambda: False)
        runner = TaskRunner(own, EXAMPLES, engine, **more)  # type: ignore[arg-type]
        torch.manual_seed(4)
        return runner.run(order, base, stop, program=file)  # type: ignore[arg-type]


FROZEN = [
    Frozen(), Proximal(0.3), Controlled(),
    Nested(0.6, members=[Member(dict(exact_counts(uniform(LAYERS), LAYERS, 0.1)))]),
    Sandwich([Member(dict(exact_counts(uniform(LAYERS), LAYERS, 0.1)))]),
]  # fmt: skip


@pytest.mark.parametrize("rule", FROZEN, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_an_update_is_torchs_within_a_ten_thousandth(
    rule: LocalRule, clip: float, file: bytes
) -> None:
    plan = Training(2, 8, 0.05, 0.9, 1e-3, seed=3, clip=clip) if clip else PLAN
    order, base, _ = order_of(rule, plan)
    ours, torchs = (
        unpack_values(run(order, base, f).payload, draw(LAYERS, COUNTS, 5))
        for f in (file, b"")
    )
    error = sum(
        float(((ours.masked[n] - torchs.masked[n]) ** 2).sum()) for n in ours.masked
    )
    assert error**0.5 < 2e-4 * torchs.norm()
    assert ours.dense.keys() == torchs.dense.keys()
    for name, entry in torchs.dense.items():
        np.testing.assert_allclose(ours.dense[name], entry, atol=2e-4, err_msg=name)


def test_a_warm_up_counts_what_torchs_does(file: bytes) -> None:
    order, base, _ = order_of(WarmUp(0.25), Training(4, 8, 0.1, seed=3))
    ours, torchs = (
        unpack_evidence(run(order, base, f).payload, SIZES) for f in (file, b"")
    )
    assert sum(ours.counts.values()) == sum(COUNTS.values())
    for name, count in torchs.counts.items():
        assert abs(ours.counts[name] - count) <= 1 + 0.02 * count


@pytest.mark.parametrize("rule", [Rewire(), Regrow(0.3)], ids=["rewire", "regrow"])
def test_a_mask_moves_within_its_budget(rule: LocalRule, file: bytes) -> None:
    order, base, _ = order_of(rule)
    ours, torchs = (run(order, base, f) for f in (file, b""))
    assert ours.offer.metrics["steps"] == torchs.offer.metrics["steps"]
    assert abs(ours.offer.metrics["loss"] - torchs.offer.metrics["loss"]) < 1e-3
    assert abs(ours.offer.norm - torchs.offer.norm) < 0.02 * torchs.offer.norm
    assert len(ours.payload) == len(torchs.payload)


def test_scores_of_weights_are_torchs(file: bytes) -> None:
    order, base, _ = order_of(Score(3), Training(1, 8, 0.1, seed=3))
    full = draw(LAYERS, exact_counts(uniform(LAYERS), LAYERS, 1.0), 5)
    ours, torchs = (
        unpack_values(run(order, base, f).payload, full).masked for f in (file, b"")
    )
    for name, scores in torchs.items():
        np.testing.assert_allclose(ours[name], scores, rtol=1e-3, atol=1e-6)


def shaken(raw: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    return raw + np.float32(0.1) * noise.normal(size=raw.shape).astype(np.float32)


@pytest.mark.parametrize("rule", [Frozen(), WarmUp(0.25)], ids=["frozen", "warm-up"])
def test_a_reboot_changes_no_bit_of_it(
    rule: LocalRule, file: bytes, tmp_path: Path
) -> None:
    own = task(augment=shaken)
    order, base, _ = order_of(rule)
    whole = run(order, base, file, own=own)
    progress, left = Progress(tmp_path, every_s=0.0), iter(range(6))
    with pytest.raises(Stopped):
        run(order, base, file, own=own, progress=progress,
            stop=lambda: next(left, None) is None)  # fmt: skip
    assert progress.path.exists()
    again = run(order, base, file, own=own, progress=progress)
    assert again.payload == whole.payload
    assert again.offer.metrics["loss"] == whole.offer.metrics["loss"]
    plain = run(order, base, file)  # augmentation does something
    assert plain.offer.metrics["loss"] != whole.offer.metrics["loss"]


def test_what_a_program_cannot_do_is_one_sentence_with_a_remedy(file: bytes) -> None:
    order, base, _ = order_of(Swat(0.3, 0.2))
    for refused, given in (("Swat computes by torch", file), ("is damaged", file[:-1])):
        with pytest.raises(EngineError, match=refused) as raised:
            run(order, base, given)
        assert raised.value.help
    order, base, _ = order_of(Frozen())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "torch_is_here", lambda: False)
        with pytest.raises(EngineError, match="names no training program"):
            TaskRunner(TASK, EXAMPLES, "auto").run(order, base, lambda: False)
        with pytest.raises(EngineError, match='engine = "masked" computes by torch'):
            TaskRunner(TASK, EXAMPLES, "masked")


INPUTS, LABELS = EXAMPLES.inputs, EXAMPLES.targets


def one(value: float) -> np.ndarray:
    """The labels, one of which is another."""
    return np.where(np.arange(len(LABELS)) == 11, value, LABELS)


ODD = {
    "labels between classes": (INPUTS, one(0.5), "label is 0.5, are no whole numbers"),
    "labels that are text": (INPUTS, LABELS.astype(str), "targets are text"),
    "a label too large": (INPUTS, one(5).astype(int), r"example 11 .*whose label is 5"),
    "a label below zero": (INPUTS, one(-1).astype(int), r"example 11 .*label is -1"),
    "a label beyond reals": (INPUTS, one(2**40).astype(int), "out of range: .*0 to 4"),
    "a small label": (INPUTS, one(5).astype(np.int8), "out of range: .*0 to 4"),
    "labels with an axis": (INPUTS, LABELS[:, None], r"have the shape \(1,\), .* \(\)"),
    "another height": (INPUTS[:, :, :7], LABELS, r"shape \(1, 7, 8\), .*\(1, 8, 8\)"),
    "no channels": (INPUTS[:, 0], LABELS, r"have the shape \(8, 8\)"),
    "inputs that are dates": (INPUTS.astype("M8[s]"), LABELS, "inputs are dates"),
    "complex inputs": (INPUTS.astype(complex), LABELS, "complex"),
    "a NaN": (np.where(INPUTS.max() == INPUTS, np.nan, INPUTS), LABELS, "not finite"),
    "beyond float32": (INPUTS * 1e300, LABELS, "not finite"),
    "labels of float64": (INPUTS, one(1e300), "out of range: .* 0 to 4"),
}


@pytest.mark.parametrize("name", ODD)
def test_examples_of_another_kind_are_refused_and_the_board_lives_on(
    name: str, file: bytes
) -> None:
    order, base, _ = order_of(Frozen())
    inputs, targets, said = ODD[name]
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        for module in (choice, example_check):
            patch.setattr(module, "torch_is_here", lambda: False)
        with pytest.raises(EdgeError, match=said) as raised:
            TaskRunner(TASK, Examples(inputs, targets), "auto").run(
                order, base, lambda: False, program=file
            )
        assert "\n" not in str(raised.value)
        assert raised.value.help
        assert "masked" not in raised.value.help  # there is no torch on this board
        runner = TaskRunner(TASK, EXAMPLES, "auto")
        assert runner.run(order, base, lambda: False, program=file).offer.metrics


def resealed(file: bytes, version: int, **names: str) -> bytes:
    """The program under another version, or with operations of other names."""
    body = file[48:]
    for before, after in names.items():
        body = body.replace(before.encode(), after.encode())
    digest = hashlib.sha256(body).digest()
    return struct.pack("<8sII32s", b"FLEPROG\n", version, len(body), digest) + body


def test_a_program_of_another_runtime_is_told_by_what_it_has(file: bytes) -> None:
    order, base, _ = order_of(Frozen())
    for given, said, remedy in (
        (resealed(file, 4), "version 4, this runtime reads 1 to 3", "same version"),
        (resealed(file, 1, linear="lineax"), "layer 6: lineax .*no such", "Update"),
        (file[:300], "is damaged", "Restart the coordinator"),
    ):
        with pytest.raises(EngineError, match=said) as raised:
            run(order, base, given)
        assert remedy in raised.value.help


def plans_of(own: TrainingProgram, mask: Mask) -> tuple[StepPlan, StepPlan]:
    """Without a ceiling, and under the lowest that works."""
    lanes = kernels().vector_bytes // 4
    free = planned_step(own, mask, None, samples=8, vector_lanes=lanes)
    tight = free
    with contextlib.suppress(EngineError):
        while True:
            bound = MemoryCeiling(tight.nbytes - 1, 0)
            tight = planned_step(own, mask, bound, samples=8, vector_lanes=lanes)
    return free, tight


def test_a_ceiling_is_met_by_the_plan_that_is_stated(
    file: bytes, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO")
    order, base, _ = order_of(Frozen())
    mask = draw(LAYERS, COUNTS, 5)
    free, tight = plans_of(unpack_program(file), mask)
    assert tight.nbytes < free.nbytes
    found = []
    for bound in (MemoryCeiling(tight.nbytes, 0), None):
        more = {"ceiling": lambda bound=bound: bound, "progress": Progress(tmp_path)}
        found.append(unpack_values(run(order, base, file, **more).payload, mask))
    ours, theirs = found
    first, second = (m for m in caplog.messages if m.startswith("memory plan"))
    assert "8 of 8 examples at once" in first  # batch norm sees them all
    assert tight.told().partition(":")[0] in first
    assert second == f"memory plan: {free.told()}"
    for name, values in theirs.masked.items():
        np.testing.assert_allclose(ours.masked[name], values, rtol=1e-5, atol=1e-7)
    assert kept_program(tmp_path) == file
    stated = stated_plans(tmp_path, TASK, (0.1, 0.3), None)
    assert all("examples at once" in words for words in stated.values())
    assert stated_plans(tmp_path / "none", TASK, (0.1,), None) == {}


def test_a_stated_plan_has_each_threads_copies(tmp_path: Path) -> None:
    images = torch.randn(3, 3, 32, 32)
    own = capture(VitTiny(), F.cross_entropy, images, torch.tensor([0, 1, 2]))
    keep_program(tmp_path, pack_program(own))
    ample = MemoryCeiling(1 << 30, 0)
    told = [
        stated_plans(tmp_path, TASK, (0.1,), ample, threads=n)[0.1] for n in (1, 64)
    ]
    assert "MiB in all" in told[0]
    assert told[0] != told[1]


@pytest.mark.parametrize("activations", ["fp32", "bf16"])
def test_an_order_that_cannot_fit_names_what_would(
    file: bytes, activations: str, tmp_path: Path
) -> None:
    none = MemoryCeiling(1000, 900)
    for rule in (Frozen(), WarmUp(0.25)):
        order, base, _ = order_of(rule)
        with pytest.raises(EngineError, match="batch norm needs the batch") as caught:
            run(order, base, file, ceiling=lambda: none, activations=activations)
        assert "Set caps.ram_mib" in caught.value.help
        assert ("bf16" in caught.value.help) is (activations == "fp32")
    keep_program(tmp_path, file)
    assert "at the least" in stated_plans(tmp_path, TASK, (0.1,), none)[0.1]


@dataclass
class Late:
    """A device that has torch and has not imported it, with its settings' engine."""

    folder: Path
    engine: str = "auto"
    ceiling: MemoryCeiling | None = None
    tick_s: float = 0.0
    now_s: float = 0.0
    imports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.progress = Progress(self.folder, every_s=0.0)
        self.runner = LateTorchRunner(
            self.made(with_torch=False),
            lambda: self.imports.append("torch") or self.made(with_torch=True),
            self.progress,
            races=self.engine == "auto",
        )

    def clock(self) -> float:
        self.now_s += self.tick_s
        return self.now_s

    def made(self, *, with_torch: bool) -> TaskRunner:
        return TaskRunner(
            TASK, EXAMPLES, self.engine,  # type: ignore[arg-type]
            ceiling=lambda: self.ceiling, clock=self.clock, progress=self.progress,
            with_torch=with_torch,
        )  # fmt: skip

    def run(self, order: TaskOrder, base: bytes, file: bytes) -> PackedUpdate:
        return self.runner.run(order, base, lambda: False, b"", b"", file)


@pytest.mark.parametrize("rule", [Frozen(), WarmUp(0.25)], ids=["frozen", "warm-up"])
def test_an_order_with_a_program_needs_no_torch_where_there_is_one(
    rule: LocalRule, file: bytes, tmp_path: Path
) -> None:
    own = Late(tmp_path)
    assert own.runner.engines == ("program", "masked")  # the coordinator plans with it
    order, base, _ = order_of(rule)
    made = own.run(order, base, file)
    assert made.payload == run(order, base, file).payload
    assert own.imports == []
    assert own.runner.engine == ("" if isinstance(rule, WarmUp) else "program")


def test_what_a_program_cannot_do_is_done_by_torch_once_for_all(
    file: bytes, tmp_path: Path
) -> None:
    plain, swat = order_of(Frozen()), order_of(Swat(0.3, 0.2))
    odd = {
        "no program": (plain, b""),
        "a damaged one": (plain, file[:300]),
        "one of another version": (plain, resealed(file, 4)),
        "one with an unknown operation": (plain, resealed(file, 1, linear="lineax")),
        "a rule of torch's": (swat, file),
    }
    for name, ((order, base, _), given) in odd.items():
        own = Late(tmp_path)
        made = own.run(order, base, given)
        assert made.offer.metrics["steps"] > 0, name
        assert own.imports == ["torch"], name
        own.run(structs.replace(plain[0], id="2-a"), plain[1], file)
        assert own.imports == ["torch"], name


def test_memory_that_a_program_lacks_is_not_sought_in_torch(
    file: bytes, tmp_path: Path
) -> None:
    own = Late(tmp_path, ceiling=MemoryCeiling(1 << 20, 1 << 20))
    order, base, _ = order_of(Frozen())
    with pytest.raises(MemoryExceededError):
        own.run(order, base, file)
    assert own.imports == []


def test_a_checkpoint_of_torchs_is_gone_on_from_by_torch(
    file: bytes, tmp_path: Path
) -> None:
    order, base, _ = order_of(Frozen())
    before = TaskRunner(
        TASK, EXAMPLES, "masked", progress=Progress(tmp_path, every_s=0.0)
    )
    left = iter(range(6))
    with pytest.raises(Stopped):
        before.run(order, base, lambda: next(left, None) is None)
    own = Late(tmp_path)
    other = structs.replace(order, id="1-b")
    assert not own.progress.is_of_torch(other.id)
    assert own.progress.is_of_torch(order.id)
    own.run(order, base, file)
    assert own.imports == ["torch"]
    own.progress.path.write_bytes(b"damaged")
    assert not own.progress.is_of_torch(order.id)


@pytest.mark.parametrize(("engine", "races"), [("auto", True), ("program", False)])
def test_engines_race_once_a_task_is_long_enough_to_pay_the_import(
    engine: str, races: bool, file: bytes, tmp_path: Path
) -> None:
    order, base, _ = order_of(Frozen())
    short = Late(tmp_path / "short", engine)
    long = Late(tmp_path / "long", engine, tick_s=30.0)
    for number in range(2):
        for own in (short, long):
            own.folder.mkdir(exist_ok=True)
            own.run(structs.replace(order, id=f"{number}-a"), base, file)
    assert short.imports == []
    assert long.imports == (["torch"] if races else [])


def test_data_that_no_engine_takes_import_nothing(file: bytes, tmp_path: Path) -> None:
    own = Late(tmp_path)
    order, base, _ = order_of(Frozen())
    own.runner.tester.examples = DividedExamples(Examples(INPUTS, one(7).astype(int)))
    with pytest.raises(DataError, match="out of range"):
        own.run(order, base, file)
    assert own.imports == []


WHY = """
import sys
from dataclasses import replace
from pathlib import Path
from edge_sdk.tasks.task import load_task
from edge_sdk.training.program_engine.choice import why_torch_now
def why(task, engine, device):
    return why_torch_now(task, engine, device, Path(sys.argv[1]))
task = load_task("digits")
print(why(task, "auto", "cpu"))
(Path(sys.argv[1]) / "program.bin").write_bytes(b"of the last order")
print(why(task, "auto", "cpu"), why(task, "program", "cpu"), "torch" in sys.modules)
print(why(task, "masked", "cpu"), "|", why(task, "auto", "cuda"))
print(why(replace(task, model=lambda: None, prepare=lambda raw: raw), "auto", "cpu"))
sys.modules["torch"] = sys
print(why(task, "auto", "cpu"))
"""


def test_an_agent_says_why_it_imports_torch_at_its_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHY, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "no order has brought a training program yet",
        "  False",
        'engine = "masked" in the settings | device = "cuda" in the settings',
        "prepare of task digits is written for it",
        "the module of task digits imports it",
    ]
