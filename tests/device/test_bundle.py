from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_sdk.cli import app
from edge_sdk.device import offline_wheels
from edge_sdk.device.offline_wheels import MANIFEST, make_bundle, verify_bundle
from edge_sdk.errors import DependencyError, ExportError


def wheel(folder: Path, name: str, content: bytes = b"x = 1\n") -> Path:
    """A small, honest wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    package, version = name.split("-")[:2]
    info = f"{package}-{version}.dist-info"
    tag = "-".join(name.removesuffix(".whl").split("-")[2:])
    files = {
        f"{package}.py": content,
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        ).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n".encode(),
    }
    rows = [f"{file},sha256={digest(data)},{len(data)}" for file, data in files.items()]
    rows.append(f"{info}/RECORD,,")
    files[f"{info}/RECORD"] = ("\n".join(rows) + "\n").encode()
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in files.items():
            archive.writestr(file, data)
    return path


def digest(data: bytes) -> str:
    sha = hashlib.sha256(data).digest()
    return base64.urlsafe_b64encode(sha).rstrip(b"=").decode()


def bundle(folder: Path, *names: str) -> Path:
    for name in names:
        wheel(folder / "wheels", name)
    seal(folder)
    return folder


def seal(folder: Path, python: str = "3.11") -> None:
    wheels = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "wheels").glob("*")
    }
    manifest = {"format": 1, "platform": "aarch64", "python": python, "wheels": wheels}
    (folder / MANIFEST).write_text(json.dumps(manifest))


GOOD = (
    "plain-1.0-py3-none-any.whl",
    "native-1.0-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
    "stable-1.0-cp36-abi3-manylinux2014_aarch64.whl",
    "older-1.0-py2.py3-none-any.whl",
)


def test_a_whole_bundle_is_accepted(tmp_path: Path) -> None:
    found = verify_bundle(bundle(tmp_path, *GOOD))
    assert set(found.wheels) == set(GOOD)
    assert found.size > 0
    assert (found.platform, found.python) == ("aarch64", "3.11")


@pytest.mark.parametrize(
    "name",
    [
        "native-1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
        "native-1.0-cp313-cp313-manylinux_2_17_aarch64.whl",
        "stable-1.0-cp312-abi3-manylinux2014_aarch64.whl",
        "native-1.0-cp311-cp311-win_amd64.whl",
        "source-1.0.tar.gz",
    ],
)
def test_what_would_not_install_there_is_refused(tmp_path: Path, name: str) -> None:
    bundle(tmp_path, GOOD[0])
    wheel(tmp_path / "wheels", f"{name.removesuffix('.tar.gz')}-a-b.whl").rename(
        tmp_path / "wheels" / name
    )
    seal(tmp_path)
    with pytest.raises(ExportError, match=name.split("-", maxsplit=1)[0]):
        verify_bundle(tmp_path)


def test_a_flipped_byte_a_lost_and_an_extra_file_are_found(tmp_path: Path) -> None:
    bundle(tmp_path, *GOOD)
    victim = tmp_path / "wheels" / GOOD[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    with pytest.raises(ExportError, match="damaged"):
        verify_bundle(tmp_path)
    victim.unlink()
    with pytest.raises(ExportError, match="missing or unknown"):
        verify_bundle(tmp_path)
    victim.write_bytes(whole)
    (tmp_path / "wheels" / "odd.txt").write_text("?")
    with pytest.raises(ExportError, match=r"missing or unknown: odd\.txt"):
        verify_bundle(tmp_path)


def test_a_wheel_that_does_not_keep_its_own_record_is_found(tmp_path: Path) -> None:
    path = wheel(tmp_path / "wheels", GOOD[0])
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["plain.py"] = b"import os\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    seal(tmp_path)
    with pytest.raises(ExportError, match=r"plain\.py is not what its record says"):
        verify_bundle(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"wheels": 3}', '{"platform": "x"}'])
def test_a_folder_that_is_no_bundle_says_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(ExportError, match="holds no bundle"):
        verify_bundle(tmp_path)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ExportError, match="holds no bundle"):
        verify_bundle(tmp_path)


def test_bad_wishes_are_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not a version"):
        make_bundle(tmp_path, python="3")
    wheel(tmp_path / "wheels", GOOD[0])
    with pytest.raises(ExportError, match="holds wheels already"):
        make_bundle(tmp_path)


def test_without_uv_the_remedy_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError) as caught:
        make_bundle(tmp_path / "out", package="numpy")
    assert "pip install uv" in caught.value.help


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("uv") is None or os.environ.get("FLASH_EDGE_NETWORK") != "1",
    reason="needs uv and a package index (FLASH_EDGE_NETWORK=1)",
)
@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_a_real_bundle_for_a_raspberry_pi(tmp_path: Path, python: str) -> None:
    found = make_bundle(tmp_path, python=python, package="numpy")
    assert any(name.startswith("numpy") and "aarch64" in name for name in found.wheels)
    script = (tmp_path / "install.sh").read_text()
    assert "--no-index" in script
    subprocess.run(["sh", "-n", str(tmp_path / "install.sh")], check=True)


@pytest.mark.parametrize(
    ("more", "package"), [((), "flash-edge[device]"), (("--no-torch",), "flash-edge")]
)
def test_a_bundle_is_for_a_board_with_torch_or_without(
    more: tuple[str, ...], package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def resolve(wanted: str, platform: str, python: str) -> list[str]:
        asked.append(wanted)
        raise ExportError("asked, and that is all")

    monkeypatch.setattr(offline_wheels, "_resolve", resolve)
    CliRunner().invoke(app, ["bundle", str(tmp_path / "b"), *more])
    assert asked == [package]
