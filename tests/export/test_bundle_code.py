"""The code in a bundle's README, of one and of several inputs, in every language."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patience import patience
from torch import nn

import export
from edge_sdk.infer.build import SOURCES
from edge_sdk.infer.library import runtime_library
from edge_sdk.kernels.build import find_compiler, this_machine

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
KOTLIN = Path(__file__).parents[1] / "examples" / "kotlin"
COMPILER = KOTLIN / "node_modules" / "kotlin-compiler"
NAMES = ("double", "row", "flags", "\N{GREEK SMALL LETTER ALPHA}")


class Four(nn.Module):
    """Inputs of every dtype, whose names other languages have for something else."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.one, self.two = (
            nn.Embedding(70, 4), nn.Linear(6, 4), nn.Linear(6, 3),
        )  # fmt: skip

    def forward(
        self,
        double: torch.Tensor,
        row: torch.Tensor,
        flags: torch.Tensor,
        α: torch.Tensor,  # noqa: PLC2401 - a name that C has not
    ) -> dict[str, torch.Tensor]:
        seen = self.one(double.mean((2, 3)))
        kept = torch.where(flags.unsqueeze(-1), self.words(row), 0.0).sum(1)
        both = torch.cat([seen * kept, α], 1)
        return {"class": self.two(both), "size": both}


def _given(count: int) -> dict[str, Any]:
    random = np.random.default_rng(5)
    values: tuple[Any, ...] = (
        random.normal(size=(count, 6, 2, 3)).astype(np.float32),
        random.integers(0, 70, (count, 5)),
        random.random((count, 5)) < 0.6,
        random.normal(size=(count, 2)).astype(np.float32),
    )
    return dict(zip(NAMES, values, strict=True))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four") / "bundle"
    export.make_bundle(
        Four(), folder, formats=("onnx-sparse", "native"), calibration=_given(8),
        seconds=0,
    )  # fmt: skip
    return folder


def code(bundle: Path, language: str) -> str:
    text = (bundle / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return str(found)


@pytest.mark.parametrize(("kind", "standard"), [("c", "c99"), ("c++", "c++11")])
def test_the_program_of_several_inputs_runs_as_c_and_as_cpp(
    bundle: Path, tmp_path: Path, kind: str, standard: str
) -> None:
    (tmp_path / "run.c").write_text(code(bundle, "c"), encoding="utf-8")
    library = Path(runtime_library()._name).parent
    compiler = find_compiler(this_machine())
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-std={standard}"]
    link = ["-L", library, "-lflsp", f"-Wl,-rpath,{library}", "-o", tmp_path / "run"]
    subprocess.run(
        [compiler, "-x", kind, *flags, "-I", SOURCES, tmp_path / "run.c", *link],
        check=True,
    )
    done = subprocess.run(
        [tmp_path / "run"], cwd=bundle, capture_output=True, text=True, check=True
    )
    found = np.array(done.stdout.split(), np.float32)
    golden = np.load(bundle / "golden" / "inputs.npz")
    assert golden.files == list(NAMES)
    assert [str(golden[name].dtype) for name in NAMES] == [
        "float32", "int64", "bool", "float32",
    ]  # fmt: skip
    with torch.no_grad():
        wanted = Four()(**{n: torch.from_numpy(golden[n][:1]) for n in NAMES})
    for name, values in (
        export.load(bundle / "model.native.flsp").apart(found[None]).items()
    ):
        np.testing.assert_allclose(values, wanted[name], rtol=1e-5, atol=1e-6)


def test_the_cpp_code_for_onnxruntime_compiles(bundle: Path, tmp_path: Path) -> None:
    """Against a stub of what it uses: no package index has onnxruntime's headers."""
    sizes = [("float", 36), ("int64_t", 5), ("bool", 5), ("float", 2)]
    words = ["double_values", "row_values", "flags_values", "__values"]
    arrays = "".join(
        f"std::array<{kind}, {size}> {word};\n"
        for (kind, size), word in zip(sizes, words, strict=True)
    )
    text = f"#include <array>\n#include <onnxruntime_cxx_api.h>\n{arrays}"
    source = tmp_path / "run.cpp"
    shown = code(bundle, "cpp")
    source.write_text(f"{text}void run() {{\n{shown}}}\n", encoding="utf-8")
    compiler = find_compiler(this_machine())
    call = [compiler, "-fsyntax-only", "-std=c++17", "-Wall", "-Wextra", "-Werror"]
    done = subprocess.run(
        [*call, "-Wno-unused", "-I", Path(__file__).parent, source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    not COMPILER.exists() or shutil.which("java") is None,
    reason="needs Java and the Kotlin compiler (make tools)",
)
def test_the_kotlin_code_compiles(bundle: Path, tmp_path: Path) -> None:
    """Against the stubs that the Android example is compiled with."""
    given = (
        "double_values: FloatArray, row_values: LongArray, flags_values: ByteArray, "
        "__values: FloatArray, context: Context"
    )
    imports = (
        "import ai.onnxruntime.*\nimport android.content.Context\nimport java.nio.*\n"
    )
    source = tmp_path / "run.kt"
    assets, shown = "val assets = context.assets\n", code(bundle, "kotlin")
    body = f"fun run({given}): Array<FloatArray> {{\n{assets}{shown}"
    text = f'@file:Suppress("UNCHECKED_CAST")\n{imports}{body}return output\n}}\n'
    source.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            *("java", "-cp", f"{COMPILER}/lib/*"),
            *("org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-kotlin-home", COMPILER),
            *("-no-reflect", "-jvm-target", "17", "-d", tmp_path / "out"),
            *(KOTLIN / "onnxruntime.kt", *sorted((KOTLIN / "android").iterdir())),
            source,
        ],
        capture_output=True, text=True, timeout=patience(250), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_swift_code_parses(tmp_path: Path) -> None:
    """Of inputs that onnxruntime's package for Swift has: it knows no bool."""
    tree_sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_swift")

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(9, 4), nn.Linear(6, 3)

        def forward(self, ids: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.out(
                torch.cat([self.words(ids).sum(1), extra], 1)
            )
            return found

    export.make_bundle(
        Two(), tmp_path / "b", formats=("onnx",), input_shape=((5,), (2,)), seconds=0
    )
    shown = code(tmp_path / "b", "swift")
    assert '"ids": try ORTValue(' in shown
    assert "elementType: .int64, shape: [1, 5])" in shown
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    assert not parser.parse(shown.encode()).root_node.has_error


def test_the_python_code_gives_the_golden_outputs(bundle: Path) -> None:
    text = (bundle / "README.md").read_text(encoding="utf-8")
    for shown in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
        found: dict[str, Any] = {}
        with np.errstate(all="raise"), pytest.MonkeyPatch.context() as patch:
            patch.chdir(bundle)
            exec(compile(shown, "README", "exec"), found)  # noqa: S102 - what we wrote
        wanted = np.load(bundle / "golden" / "output.native.npy")[:1]
        size = found["output"].reshape(-1).size
        np.testing.assert_allclose(
            found["output"].reshape(1, -1), wanted[:, :size], rtol=1e-5, atol=1e-6
        )
