"""Operations that torch's exporter lacks, and numbers by themselves, are exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
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
