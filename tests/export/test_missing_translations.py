"""Operations that torch's exporter lacks, and numbers by themselves, are exported."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization as tq
from native_graphs import compare, model_of, node
from torch import nn
from typer.testing import CliRunner

import export
from edge_sdk.errors import ExportError
from edge_sdk.kernels.build import find_compiler, this_machine
from export.cli import app
from export.modules import from_module

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)


class Of(nn.Module):
    """A layer, and what a function makes of its outputs."""

    def __init__(
        self, layer: nn.Module, function: Callable[[torch.Tensor], Any]
    ) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.layer(x))


def places(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    values, at = nn.functional.adaptive_max_pool2d(x, (3, 2), return_indices=True)
    return values, at.float()


def cleaned(x: torch.Tensor) -> torch.Tensor:
    return torch.log(x.relu()).nan_to_num(neginf=-3.0) + torch.hypot(x, 2 * x)


def running(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Largest and least so far, and the last places of them, of values with equals."""
    most, at = (2 * x).round().cummax(-1)
    least, before = (2 * x).round().cummin(1)
    return most + x, at.float(), least + x, before.float()


class Bags(nn.Module):
    """Words of each example in a bag, some of them padding, perhaps with weights."""

    def __init__(self, mode: str, padding: int | None, *, weighted: bool) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(9, 16, mode=mode, padding_idx=padding)
        self.out, self.weighted = nn.Linear(16, 3), weighted

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        weights = (ids.float() / 8).sin() if self.weighted else None
        found: torch.Tensor = self.out(self.words(ids, per_sample_weights=weights))
        return found


PROTOTYPES = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        f"distances {p}": (
            lambda p=p: Of(nn.Linear(6, 8), lambda x: torch.cdist(x, PROTOTYPES, p)),
            (6,),
        )
        for p in (1.0, 1.5, 2.0, float("inf"))
    },
    "largest of parts": (lambda: Of(nn.Conv2d(3, 4, 3), places), (3, 9, 11)),
    "largest of parts of a row": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.AdaptiveMaxPool1d(4)),
        (3, 11),
    ),
    "running product": (
        lambda: Of(nn.Linear(6, 13), lambda x: x.cumprod(-1)),
        (3, 6),
    ),
    "running largest": (lambda: Of(nn.Linear(6, 13), running), (3, 6)),
    "running of one": (lambda: Of(nn.Linear(6, 1), running), (3, 6)),
    "running of whole numbers": (
        lambda: Of(nn.Linear(6, 5), lambda x: (3 * x).long().cummin(1)[0].float()),
        (6,),
    ),
    "median": (lambda: Of(nn.Linear(6, 9), lambda x: x.median(1)[0]), (4, 6)),
    "random slopes": (lambda: nn.Sequential(nn.Linear(6, 9), nn.RReLU()), (6,)),
    "no infinities": (lambda: Of(nn.Linear(6, 9), cleaned), (6,)),
    "a number in": (lambda: Of(nn.Identity(), lambda x: x[:, None] * 3 + 1), ()),
    "a number out": (lambda: Of(nn.Linear(6, 3), lambda x: x[:, 0]), (6,)),
}


@pytest.mark.parametrize("case", CASES)
def test_operations_that_the_exporter_lacks_are_exported(case: str) -> None:
    make, shape = CASES[case]
    torch.manual_seed(0)
    model = make()
    found = export.build(model, formats=("onnx-sparse", "native"), input_shape=shape)
    for one in found.values():
        parity = one.findings.parity
        assert parity is not None
        assert parity.max_relative <= 1e-5


@pytest.mark.parametrize(
    ("mode", "padding", "weighted"),
    [
        ("sum", None, True), ("sum", 2, False), ("mean", None, False),
        ("mean", 2, False), ("max", None, False), ("max", 2, False),
    ],
)  # fmt: skip
def test_bags_of_words_are_exported(
    mode: str, padding: int | None, weighted: bool
) -> None:
    """One bag holds padding alone."""
    torch.manual_seed(0)
    ids = torch.randint(9, (20, 5)).numpy()
    ids[3] = 2
    model = Bags(mode, padding, weighted=weighted)
    made = export.build(model, formats=("onnx-sparse", "native"), calibration=ids)
    for one in made.values():
        parity = one.findings.parity
        assert parity is not None
        assert parity.max_relative <= 1e-5


class Rotary(nn.Module):
    """Pairs of features turned by complex numbers of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        turns = torch.polar(torch.ones(4, 4), torch.linspace(0, 3, 16).reshape(4, 4))
        self.register_buffer("turns", turns, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = self.layer(x).reshape(*x.shape[:-1], 4, 2)
        found = torch.view_as_complex(pairs) * self.turns
        return torch.view_as_real(found).flatten(-2)


class Stubs(nn.Module):
    """What quantisation while training leaves in a model."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.end = tq.QuantStub(), tq.DeQuantStub()
        self.layer = nn.Linear(8, 4)
        self.sums = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(self.begin(x))
        found: torch.Tensor = self.end(self.sums.add(y, y.relu()))
        return found


def observed() -> nn.Module:
    model = Stubs().train()
    model.qconfig = tq.get_default_qat_qconfig("x86")
    tq.prepare_qat(model, inplace=True)
    model(torch.randn(5, 8))
    return model


@pytest.mark.parametrize(
    ("make", "shape", "note"),
    [
        (Rotary, (4, 8), ""),
        (Stubs, (8,), ""),
        (observed, (8,), r"\d+ observers of quantisation are left out"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's own of its quantisation
def test_complex_buffers_and_stubs_of_quantisation_are_exported(
    make: Callable[[], nn.Module], shape: tuple[int, ...], note: str
) -> None:
    torch.manual_seed(0)
    made = export.build(make(), formats=("onnx-sparse", "native"), input_shape=shape)
    for one in made.values():
        assert one.findings.parity is not None
        assert one.findings.parity.max_relative <= 1e-5
        assert re.search(note, " ".join(one.notes))


def test_a_forward_of_half_precision_is_named_with_its_layer() -> None:
    def short(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return nn.functional.linear(x, PROTOTYPES[:, :6]).float()

    model = nn.Sequential(nn.Linear(6, 6), Of(nn.Linear(6, 6), short))
    with pytest.raises(ExportError, match="computes in bfloat16 in layer 1"):
        export.build(model, format="onnx", input_shape=(6,))


@pytest.mark.parametrize("function", [torch.linalg.inv, torch.linalg.svdvals])
def test_what_only_a_program_can_compute_is_named(function: Any) -> None:
    model = Of(nn.Linear(3, 3), function)
    with pytest.raises(ExportError, match=r"linalg_.* has no form in ONNX") as told:
        export.build(model, format="native", input_shape=(3, 3))
    assert "into a buffer" in told.value.help


@pytest.mark.parametrize("how", [{}, {"detect_negative": 0}, {"detect_positive": 0}])
def test_infinities_are_found_as_onnxruntime_finds_them(how: dict[str, int]) -> None:
    nodes = [
        node("Relu", ["input"], ["r"]),
        node("Log", ["r"], ["l"]),  # minus infinity, where below 0
        node("Mul", ["l", "sign"], ["x"]),
        node("IsInf", ["x"], ["y"], **how),
        node("Cast", ["y"], ["output"], to=1),
    ]
    sign = -1.0 if how.get("detect_negative") == 0 else 1.0
    compare(model_of(nodes, {"sign": np.float32(sign)}, (4, 5)), (4, 5))


def test_a_projection_of_an_lstm_is_refused_with_its_layer() -> None:
    model = nn.Sequential(nn.LSTM(6, 8, batch_first=True, proj_size=4))
    with pytest.raises(ExportError, match=r"model: 0 is an LSTM with a projection"):
        from_module(model, (5, 6))


def test_a_cast_in_forward_is_named_as_the_reason() -> None:
    model = Of(nn.Linear(6, 3).double(), lambda x: x)
    wide = nn.Sequential(Of(nn.Identity(), lambda x: x.double()), model)
    with pytest.raises(ExportError, match="takes no batch of inputs") as told:
        from_module(wide, (6,))
    assert ".double()" in told.value.help


WRONG = {
    "no file": (["verify", "no.onnx"], "no.onnx cannot be read: it is not there"),
    "no bundle": (["bench", "."], "flash-export bundle made"),
    "no key": (
        ["bundle", "--module", "torch.nn:ReLU", "--input-shape", "3", "--out", "b",
         "--key", "no.pem"],
        "openssl genpkey",
    ),
    "no threads": (["bench", ".", "--threads", "0"], "threads is 0"),
    "no time": (["bench", ".", "--seconds", "-1"], "seconds is -1"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_commands_name_what_is_wrong_and_write_nothing(
    case: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, said = WRONG[case]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code != 0
    assert said in " ".join(found.output.split())
    assert not list(tmp_path.iterdir())
