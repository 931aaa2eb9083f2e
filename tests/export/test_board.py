"""On the board: a bundle is checked, believed, run, switched to and taken back."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from patience import patience, waited

import export
from edge_sdk.checkpoint import Checkpoint, save_checkpoint
from edge_sdk.deploy.slots import look, roll_back, switch
from edge_sdk.errors import DataError, ExportError, IdentityError, StateError
from edge_sdk.infer import Bundle
from edge_sdk.infer.build import SOURCES
from edge_sdk.infer.library import runtime_library
from edge_sdk.infer.prepare import Preparation, read_examples
from edge_sdk.infer.run_key import make_run_key
from edge_sdk.infer.signature import read_key, read_public_key
from edge_sdk.kernels.build import find_compiler, this_machine
from export.recheck import verify_bundle

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)


def write_keys(folder: Path, name: str) -> tuple[Path, Path]:
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_keys(tmp_path_factory.mktemp("keys"), "run")


@pytest.fixture(scope="module")
def bundle(
    digits: tuple[Checkpoint, Path],
    keys: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    checkpoint, data = digits
    folder = tmp_path_factory.mktemp("signed") / "digits"
    export.make_bundle(
        checkpoint, folder, formats=("native",), data=data, seconds=0, key=keys[0]
    )
    return folder


def copy_of(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "copy"))


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_sdk.cli", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def exporter(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "export.cli", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


# ------------------------------------------------------------------------ running


def test_raw_examples_give_the_golden_outputs(bundle: Path) -> None:
    model = Bundle(bundle)
    raw = np.load(bundle / "golden" / "raw.npy")
    wanted = np.load(bundle / "golden" / "output.native.npy")
    np.testing.assert_allclose(model.predict(raw), wanted, rtol=1e-4, atol=1e-4)
    assert model.check() <= 1e-5


@pytest.mark.parametrize("kind", ["npy", "npz", "png", "prepared", "one"])
def test_the_command_reads_arrays_and_images(
    bundle: Path, tmp_path: Path, kind: str
) -> None:
    raw = np.load(bundle / "golden" / "raw.npy")
    labels = np.load(bundle / "golden" / "output.native.npy").argmax(1)
    given = tmp_path / f"given.{kind}"
    if kind == "npz":
        np.savez(given, inputs=raw, targets=labels)
    elif kind == "png":
        image = pytest.importorskip("PIL.Image")
        pixels = np.round(raw[0].reshape(8, 8).astype(np.float64))
        how = json.loads((bundle / "preprocess.json").read_text())
        if how["range"][1] != 255.0:
            pytest.skip("digits are not images of bytes")
        image.fromarray(pixels.astype(np.uint8)).save(given)
        labels = labels[:1]
    else:
        given = tmp_path / "given.npy"
        source = np.load(bundle / "golden" / "input.npy") if kind == "prepared" else raw
        np.save(given, source[0] if kind == "one" else source)
        labels = labels[:1] if kind == "one" else labels
    done = command("infer", bundle, "--input", given)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [int(row[0]) for row in rows] == labels.tolist()
    done = command("infer", bundle, "--input", given, "--json")
    outputs = np.array([json.loads(line) for line in done.stdout.splitlines()])
    assert outputs.argmax(1).tolist() == labels.tolist()


@pytest.mark.parametrize(("kind", "standard"), [("c", "c99"), ("c++", "c++11")])
def test_the_program_in_a_bundles_readme_runs_as_c_and_as_cpp(
    bundle: Path, tmp_path: Path, kind: str, standard: str
) -> None:
    text = (bundle / "README.md").read_text()
    (source,) = re.findall(r"^```c\n(.*?)^```$", text, re.M | re.S)
    assert len(source.splitlines()) <= 20
    (tmp_path / "run.c").write_text(source)
    library = Path(runtime_library()._name).parent
    compiler = find_compiler(this_machine())
    assert compiler is not None
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-std={standard}"]
    link = ["-L", library, "-lflsp", f"-Wl,-rpath,{library}", "-o", tmp_path / "run"]
    call = [compiler, "-x", kind, *flags, "-I", SOURCES, tmp_path / "run.c", *link]
    subprocess.run(call, check=True)
    done = subprocess.run(
        [tmp_path / "run"], cwd=bundle, capture_output=True, text=True, check=True
    )
    wanted = np.load(bundle / "golden" / "output.native.npy")[0]
    outputs = np.array(done.stdout.split(), np.float32)
    np.testing.assert_allclose(outputs, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"nonsense"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png", ".txt"])
def test_a_damaged_input_is_an_error_of_two_lines(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"input{suffix}"
    path.write_bytes(content)
    shape = Preparation("affine", (1, 8, 8), (8, 8), "HW", 255.0)
    with pytest.raises(DataError, match="input"):
        read_examples(path, shape)


def test_examples_of_another_shape_or_custom_preparation_are_refused(
    bundle: Path,
) -> None:
    model = Bundle(bundle)
    with pytest.raises(DataError, match=r"\(9, 9\)"):
        model.predict(np.zeros((1, 9, 9), np.uint8))
    custom = Preparation("custom", (1, 8, 8))
    with pytest.raises(DataError, match="custom"):
        custom(np.zeros((1, 8, 8), np.uint8))


@pytest.mark.parametrize("layout", ["CHW", "HWC", "HW"])
def test_an_image_is_resized_and_laid_out(tmp_path: Path, layout: str) -> None:
    image = pytest.importorskip("PIL.Image")
    channels = 1 if layout == "HW" else 3
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 6, 3), np.uint8)
    image.fromarray(pixels).save(tmp_path / "x.png")
    raw = {"CHW": (3, 8, 6), "HWC": (8, 6, 3), "HW": (8, 6)}[layout]
    one = np.ones(channels, np.float32)
    how = Preparation("affine", (channels, 8, 6), raw, layout, 255.0, 0 * one, one)
    prepared = how(read_examples(tmp_path / "x.png", how))
    assert prepared.shape == (1, channels, 8, 6)
    if channels == 3:
        wanted = np.moveaxis(pixels, -1, 0)[None] / np.float32(255)
        np.testing.assert_allclose(prepared, wanted, atol=1e-6)


# ------------------------------------------------------------------------ believing


def test_a_signed_bundle_is_believed_by_its_key_and_no_other(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    trusted = read_public_key(keys[1])
    assert read_public_key(keys[0]) == trusted
    assert Bundle(bundle, trusted=trusted).signer == trusted
    _, stranger = write_keys(tmp_path, "stranger")
    with pytest.raises(ExportError, match=r"is signed by .*, not by"):
        Bundle(bundle, trusted=read_public_key(stranger))
    done = subprocess.run(
        [sys.executable, "-m", "export.cli", "verify", bundle, "--key", keys[1]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"signed by {trusted.hex()} (the key you named)")


def test_an_unsigned_bundle_is_called_so_and_refused_where_a_key_is_asked(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    copy = copy_of(bundle, tmp_path)
    (copy / "manifest.sig").unlink()
    assert Bundle(copy).signer is None
    with pytest.raises(ExportError, match="is not signed"):
        Bundle(copy, trusted=read_public_key(keys[1]))
    done = subprocess.run(
        [sys.executable, "-m", "export.cli", "verify", copy],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("unsigned: ")


def test_a_manifest_changed_after_signing_is_found(
    bundle: Path, tmp_path: Path
) -> None:
    copy = copy_of(bundle, tmp_path)
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"round": 3', b'"round": 4'))
    with pytest.raises(ExportError, match="does not belong to this manifest"):
        Bundle(copy)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"key": "zz", "signature": ""}', '{"key": 1}']
)
def test_a_damaged_signature_is_refused(
    bundle: Path, tmp_path: Path, content: str
) -> None:
    copy = copy_of(bundle, tmp_path)
    (copy / "manifest.sig").write_text(content)
    with pytest.raises(ExportError, match=r"manifest\.sig is damaged"):
        Bundle(copy)


def test_a_file_without_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    for read in (read_key, read_public_key):
        with pytest.raises(IdentityError, match=r"key\.pem holds no"):
            read(path)
    path.write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n")
    with pytest.raises(IdentityError, match=r"key\.pem holds no"):
        read_public_key(path)


# ------------------------------------------------------------------ the run's own key


def run_of(checkpoint: Checkpoint, folder: Path) -> Path:
    """A run's folder as a coordinator leaves it, with one model to export."""
    make_run_key(folder)
    (folder / "run.toml").write_text('federation = "home"\n')
    (folder / "models").mkdir()
    path = folder / "models" / "density-0.2.safetensors"
    save_checkpoint(path, checkpoint)
    return path


def test_a_checkpoint_in_a_runs_folder_is_signed_with_the_runs_key(
    digits: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    path = run_of(digits[0], tmp_path / "run")
    out, public = tmp_path / "bundle", tmp_path / "run" / "models.pub.pem"
    done = exporter("bundle", path, "--out", out, "--format", "native")
    assert done.returncode == 0, done.stderr
    assert "signed with the key of run home" in done.stdout
    done = exporter("verify", out, "--key", public)
    assert done.returncode == 0, done.stderr
    signed = f"signed by {read_public_key(public).hex()} (the key you named)"
    assert done.stdout.startswith(f"{signed}, says it is of run home")
    make_run_key(tmp_path / "run")  # the coordinator starts again: the same key
    assert verify_bundle(out, trusted=read_public_key(public))


def test_a_checkpoint_elsewhere_is_not_signed_unasked(
    digits: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    make_run_key(tmp_path)  # three folders up: of somebody else
    path = tmp_path / "a" / "b" / "c.safetensors"
    save_checkpoint(path, digits[0])
    manifest = export.make_bundle(path, tmp_path / "o", formats=("native",), seconds=0)
    assert "run" not in manifest
    assert Bundle(tmp_path / "o").signer is None


def test_the_runs_key_is_for_its_owners_eyes_only(tmp_path: Path) -> None:
    make_run_key(tmp_path)
    assert (tmp_path / "models.key.pem").stat().st_mode & 0o777 == 0o600
    (tmp_path / "models.key.pem").write_text("-----BEGIN PRIVATE KEY-----\nx\n")
    with pytest.raises(IdentityError, match=r"models\.key\.pem holds no"):
        make_run_key(tmp_path)


# ------------------------------------------------------------------------ switching


def test_two_slots_take_turns_and_the_last_one_comes_back(
    bundle: Path, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    assert look(root).live is None
    assert [switch(root, bundle) for _ in range(3)] == ["a", "b", "a"]
    assert look(root).tasks == {"a": "digits, round 3", "b": "digits, round 3"}
    assert Bundle(root / "current").check() <= 1e-5
    assert roll_back(root) == "b"
    assert look(root).live == "b"
    assert sorted(p.name for p in root.iterdir()) == ["a", "b", "current"]


@pytest.mark.parametrize("damage", ["file", "golden", "truncated"])
def test_a_bundle_that_fails_here_changes_nothing(
    bundle: Path, tmp_path: Path, damage: str
) -> None:
    root, bad = tmp_path / "models", copy_of(bundle, tmp_path)
    switch(root, bundle)
    before = (root / "current" / "manifest.json").read_bytes()
    if damage == "golden":  # files and digests agree, but the outputs are others
        (bad / "manifest.sig").unlink()
        wrong = np.load(bad / "golden" / "output.native.npy") + 1
        np.save(bad / "golden" / "output.native.npy", wrong)
        manifest = json.loads((bad / "manifest.json").read_text())
        from edge_sdk.infer.bundle import digests

        manifest["files"] = digests(bad)
        (bad / "manifest.json").write_text(json.dumps(manifest))
    else:
        model = bad / "model.native.flsp"
        content = model.read_bytes()
        model.write_bytes(content[:-1] if damage == "truncated" else content[::-1])
    with pytest.raises(ExportError):
        switch(root, bad)
    assert look(root).live == "a"
    assert (root / "current" / "manifest.json").read_bytes() == before
    assert sorted(p.name for p in root.iterdir()) == ["a", "current"]


def test_a_failing_health_command_takes_the_switch_back(
    bundle: Path, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    seen = tmp_path / "seen"
    note = f"readlink {root}/current >> {seen}"
    switch(root, bundle, health=("sh", "-c", note))
    with pytest.raises(ExportError, match="code 3: no camera"):
        switch(root, bundle, health=("sh", "-c", f"{note}; echo no camera >&2; exit 3"))
    assert seen.read_text().split() == ["a", "b"]  # live while the command ran
    assert look(root).live == "a"
    with pytest.raises(ExportError, match="code 127: it cannot be started"):
        switch(tmp_path / "fresh", bundle, health=("/no/such/tool",))
    assert look(tmp_path / "fresh").live is None


def test_an_app_that_opens_current_all_the_while_always_finds_a_whole_bundle(
    bundle: Path, tmp_path: Path
) -> None:
    root, reads = tmp_path / "models", tmp_path / "reads"
    reads.touch()
    switch(root, bundle)
    code = (
        "import pathlib, sys\n"
        "path = pathlib.Path(sys.argv[1]) / 'current' / 'manifest.json'\n"
        "reads = open(sys.argv[2], 'ab', buffering=0)\n"
        "while not (path.parents[1] / 'stop').exists():\n"
        "    assert path.read_bytes().endswith(b'}\\n'); reads.write(b'.')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, root, reads]) as app:

        def reads_on() -> None:
            seen = reads.stat().st_size
            assert waited(lambda: reads.stat().st_size > seen, 30)

        reads_on()
        for _ in range(4):
            switch(root, bundle)
            reads_on()
        (root / "stop").touch()
        assert app.wait(patience(30)) == 0


def test_a_model_that_runs_outlives_the_files_of_its_slot(
    bundle: Path, tmp_path: Path
) -> None:
    """Weights are used in the mapped file: a slot's next bundle is another file."""
    root = tmp_path / "models"
    switch(root, bundle)
    app = Bundle(root / "current")
    given = np.load(bundle / "golden" / "input.npy")
    outputs = app.run(given)
    inode = (root / "a" / "model.native.flsp").stat().st_ino
    for slot in ("b", "a", "b"):
        assert switch(root, bundle) == slot
    assert (root / "a" / "model.native.flsp").stat().st_ino != inode
    np.testing.assert_array_equal(app.run(given), outputs)


def test_a_folder_that_holds_no_slots_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no earlier model"):
        roll_back(tmp_path / "none")
    (tmp_path / "current").mkdir()
    with pytest.raises(StateError, match="is not a link"):
        switch(tmp_path, bundle)
    (tmp_path / "current").rmdir()
    (tmp_path / "current").symlink_to("/etc")
    with pytest.raises(StateError, match="not a slot"):
        look(tmp_path)


def test_the_command_switches_and_says_what_is_live(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    root = tmp_path / "models"
    done = command("model", "switch", root, bundle, "--key", keys[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("current -> a")
    assert command("model", "status", root).stdout == "a: digits, round 3 (live)\n"
    done = command("model", "rollback", root)
    assert done.returncode != 0
    assert "no earlier model" in done.stderr
