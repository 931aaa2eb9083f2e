"""Modules of strangers whose forward mixes a batch, wants a list, prints or exits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import export
from edge_sdk.errors import ExportError
from export.cli import app
from export.modules import from_module
from export.modules.named import load_module, load_weights


class Wrapped(nn.Module):
    """A linear layer with a forward of one's own around it."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)
        self.own = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.own(self.layer, x)


MIXING = {
    "mean": lambda layer, x: layer(x) - layer(x).mean(0),
    "size": lambda layer, x: layer(x) / x.shape[0],
    "shape": lambda layer, x: layer(x)[:, : x.shape[0]],
}


@pytest.mark.parametrize("case", MIXING)
def test_outputs_that_depend_on_the_batch_are_told_as_such(case: str) -> None:
    model = Wrapped(MIXING[case])
    with pytest.raises(ExportError, match="depend on what else is in the batch") as e:
        export.build(model, format="onnx", input_shape=(4,))
    assert "--batch dynamic" in e.value.help
    if case == "mean":
        export.build(model, format="onnx", input_shape=(4,), batch="dynamic")
        with pytest.raises(ExportError, match="depend on what else"):
            export.build(model, format="native", input_shape=(4,), batch="dynamic")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_forward_for_one_example_alone_is_told_as_such() -> None:
    model = Wrapped(lambda layer, x: layer(x.reshape(1, 4)))
    with pytest.raises(ExportError, match=r"takes no batch") as caught:
        from_module(model, (4,))
    assert "one example at a time alone" in caught.value.help
    traced = torch.export.export(nn.Linear(4, 2), (torch.zeros(1, 4),)).module()
    with pytest.raises(ExportError) as caught:
        from_module(traced, (4,))
    assert "dynamic_shapes" in caught.value.help


def test_a_forward_that_takes_a_list_is_given_one(tmp_path: Path) -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(7, 2)

        def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
            assert isinstance(parts, list)
            found: torch.Tensor = self.out(torch.cat(parts, 1))
            return found

    model, given = Listed(), (np.ones((2, 3), "f"), np.zeros((2, 4), "f"))
    made = export.build(
        model, tmp_path, formats=("onnx", "native"), input_shape=((3,), (4,))
    )
    with torch.no_grad():
        wanted = model([torch.from_numpy(one) for one in given])
    for path in made.files.values():
        np.testing.assert_allclose(export.load(path)(given), wanted, rtol=1e-5)


def _exits(*_: Any) -> None:
    raise SystemExit(3)


def test_code_that_exits_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportError, match=r"takes no batch .* SystemExit: 3"):
        from_module(Wrapped(_exits), (4,))
    (tmp_path / "exits_when_called.py").write_text(
        "def make():\n    raise SystemExit(2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExportError, match="raised SystemExit: 2"):
        load_module("exits_when_called:make")


def test_what_a_module_prints_is_no_part_of_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loud_module.py").write_text(
        "from torch import nn\n"
        "class Loud(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        print('loud')\n"
        "        return super().forward(x)\n"
        "model = Loud(4, 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "m.onnx"
    given = ["--module", "loud_module:model", "--input-shape", "4", "--json"]
    for command in (["build", "--out", str(out)], ["verify", str(out)]):
        made = CliRunner().invoke(app, [*command, *given])
        assert made.exit_code == 0, made.output
        assert json.loads(made.stdout)["task"] == "model"
        assert "loud" in made.stderr


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


STATE = plain().state_dict()
HELD: dict[str, Any] = {
    "compiled and spread": {f"_orig_mod.module.{k}": v for k, v in STATE.items()},
    "an attribute": {f"net.{k}": v for k, v in STATE.items()},
    "under a name": {"ema": STATE, "epoch": 3},
    "under two": {"model": {"state_dict": STATE}, "optimizer": {"state": {0: 1}}},
    "both": {"state": {f"backbone.{k}": v for k, v in STATE.items()}},
}


@pytest.mark.parametrize("form", HELD)
def test_weights_are_found_in_what_was_saved(form: str, tmp_path: Path) -> None:
    torch.save(HELD[form], tmp_path / "w.pt")
    model = plain()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    load_weights(model, tmp_path / "w.pt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, STATE[name])


REFUSED: dict[str, tuple[Any, str]] = {
    "two of them": ({"teacher": STATE, "student": STATE}, "of teacher, student, no w"),
    "complex": (
        {k: v.to(torch.complex64) for k, v in STATE.items()},
        "0.weight is torch.complex64, the module's is torch.float32",
    ),
    "int8": (
        {k: (v * 100).to(torch.int8) for k, v in STATE.items()},
        "0.weight is torch.int8, the module's is torch.float32",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_would_be_cut_or_guessed_are_refused(
    case: str, tmp_path: Path
) -> None:
    held, said = REFUSED[case]
    torch.save(held, tmp_path / "w.pt")
    with pytest.raises(ExportError, match=said):
        load_weights(plain(), tmp_path / "w.pt")
