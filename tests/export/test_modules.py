"""`export.build` of torch modules that a person made and pruned with other tools."""

import dataclasses
import os
import re
import subprocess
import sys
import threading
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import export
from edge_sdk import Examples
from edge_sdk.datasets.rows import rows_of
from edge_sdk.errors import CheckpointError, DataError, ExportError
from export.cli import app
from export.modules import from_module, load_module, load_weights
from export.places import suffix_of

RNG = np.random.default_rng(0)
SOME = RNG.normal(size=(40, 16))  # float64, as numpy gives it


def mlp(width: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, width))


def pruned(model: nn.Module, amount: float = 0.8) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            prune.l1_unstructured(module, "weight", amount)
    return model


def conv() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 12, batch_first=True)
        self.out = nn.Linear(12, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.rows(ids))[0][:, -1])


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 4), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"class": self.a(x), "place": self.b(x)}


class Doubled(nn.Module):
    """Nothing that could be pruned."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return y if y.sum() > 0 else -y


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.a(y)


def test_several_formats_are_files_of_one_folder_each_with_its_gates(
    tmp_path: Path,
) -> None:
    model = pruned(mlp()).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    targets = RNG.integers(0, 4, len(SOME))
    made = export.build(
        model, tmp_path / "out", formats=("onnx-sparse", "native", "onnx-int8"),
        input_shape=(16,), calibration=Examples(SOME, targets),
        labels=["a", "b", "c", "d"], accuracy_points=100.0,
    )  # fmt: skip
    assert list(made) == ["onnx-sparse", "native", "onnx-int8"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        p.name for p in made.files.values()
    )
    assert made.sizes == {k: p.stat().st_size for k, p in made.files.items()}
    assert {"mask", "parity", "bitwise"} <= set(made.gates["onnx-sparse"])
    assert "accuracy" in made.gates["onnx-int8"]
    assert made["native"].density == pytest.approx(0.2, abs=0.01)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    expected = model(torch.from_numpy(SOME).float()).detach().numpy()
    for name in ("onnx-sparse", "native"):
        loaded = export.load(made.files[name])
        assert (loaded.format, loaded.input_shape) == (name, (16,))
        assert loaded.labels == ("a", "b", "c", "d")
        np.testing.assert_allclose(loaded(SOME), expected, atol=1e-5)
        again = export.verify(
            made.files[name], model, input_shape=16, labels=["a", "b", "c", "d"]
        )
        assert again.sha256 == made[name].sha256


class Named(NamedTuple):
    what: torch.Tensor
    extra: torch.Tensor


@dataclasses.dataclass
class Held:
    what: torch.Tensor
    extra: object


class Mapped(UserDict[str, object]):
    """A mapping that torch does not know, as libraries of models return."""


def gives(form: Callable[[torch.Tensor], object]) -> nn.Module:
    class Gives(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> object:
            return form(self.layer(x))

    return pruned(Gives())


FORMS: dict[str, Callable[[torch.Tensor], object]] = {
    "named-tuple": lambda y: Named(y, y.relu()),
    "dataclass": lambda y: Held(y, None),
    "dataclass-in-a-list": lambda y: [Held(y, {"more": y.relu()}), 3, "a name"],
    "mapping-of-its-own": lambda y: Mapped(what=y, size=4),
    "the-same-twice": lambda y: {"a": y, "b": y},
}


class InPlace(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.mul_(2))


CASES = {
    **{
        f"gives-{name}": (lambda form=form: gives(form), (16,))
        for name, form in FORMS.items()
    },
    "input-changed-in-place": (lambda: InPlace(16, 4), (16,)),
    "batch-norm-in-training": (lambda: pruned(conv()).train(), (3, 9, 9)),
    "float64": (lambda: pruned(mlp().double()), (16,)),
    "bfloat16": (lambda: mlp().bfloat16(), 16),
    "token-ids-into-an-lstm": (lambda: pruned(Words()), (5,)),
    "dictionary-out": (lambda: pruned(Two()), [16]),
    "nothing-to-prune": (Doubled, (16,)),
    "data-parallel": (lambda: nn.DataParallel(pruned(mlp())), np.array([16])),
    "compiled": (
        lambda: torch.compile(pruned(mlp()), backend="eager"),
        torch.Size([16]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_modules_of_many_kinds_pass_the_gates(case: str) -> None:
    make, shape = CASES[case]
    model = make()
    keys = list(model.state_dict())
    report = export.build(model, format="onnx-sparse", input_shape=shape)
    assert report.findings.bitwise
    assert list(model.state_dict()) == keys


def test_the_mask_of_pruning_is_believed_and_not_the_zeros() -> None:
    model = mlp()
    mask = torch.zeros(64, 16)
    mask[:, :8] = 1
    prune.custom_from_mask(model[0], "weight", mask)
    with torch.no_grad():
        model[0].weight_orig[:, 0] = 0.0  # kept, and 0
        model[0].weight_orig[:, 9] = torch.nan  # pruned, and no number
    source = from_module(model, (16,))
    assert np.array_equal(source.mask["0.weight"], mask.numpy() != 0)
    assert source.model[0].weight.isfinite().all()


def nan() -> nn.Module:
    model = mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    return model


def locked() -> nn.Module:
    model = mlp()
    model.lock = threading.Lock()
    return model


class Alone(nn.Module):
    def forward(self, x: torch.Tensor) -> float:
        return 1.0


REFUSED = {
    "complex": (
        lambda: gives(torch.fft.fft),
        {"input_shape": 16},
        "is torch.complex64",
        "view_as_real",
    ),
    "no-forward": (
        lambda: nn.ModuleList([nn.Linear(16, 4)]),
        {"input_shape": 16},
        "ModuleList has no forward",
        "nn.Sequential",
    ),
    "exported-program": (
        lambda: torch.export.export(mlp(), (torch.ones(2, 16),)),
        {"input_shape": 16},
        "is an ExportedProgram",
        "made from",
    ),
    "quantised-by-torch": (
        lambda: torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear}),
        {"input_shape": 16},
        "model: 0 is a quantised Linear",
        "onnx-int8",
    ),
    "another-shape": (
        mlp,
        {"input_shape": (20,)},
        "takes no batch",
        "without the batch",
    ),
    "batch-axis": (conv, {"input_shape": (1, 3, 9, 9)}, "takes no", r"\(3, 9, 9\)"),
    "no-shape": (mlp, {}, "input_shape is not given", "input_shape="),
    "words-for-shape": (mlp, {"input_shape": "16"}, "input_shape is '16'", "shape of"),
    "shape-of-none": (mlp, {"input_shape": (None, 16)}, "not a tuple", "shape of"),
    "unknown-format": (
        mlp,
        {"input_shape": 16, "formats": ("tflite",)},
        "no format 'tflite'",
        "native",
    ),
    "no-format": (
        mlp,
        {"input_shape": 16, "formats": ()},
        "formats is empty",
        "native",
    ),
    "operation": (
        lambda: Determinant(5, 4),
        {"input_shape": 5, "formats": ("onnx", "native")},
        "native: operation Det",
        "onnx-sparse",
    ),
    "nan": (nan, {"input_shape": 16}, "1 of 256 values of 2.weight are NaN", "Train"),
    "no-values": (lambda: mlp().to("meta"), {"input_shape": 16}, "device meta", "Load"),
    "branch": (Branch, {"input_shape": 16}, "torch could not export", "torch.where"),
    "two-inputs": (Pair, {"input_shape": 16}, "takes x, y", "a shape for each"),
    "no-output": (Alone, {"input_shape": 16}, "gives no tensor", "return a tensor"),
    "rows": (
        lambda: nn.LSTM(16, 4, batch_first=True),
        {"input_shape": (5, 16)},
        "output 1 of 3",
        "Wrap",
    ),
    "class": (lambda: Two, {"input_shape": 16}, "the class Two", r"Two\(\)"),
    "state": (
        lambda: mlp().state_dict(),
        {"input_shape": 16},
        "OrderedDict",
        "load_state",
    ),
    "function": (lambda: len, {"input_shape": 16}, "not a torch.nn.Module", "Wrap"),
    "script": (
        lambda: torch.jit.script(mlp()),
        {"input_shape": 16},
        "TorchScript",
        "Give",
    ),
    "lock": (locked, {"input_shape": 16}, "cannot be copied", "attributes"),
    "labels": (mlp, {"input_shape": 16, "labels": ["a"]}, "1 labels, but", "one label"),
    "name": (mlp, {"input_shape": 16, "name": "a/b"}, "no name of a file", "short"),
    "batch": (mlp, {"input_shape": 16, "batch": 4}, "batch is 4", "dynamic"),
    "formats-of-numbers": (
        mlp,
        {"input_shape": 16, "formats": (1,)},
        "a format is 1",
        "native",
    ),
    "formats-a-number": (
        mlp,
        {"input_shape": 16, "formats": 5},
        "a format is 5",
        "native",
    ),
    "bytes-for-shape": (mlp, {"input_shape": b"16"}, "not a tuple", "shape of"),
    "shape-a-truth": (mlp, {"input_shape": True}, "not a tuple", "shape of"),
    "shape-too-large": (mlp, {"input_shape": (10**6, 10**6)}, "3725 GiB", "at most"),
    "script-inside": (
        lambda: nn.Sequential(torch.jit.script(nn.Linear(16, 4))),
        {"input_shape": 16},
        "model: 0 is TorchScript",
        "Give",
    ),
    "points": (mlp, {"input_shape": 16, "accuracy_points": np.nan}, "is nan", "number"),
    "growth": (mlp, {"input_shape": 16, "loss_percent": -1}, "is -1", "0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_")
def test_what_cannot_be_exported_is_refused_in_words(case: str, tmp_path: Path) -> None:
    make, arguments, message, remedy = REFUSED[case]
    with pytest.raises(ExportError, match=message) as caught:
        export.build(make(), tmp_path / "out", **{"formats": "onnx", **arguments})
    assert re.search(remedy, caught.value.help)
    assert not list(tmp_path.glob("out/*"))


GIVEN = {
    "examples": (Examples(SOME, np.arange(40)), True),
    "array": (SOME, False),
    "float16": (SOME.astype(np.float16), False),
    "list": (SOME.tolist(), False),
    "list-of-tensors": (list(torch.from_numpy(SOME)), False),
    "tensor": (torch.from_numpy(SOME).requires_grad_(), False),
    "sparse": (torch.from_numpy(SOME).to_sparse(), False),
    "pair": ((SOME, np.arange(40.0)), True),
    "dataset": (TensorDataset(torch.from_numpy(SOME), torch.arange(40)), True),
    "inputs-alone": (TensorDataset(torch.from_numpy(SOME)), False),
    "loader": (
        DataLoader(TensorDataset(torch.from_numpy(SOME), torch.arange(40)), 16), True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GIVEN)
def test_examples_are_given_in_any_form_and_say_the_shape(case: str) -> None:
    given, targets = GIVEN[case]
    source = from_module(mlp(), calibration=given)
    assert source.input_shape == (16,)
    assert source.given is not None
    assert source.given.batch.dtype == np.float32
    np.testing.assert_allclose(source.given.batch, SOME, atol=2e-3)
    assert (source.given.targets is not None) == targets


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (SOME[:, :5], "has inputs of shape"),
        (np.full((3, 16), np.nan), "3 of 3 inputs are not finite"),
        ([], "no examples"),
        ((SOME, SOME[:3], SOME), "tuple of 3"),
        ((SOME, np.arange(3)), "40 inputs but 3 targets"),
        (np.array([["a"] * 16]), "not numbers"),
        ([[1.0], [1.0, 2.0]], "do not make an array"),
        ({"inputs": SOME}, "is a dict, not examples"),
        (iter(SOME), "not examples"),
        ("data", "is a str, not examples"),
        (torch.empty(3, 16, device="meta"), "have no values"),
    ],
)
def test_examples_that_do_not_fit_are_refused(given: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_module(mlp(), (16,), calibration=given)


def test_token_ids_are_refused_where_they_are_fractions() -> None:
    with pytest.raises(DataError, match=r"takes torch\.int64"):
        from_module(Words(), (5,), calibration=np.full((4, 5), 0.5))


class Determinant(nn.Linear):
    """The determinant of its outputs, which the native runtime has not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.det(super().forward(x).reshape(-1, 2, 2))[:, None]


def test_one_failing_format_writes_none(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"native: .*operation Det"):
        export.build(
            Determinant(16, 4), tmp_path, formats=("onnx", "native"), input_shape=16
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", [5, True, b"out", "a\0b"])
def test_an_out_that_is_no_path_is_refused(out: object) -> None:
    for how in ({"formats": "onnx"}, {"format": "onnx"}):
        with pytest.raises(ExportError, match="which is no path"):
            export.build(mlp(), out, input_shape=16, **how)


def test_a_file_that_is_a_folder_is_refused_before_another_is_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "model.native.flsp").mkdir()
    with pytest.raises(ExportError, match=r"model\.native\.flsp is a folder"):
        export.build(mlp(), tmp_path, formats=("onnx", "native"), input_shape=16)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    for out, kind in ((pipe, "it is no regular file"), (tmp_path, "it is a folder")):
        with pytest.raises(CheckpointError, match=kind):
            export.build(mlp(), out, format="onnx", input_shape=16)
    with pytest.raises(CheckpointError, match="it is a folder"):
        export.build(mlp(), ".", format="onnx", input_shape=16)
    assert pipe.is_fifo()


def test_an_index_beyond_its_table_is_refused_in_words() -> None:
    with pytest.raises(DataError, match="fails on inputs 0 to") as caught:
        export.build(Words(), formats="onnx", calibration=np.full((9, 5), 10**6))
    assert "below the size" in caught.value.help


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ExportError, match="cannot be made a folder"):
        export.build(mlp(), tmp_path / "out", formats="onnx", input_shape=16)


@pytest.mark.parametrize("format_", ["onnx", "onnx-int8", "ort", "native"])
def test_what_a_file_says_of_itself_is_compared(format_: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, rows = nn.Linear(6, 2), np.random.default_rng(0).normal(size=(64, 6))
    out = tmp_path / f"own{suffix_of(format_)}"
    given: dict[str, Any] = {"calibration": rows.astype(np.float32)}
    export.build(model, out, format=format_, name="own", labels=("a", "b"), **given)
    said = {"name": "own", "labels": ("a", "b")}
    export.verify(out, model, **given, **said)
    for other in ({"name": "other"}, {"labels": ("b", "a")}, {"labels": ()}):
        for more in (given, {"input_shape": 6}):
            with pytest.raises(ExportError, match="is not what exporting this module"):
                export.verify(out, model, **more, **{**said, **other})


def test_a_module_of_another_mask_is_told_from_the_one_in_the_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "model.onnx"
    export.build(pruned(mlp()), file, input_shape=16)
    with pytest.raises(ExportError, match=r"has mask .* the module has"):
        export.verify(file, pruned(mlp(), 0.5), input_shape=16)


def test_a_loaded_file_says_which_inputs_it_takes(tmp_path: Path) -> None:
    file = tmp_path / "words.onnx"
    export.build(Words(), file, input_shape=5)
    loaded = export.load(str(file))
    assert loaded([[1, 2, 3, 4, 5]]).shape == (1, 3)
    with pytest.raises(ExportError, match=r"inputs have shape \(5,\), not \(n, 5\)"):
        loaded(np.arange(5))
    with pytest.raises(ExportError, match="cannot be read"):
        export.load(tmp_path)


def saved(kind: str, folder: Path) -> Path:
    model = pruned(mlp(), 0.5)
    state = model.state_dict()
    file = folder / f"weights{'.safetensors' if kind == 'safetensors' else '.pt'}"
    if kind == "wrapped":
        state = {f"module.{key}": value for key, value in state.items()}
    if kind == "training":
        state = {"epoch": 3, "state_dict": state}
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file(state, file)
    else:
        torch.save(state, file)
    return file


@pytest.mark.parametrize("kind", ["plain", "wrapped", "training", "safetensors"])
def test_weights_saved_with_the_remains_of_pruning_load_into_a_plain_module(
    kind: str, tmp_path: Path
) -> None:
    model = mlp()
    load_weights(model, saved(kind, tmp_path))
    assert from_module(model, 16).mask.density == 0.5


def test_weights_that_are_none_or_of_another_module_are_refused(
    tmp_path: Path,
) -> None:
    file = tmp_path / "weights.pt"
    for content, message in (
        (mlp(5).state_dict(), "does not fit the module"),
        (mlp(), "no file of weights: it holds Python objects"),
        (7, "holds an int, no weights"),
    ):
        torch.save(content, file)
        with pytest.raises(ExportError, match=message) as caught:
            load_weights(mlp(), file)
        assert "torch.save(model.state_dict()" in caught.value.help
    with pytest.raises(ExportError, match="cannot be read"):
        load_weights(mlp(), tmp_path / "none.pt")


@pytest.mark.parametrize("reference", ["no_such_file:model", "json:no_such_object"])
def test_a_module_that_is_not_there_says_what_to_name(reference: str) -> None:
    with pytest.raises(ExportError, match="no_such") as caught:
        load_module(reference)
    assert "my_model:model" in caught.value.help


def test_the_command_line_exports_a_module_of_the_current_folder(
    tmp_path: Path,
) -> None:
    (tmp_path / "my_model.py").write_text(
        "from torch import nn\n\n\ndef Net():\n    return nn.Linear(16, 4)\n"
    )
    (tmp_path / "export.py").write_text("raise SystemExit('the wrong one')\n")
    torch.save(pruned(nn.Linear(16, 4)).state_dict(), tmp_path / "w.pt")
    done = subprocess.run(
        [Path(sys.executable).with_name("flash-export"), "build", "--module",
         "my_model:Net", "--input-shape", "16", "--weights", "w.pt"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "density 0.2" in done.stdout
    loaded = export.load(tmp_path / "net.onnx-sparse.onnx")
    assert loaded(np.zeros((2, 16))).shape == (2, 4)


def test_a_module_is_built_verified_and_bundled_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the examples of a folder, which say the shape."""
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n\n\ndef Net():\n    return nn.Linear(16, 4)\n"
    )
    torch.manual_seed(0)
    state = pruned(nn.Linear(16, 4)).state_dict()
    torch.save(state, tmp_path / "w.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    x = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d" / "eval.npz", inputs=x, targets=np.arange(40) % 4)
    named = ["--module", "own_net:Net", "--weights", "w.pt", "--data", "d"]
    for command in (
        ["build", *named, "--format", "onnx-int8", "--accuracy-points", "100"],
        ["verify", "net.onnx-int8.onnx", *named, "--accuracy-points", "100"],
        ["bundle", *named, "--out", "b"],
        ["verify", "b"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, (command, done.output)
    golden = np.load(tmp_path / "b" / "golden" / "input.npy")
    assert {row.tobytes() for row in golden} <= {row.tobytes() for row in x}


def test_examples_of_a_checkpoint_are_prepared_by_its_task(checkpoint, data_folder):
    with np.load(data_folder / "eval.npz") as file:
        given = Examples(file["inputs"], file["targets"])
    report = export.build(checkpoint, calibration=given)
    assert report.findings.parity.inputs == "examples given"
    with pytest.raises(DataError, match="has no targets"):
        export.build(checkpoint, calibration=given.inputs)
    with pytest.raises(ExportError, match="input_shape is"):
        export.build(checkpoint, input_shape=(3, 3, 3))


def test_rows_of_a_frame_are_its_numbers() -> None:
    class Frame:
        def to_numpy(self) -> np.ndarray:
            return SOME

    assert rows_of(Frame(), "frame")[0] is SOME
