"""Bundles: whole or not at all, checked on any machine, measured beside dense."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import export
from edge_sdk.checkpoint import Checkpoint
from edge_sdk.errors import ExportError
from edge_sdk.infer import NativeModel
from edge_sdk.kernels.build import find_compiler, this_machine
from export.places import scratch_beside

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
ROOT = Path(__file__).parents[2]
FORMATS = ("onnx-sparse", "native", "onnx-int8", "ort")


@pytest.fixture(scope="module")
def bundle(
    digits: tuple[Checkpoint, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    checkpoint, data = digits
    folder = tmp_path_factory.mktemp("bundles") / "digits"
    export.make_bundle(checkpoint, folder, formats=FORMATS, data=data, seconds=0.05)
    return folder


def copy_of(bundle: Path, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(bundle, folder / "copy"))


def test_it_holds_what_an_app_needs(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert set(manifest["models"]) == set(FORMATS)
    assert (bundle / "labels.txt").read_text().split() == list("0123456789")
    for entry in manifest["models"].values():
        assert entry["findings"]["parity"]["examples"] == 64
        assert entry["latency"]["p50_ms"] > 0
    assert manifest["machine"]["cores"] >= 1
    readme = (bundle / "README.md").read_text()
    for word in ("Kotlin", "Swift", "C++", "NativeModel", "flsp_run"):
        assert word in readme


def test_the_preparation_is_found_out_and_right(bundle: Path) -> None:
    """Raw bytes, prepared as preprocess.json says, are the golden input."""
    how = json.loads((bundle / "preprocess.json").read_text())
    assert how["kind"] == "affine"
    raw = np.load(bundle / "golden" / "raw.npy").astype(np.float32)
    view = raw[:, None] if how["raw"]["layout"] == "HW" else raw
    mean, std = (np.array(how[k]).reshape(1, -1, 1, 1) for k in ("mean", "std"))
    made = (view / how["range"][1] - mean) / std
    golden = np.load(bundle / "golden" / "input.npy")
    np.testing.assert_allclose(made, golden, atol=1e-4)


def test_it_verifies_here_and_without_torch(bundle: Path) -> None:
    differences = export.verify_bundle(bundle)
    assert set(differences) == set(FORMATS)
    assert max(differences.values()) <= 1e-5
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"import export; export.verify_bundle({str(bundle)!r}); print('fine')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "fine"


def test_the_readmes_python_runs(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    text = (bundle / "README.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) == 2
    for code in blocks:
        names: dict[str, np.ndarray] = {}
        exec(code, names)  # noqa: S102 - the snippet is what is tested
        assert names["output"].shape == (1, 10)


@pytest.mark.parametrize(
    "name", ["model.native.flsp", "labels.txt", "golden/input.npy"]
)
def test_a_changed_or_missing_file_is_named(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    copy = copy_of(bundle, tmp_path)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content + b"x")
    with pytest.raises(ExportError, match=f"{name} was changed"):
        export.verify_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(ExportError, match=f"{name} is missing"):
        export.verify_bundle(copy)


def test_an_added_file_is_named(bundle: Path, tmp_path: Path) -> None:
    copy = copy_of(bundle, tmp_path)
    (copy / "extra.txt").write_text("")
    with pytest.raises(ExportError, match=r"extra\.txt is not in the manifest"):
        export.verify_bundle(copy)


def test_other_outputs_than_the_golden_ones_are_found(
    bundle: Path, tmp_path: Path
) -> None:
    """With digests made to fit: the runtime's answer still has to be right."""
    import hashlib

    copy = copy_of(bundle, tmp_path)
    name = "golden/output.native.npy"
    outputs = np.load(copy / name)
    np.save(copy / name, outputs + 1e-3 * np.abs(outputs).max())
    manifest = json.loads((copy / "manifest.json").read_text())
    digest = hashlib.sha256((copy / name).read_bytes()).hexdigest()
    manifest["files"][name] = digest
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match="outputs differ from the golden ones"):
        export.verify_bundle(copy)


@pytest.mark.parametrize("content", [None, "", "{}", '{"format": "another"}', "[1]"])
def test_a_folder_that_is_no_bundle_is_refused(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ExportError, match="is not a bundle"):
        export.verify_bundle(tmp_path)


def test_a_foreign_folder_is_not_replaced(
    digits: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("")
    with pytest.raises(ExportError, match="is not a bundle"):
        export.make_bundle(digits[0], tmp_path)
    assert (tmp_path / "precious").exists()


def test_a_failed_gate_leaves_the_old_bundle(
    digits: tuple[Checkpoint, Path], bundle: Path, tmp_path: Path
) -> None:
    checkpoint, data = digits
    copy = copy_of(bundle, tmp_path)
    with pytest.raises(ExportError, match="accuracy falls"):
        export.make_bundle(
            checkpoint, copy, formats=["onnx-int8"], data=data, accuracy_points=-100
        )
    export.verify_bundle(copy)
    assert list(tmp_path.iterdir()) == [copy]
    export.make_bundle(checkpoint, copy, formats=["native"], seconds=0)
    assert list(export.verify_bundle(copy)) == ["native"]
    assert list(tmp_path.iterdir()) == [copy]


KILLED = """
import os, signal, sys
from pathlib import Path
from export import bundle
def killed(folder, target):
    target.replace(folder.parent / "old")
    os.kill(os.getpid(), signal.SIGKILL)
bundle._replace = killed
bundle.make_bundle(sys.argv[1], sys.argv[2], formats=["native"], seconds=0)
"""


def test_what_a_killed_command_left_goes_with_the_next_that_succeeds(
    checkpoint_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "b"
    made = partial(export.make_bundle, checkpoint_file, formats=["native"], seconds=0)
    made(out)
    line = [sys.executable, "-c", KILLED, str(checkpoint_file), str(out)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(line, env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = out.parent.iterdir()
    assert sorted(one.name for one in left.iterdir()) == ["bundle", "old"]
    made(out.with_name("other"))  # has its own
    with scratch_beside(out) as held:  # of a command that is at work
        made(out)
        assert sorted(out.parent.iterdir()) == sorted([held, out, out.parent / "other"])
    assert list(export.verify_bundle(out)) == ["native"]


def test_bench_measures_each_model_in_its_own_process(bundle: Path) -> None:
    timings = export.bench(bundle, seconds=0.05)
    assert timings[0].name == "dense onnxruntime"
    assert {t.name for t in timings[1:]} == set(FORMATS)
    for timing in timings:
        assert timing.runs >= 10
        assert timing.p50_ms <= timing.p90_ms
    memory = {t.name: t.peak_rss_mib for t in timings}
    assert memory["native"] < memory["dense onnxruntime"]


def test_the_command_line_bundles_verifies_and_measures(
    checkpoint_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from export import cli

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["flash-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert not caught.value.code
        return capsys.readouterr().out

    out = tmp_path / "b"
    assert "native" in call("bundle", checkpoint_file, "--out", out)
    assert "golden outputs match" in call("verify", out)
    assert "dense onnxruntime" in call("bench", out, "--seconds", "0.02")
    values = json.loads(call("bench", out, "--seconds", "0.02", "--json"))
    assert len(values["timings"]) == 3
    assert NativeModel(out / "model.native.flsp").metadata["task"] == "tiny"


def test_a_folder_that_cannot_be_written_is_named(
    digits: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "bundle"
    with pytest.raises(ExportError, match="file/bundle could not be written"):
        export.make_bundle(digits[0], out, formats=("native",), seconds=0)
