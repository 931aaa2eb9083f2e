"""The zstd layer around files and in bundles: smaller, checked, and bounded."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from torch import nn
from torch.nn.utils import prune
from typer.testing import CliRunner

import export
from edge_sdk.errors import CheckpointError, DependencyError, EdgeError, ExportError
from edge_sdk.infer import Bundle, compressed
from edge_sdk.infer.compressed import read_plain
from edge_sdk.kernels.build import find_compiler, this_machine
from export.cli import app

INPUTS = np.random.default_rng(0).normal(size=(32, 200)).astype(np.float32)
HAVE_COMPILER = find_compiler(this_machine()) is not None
FORMATS = ("onnx-sparse", *["native"] * HAVE_COMPILER)


def a_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 4))
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", amount=0.9)
    return model


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory):
    """The same formats plain and with the layer."""
    options = {"formats": FORMATS, "calibration": INPUTS}
    plain = export.build(a_model(), tmp_path_factory.mktemp("plain"), **options)
    folder = tmp_path_factory.mktemp("layered")
    return plain, export.build(a_model(), folder, compress="zstd", **options)


def test_a_file_in_the_layer_is_smaller_and_holds_the_same_bytes(both) -> None:
    plain, layered = both
    for name in FORMATS:
        file = layered.files[name]
        assert file.name == plain.files[name].name + ".zst"
        assert read_plain(file) == plain.files[name].read_bytes()
        assert layered[name].file_bytes == file.stat().st_size
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert layered[name].sha256 == digest
        assert compressed.compressed(read_plain(file)) == file.read_bytes()
    assert layered.sizes["onnx-sparse"] < 0.95 * plain.sizes["onnx-sparse"]


def test_what_is_in_the_layer_runs_and_is_verified(both) -> None:
    plain, layered = both
    for name in FORMATS:
        file = layered.files[name]
        outputs = export.load(file)(INPUTS[:2])
        np.testing.assert_array_equal(
            outputs, export.load(plain.files[name])(INPUTS[:2])
        )
        if name != "ort":  # a second conversion, with the same way through verify
            report = export.verify(file, a_model(), calibration=INPUTS)
            assert report.file_bytes == file.stat().st_size
    other = a_model()
    with torch.no_grad():
        other[0].bias += 1
    with pytest.raises(EdgeError):
        export.verify(layered.files["onnx-sparse"], other, calibration=INPUTS)


@pytest.mark.parametrize("name", FORMATS)
def test_verify_unpacks_the_layer_once(
    both, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = []
    make = zstandard.ZstdDecompressor

    def counted(**options: int) -> zstandard.ZstdDecompressor:
        unpacked.append(options)
        return make(**options)

    monkeypatch.setattr(zstandard, "ZstdDecompressor", counted)
    export.verify(both[1].files[name], a_model(), calibration=INPUTS)
    assert len(unpacked) == 1


@pytest.mark.parametrize("installed", [True, False])
def test_any_flipped_bit_of_the_layer_is_found_also_without_its_library(
    both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, installed: bool
) -> None:
    whole = both[1].files["onnx-sparse"].read_bytes()
    file = tmp_path / "model.onnx.zst"
    head = 8 * 84
    random = np.random.default_rng(1)
    places = [*range(0, head, 7), *random.integers(head, 8 * len(whole), 100)]
    if not installed:
        monkeypatch.setattr(compressed, "find_spec", lambda _: None)
        places = [at for at in places if not 8 * 12 <= at < 8 * 52]  # size, its digest
    for at in places:
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.onnx\.zst: its zstd layer"):
            export.load(file)
    for end in (0, 40, 84, len(whole) - 1):
        file.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="layer is damaged"):
            export.load(file)


def test_without_the_library_the_extra_is_named(
    both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "find_spec", lambda _: None)
    for name in FORMATS:
        with pytest.raises(
            DependencyError, match="zstandard is not installed"
        ) as found:
            export.load(both[1].files[name])
        assert "flash-edge[zstd]" in str(found.value.help)
    with pytest.raises(DependencyError, match="layer cannot be made"):
        export.build(a_model(), tmp_path / "x.onnx", input_shape=200, compress="zstd")
    with pytest.raises(DependencyError):
        export.make_bundle(a_model(), tmp_path / "b", input_shape=200, compress="zstd")
    assert not list(tmp_path.iterdir())


def layer(size: int, content: bytes, frame: bytes) -> bytes:
    """A layer whose digests fit what it holds."""
    digests = (hashlib.sha256(part).digest() for part in (content, frame))
    head = compressed._HEAD.pack(0x184D2A5E, 76, b"FEZ1", size, *digests)
    return head + frame


def test_a_frame_that_unpacks_to_more_than_is_stated_is_refused(tmp_path: Path) -> None:
    zeros = bytes(32 << 20)
    known = zstandard.ZstdCompressor().compress(zeros)
    stream = zstandard.ZstdCompressor().compressobj()
    unknown = stream.compress(zeros) + stream.flush()
    assert len(unknown) < 10_000
    file = tmp_path / "model.flsp.zst"
    for size, frame, reason in (
        (1000, known, "is not one of 1,000 bytes"),
        (1000, unknown, "is not one of 1,000 bytes"),
        (1 << 40, known, "1,099,511,627,776 bytes"),
        (len(zeros) + 1, known, "is not one of"),
        (1000, b"no frame", "no zstd"),
    ):
        file.write_bytes(layer(size, zeros, frame))
        with pytest.raises(CheckpointError, match=reason):
            read_plain(file)
    file.write_bytes(layer(len(zeros), zeros, known))
    assert read_plain(file) == zeros


def test_other_words_for_compress_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no compression 'gzip'"):
        export.build(a_model(), tmp_path / "x", input_shape=200, compress="gzip")


@pytest.mark.skipif(not HAVE_COMPILER, reason="no C++ compiler is installed")
def test_a_bundle_with_the_layer_is_verified_and_runs(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    manifest = export.make_bundle(
        a_model(), folder, input_shape=200, compress="zstd", seconds=0.01
    )
    names = [entry["file"] for entry in manifest["models"].values()]
    assert all(name.endswith(".zst") for name in names)
    assert set(export.verify_bundle(folder)) == set(manifest["models"])
    assert Bundle(folder).check() <= 1e-5
    readme = (folder / "README.md").read_text()
    assert f"zstd -d {' '.join(names)}" in readme
    assert '.onnx"' in readme
    if shutil.which("zstd"):
        subprocess.run(["zstd", "-dq", *names], cwd=folder, check=True)
        for name in names:
            plain = (folder / name).with_suffix("")
            assert plain.read_bytes() == read_plain(folder / name)


def test_the_command_writes_and_verifies_the_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    module = ["--module", "test_compressed:a_model", "--input-shape", "200"]
    made = CliRunner().invoke(app, ["build", *module, "--compress", "zstd"])
    assert made.exit_code == 0, made.output
    file = tmp_path / "a_model.onnx-sparse.onnx.zst"
    assert file.exists()
    checked = CliRunner().invoke(app, ["verify", str(file), *module])
    assert checked.exit_code == 0, checked.output
    assert f"{file.stat().st_size:,} bytes" in checked.output
