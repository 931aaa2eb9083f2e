"""Programs with a wrong gradient are refused; right ones are not, near ties and all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program import model as program_model
from edge_sdk.program.capture import capture, compare, compiled
from edge_sdk.program.graph import Graph
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.schedule import Schedule, Step, schedule
from edge_sdk.zoo.small import DigitsNet, MnistNet

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")
WRONG = 1.01  # times what is right


class Recurrent(nn.Module):
    """An LSTM and a GRU over a normed sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.norm = nn.LayerNorm(8)
        self.lstm = nn.LSTM(8, 7, batch_first=True)
        self.gru = nn.GRU(7, 6, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lstm(self.norm(self.embed(x)))[0]
        return self.head(self.gru(x)[0][:, -1])


class Attentive(nn.Module):
    """One transformer layer over convolved frames, its mean under a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(5, 8, 3, padding=1)
        self.block = nn.TransformerEncoderLayer(
            8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.stem(x.transpose(1, 2)).transpose(1, 2))
        return self.head(x.mean(1))


def convolved() -> nn.Module:
    """Batch and group norm, depth-wise filters, pools, a transposed layer."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.MaxPool2d(2), nn.ConvTranspose2d(8, 4, 2, 2), nn.Tanh(),
        nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3),
        nn.Sigmoid(), nn.Flatten(), nn.Linear(4 * 36, 4),
    )  # fmt: skip


FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (convolved, (2, 8, 8)),
    "recurrent": (Recurrent, (6, 5)),
    "attention": (Attentive, (6, 5)),
    "digits": (DigitsNet, (1, 8, 8)),
}


def case_of(name: str) -> Case:
    torch.manual_seed(3)
    make, shape = FAMILIES[name]
    model = make()
    return Case(model, torch.randn(8, *shape), torch.randint(0, 4, (8,)))


def judge_of(case: Case) -> Callable[[], float]:
    """The judgement of its program, which is captured once."""
    few = slice(0, 3)
    program = capture(case.model, case.loss, case.inputs[few], case.targets[few])
    return lambda: compare(program, case.model, case.loss, case.inputs, case.targets)


def refused(judged: Callable[[], float]) -> str:
    """What a refusal says; empty if there is none."""
    try:
        judged()
    except EngineError as found:
        said = str(found)
        return said if "steps of the program differ from torch's" in said else ""
    return ""


def planted(number: int, seen: list[str]) -> Callable[..., Schedule]:
    """A schedule in which what the numbered backward kernel hands down is wrong."""

    def wrong(graph: Graph, parameters: Any, *, train: bool) -> Schedule:
        made = schedule(graph, parameters, train=train)
        if not train:
            return made
        steps: list[Step] = []
        instead: dict[int, int] = {}

        def now(tensors: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(instead.get(t, t) for t in tensors)

        kernels: list[str] = []
        for step in made.steps:
            if step.backward or step.kernel == "add":
                step = replace(  # noqa: PLW2901 - what it reads may have a new place
                    step, inputs=now(step.inputs), d_outputs=now(step.d_outputs)
                )
            steps.append(step)
            handed = [t for t in step.d_inputs if t >= 0]
            if not (step.backward and handed):
                continue
            kernels.append(step.kernel)
            for tensor in handed if len(kernels) - 1 == number else ():
                size = made.sizes[tensor]
                instead[tensor] = made.new(size)
                steps.append(
                    Step(
                        "affine",
                        inputs=(tensor,),
                        outputs=(instead[tensor],),
                        ints=(size,),
                        reals=(WRONG, 0.0),
                    )
                )
        made.steps[:] = steps
        seen[:] = kernels
        return made

    return wrong


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gradient_that_is_one_percent_wrong_is_refused_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of backward kernel hands down a hundredth too much, at its deepest."""
    case, seen = case_of(name), list[str]()
    judged = judge_of(case)
    monkeypatch.setattr(program_model, "schedule", planted(-1, seen))
    assert judged() < 1e-4
    layers = [n for n, _ in case.model.named_modules() if n]
    kinds = {kernel: number for number, kernel in enumerate(seen)}
    assert len(kinds) >= 3
    for kernel, number in kinds.items():
        monkeypatch.setattr(program_model, "schedule", planted(number, seen))
        said = refused(judged)
        assert said.partition(":")[0].removeprefix("layer ") in layers, kernel


@pytest.mark.parametrize("name", FAMILIES)
def test_a_wrong_gradient_of_one_entry_is_refused_with_its_layer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, right = case_of(name), ProgramModel.backward
    judged = judge_of(case)
    names = [n for n, _ in case.model.named_parameters()]
    for entry in (names[0], names[len(names) // 2], names[-1]):
        layer = entry.rpartition(".")[0]

        def wrong(
            own: ProgramModel, *given: Any, _entry: str = entry, **named: Any
        ) -> float:
            found = right(own, *given, **named)
            own.gradients[_entry][...] *= WRONG
            return found

        monkeypatch.setattr(ProgramModel, "backward", right)
        if not _counts(case, entry):
            continue
        monkeypatch.setattr(ProgramModel, "backward", wrong)
        assert refused(judged).startswith(f"layer {layer}:"), entry


def _counts(case: Case, entry: str) -> bool:
    """Tell whether an entry's gradient is a part of its layer's that can be seen."""
    case.model.zero_grad()
    case.loss(case.model.train()(case.inputs), case.targets).backward()  # type: ignore[no-untyped-call]
    layer = case.model.get_submodule(entry.rpartition(".")[0])
    norms = [float(p.grad.norm()) for p in layer.parameters() if p.grad is not None]
    own = case.model.get_parameter(entry).grad
    return own is not None and float(own.norm()) > 0.05 * max(norms)


def flat_images(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rectangles of one grey each on black: windows of a pool hold equal values."""
    rng = np.random.default_rng(seed)
    images = np.zeros((8, 1, 28, 28), np.float32)
    for image in images:
        for _ in range(6):
            top, left = rng.integers(0, 20, 2)
            image[0, top : top + 8, left : left + 8] = rng.integers(0, 256) / 255
    return torch.from_numpy(images), torch.from_numpy(rng.integers(0, 10, 8))


@pytest.mark.parametrize("seed", range(20))
def test_ties_in_the_windows_of_a_pool_are_no_reason_to_refuse(seed: int) -> None:
    """Rounding chooses the winner there, and torch's choice is no better."""
    torch.manual_seed(seed)
    found = compiled(MnistNet(), F.cross_entropy, *flat_images(seed))
    assert found.file, found.reason


def test_ties_hide_no_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    judged = judge_of(Case(MnistNet(), *flat_images(1)))
    seen: list[str] = []
    monkeypatch.setattr(program_model, "schedule", planted(-1, seen))
    judged()
    pools = [number for number, kernel in enumerate(seen) if "pool" in kernel]
    assert len(pools) == 2
    for number in pools:
        monkeypatch.setattr(program_model, "schedule", planted(number, seen))
        assert refused(judged).startswith("layer ")
