"""A folder of wheels that installs a device without the internet, and its check."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from edge_sdk.checkpoint import replace_file
from edge_sdk.checksums import file_digest
from edge_sdk.child_process import beside, child_module, output_of
from edge_sdk.errors import DependencyError, ExportError

__all__ = ["OfflineWheels", "Platform", "make_bundle", "verify_bundle"]

Platform: TypeAlias = Literal["aarch64", "x86_64"]

# Raspberry Pi OS bookworm has glibc 2.36, JetPack 6 has 2.35: 2.28 wheels run on both.
GLIBC = 28
MANIFEST = "manifest.json"
INSTALL = "install.sh"
SECONDS = 1800


@dataclass(frozen=True, slots=True)
class OfflineWheels:
    """Content of a bundle of wheels.

    Attributes:
        folder: Where it is.
        platform: The processor it installs on.
        python: The Python it installs into, such as ``3.11``.
        wheels: File name -> SHA-256 in hex.
        size: Bytes of all wheels.
    """

    folder: Path
    platform: str
    python: str
    wheels: dict[str, str]
    size: int


def make_bundle(
    folder: Path,
    *,
    platform: Platform = "aarch64",
    python: str = "3.11",
    package: str = "flash-edge[device]",
    own_wheel: Path | None = None,
) -> OfflineWheels:
    """Collects every wheel that a device needs, for its processor and Python.

    The set is resolved by uv, which reads requirements for the device's processor;
    pip would read them for this machine's, and take another torch. pip then only
    downloads what was resolved.

    Args:
        folder: Where to put it; made if missing, and it must not hold wheels yet.
        platform: The device's processor.
        python: The device's Python.
        package: What to install there, extras included.
        own_wheel: flash-edge's own wheel, where it is not on an index.

    Raises:
        DependencyError: uv is not installed.
        ExportError: The set cannot be resolved, downloaded or verified.
    """
    if not re.fullmatch(r"3\.\d{1,2}", python):
        raise ExportError(f"Python {python!r} is not a version such as 3.11")
    wheels = folder / "wheels"
    if wheels.exists() and any(wheels.iterdir()):
        raise ExportError(
            f"{wheels} holds wheels already", remedy="Name an empty folder."
        )
    wheels.mkdir(parents=True, exist_ok=True)
    wanted = package
    if own_wheel is not None:
        shutil.copy2(own_wheel, wheels / own_wheel.name)
        extras = package[package.index("[") :] if "[" in package else ""
        wanted = f"flash-edge{extras} @ {own_wheel.resolve().as_uri()}"
    pins = _resolve(wanted, platform, python)
    _download(pins, wheels, platform, python)
    script = _install_script(package.partition("[")[0], package, python)
    replace_file(folder / INSTALL, script.encode())
    (folder / INSTALL).chmod(0o755)
    _write_manifest(folder, platform, python)
    return verify_bundle(folder)


def verify_bundle(folder: Path) -> OfflineWheels:
    """Reads a bundle back: every file is there, whole, and fits the device.

    Each wheel's bytes have the manifest's SHA-256, its own record agrees with what it
    holds, and its tags fit processor and Python.

    Raises:
        ExportError: Names the first wheel at fault.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        platform, python = str(manifest["platform"]), str(manifest["python"])
        named = {str(name): str(sha) for name, sha in manifest["wheels"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ExportError(f"{folder} holds no bundle: {error}") from error
    found = {path.name for path in (folder / "wheels").glob("*")}
    if found != set(named):
        odd = sorted(found ^ set(named))
        raise ExportError(f"{folder}: missing or unknown: {', '.join(odd[:4])}")
    size = 0
    for name, sha in named.items():
        path = folder / "wheels" / name
        if file_digest(path) != sha:
            raise ExportError(f"{name} is damaged: its SHA-256 is not the manifest's")
        _check_tags(name, platform, python)
        _check_record(path)
        size += path.stat().st_size
    return OfflineWheels(folder, platform, python, named, size)


def _resolve(wanted: str, platform: Platform, python: str) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        source, result = Path(scratch, "wanted.in"), Path(scratch, "pins.txt")
        source.write_text(f"{wanted}\n", encoding="utf-8")
        _run(
            [
                *(_uv(), "pip", "compile", "--quiet", "--no-header"),
                *("--no-annotate", "--only-binary", ":all:"),
                *("--python-platform", f"{platform}-manylinux_2_{GLIBC}"),
                *("--python-version", python, "-o", str(result), str(source)),
            ],
            "resolve the wheels",
        )
        lines = result.read_text(encoding="utf-8").splitlines()
    pins = [line.strip() for line in lines if line.strip()]
    return [pin for pin in pins if "==" in pin]


def _download(
    pins: Sequence[str], wheels: Path, platform: Platform, python: str
) -> None:
    # manylinux_2_17 and its old name are what most wheels carry; pip takes no ranges.
    tags = [f"manylinux_2_{minor}_{platform}" for minor in range(17, GLIBC + 1)]
    tags += [f"manylinux2014_{platform}", f"linux_{platform}"]
    command = child_module("pip", "download", "--quiet", "--no-deps")
    command += ["--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", python, "--dest", str(wheels)]
    for tag in tags:
        command += ["--platform", tag]
    _run([*command, *(pin.partition(" ;")[0] for pin in pins)], "download the wheels")


def _write_manifest(folder: Path, platform: str, python: str) -> None:
    named = {
        path.name: file_digest(path)
        for path in sorted((folder / "wheels").glob("*.whl"))
    }
    text = json.dumps(
        {"format": 1, "platform": platform, "python": python, "wheels": named}, indent=1
    )
    replace_file(folder / MANIFEST, (text + "\n").encode())


def _install_script(name: str, package: str, python: str) -> str:
    return f"""#!/bin/sh
# Installs {name} from this folder alone, into a virtual environment of its own.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${{1:-$HOME/flash-edge}}
python{python} -c 'import sys; sys.exit(sys.maxsize < 2**32)' || {{
  echo "error: this is a 32-bit system" >&2
  echo "help: install the 64-bit edition of the system" >&2
  exit 3
}}
python{python} -m venv "$target"
"$target/bin/pip" install --no-index --find-links "$here/wheels" '{package}'
echo "next: $target/bin/flash-edge doctor"
"""


def _check_tags(name: str, platform: str, python: str) -> None:
    if not name.endswith(".whl"):
        raise ExportError(f"{name} is not a wheel: a device has no compiler")
    versions, abis, platforms = name.removesuffix(".whl").split("-")[-3:]
    own = "cp" + python.replace(".", "")
    minor = int(python.split(".")[1])
    fits = any(
        tag in {own, "py3", f"py3{minor}"}
        or (abis == "abi3" and tag.startswith("cp3") and int(tag[3:] or 0) <= minor)
        for tag in versions.split(".")
    )
    runs = any(
        tag == "any" or tag.endswith(f"_{platform}") for tag in platforms.split(".")
    )
    if not fits or not runs:
        raise ExportError(f"{name} is not for {platform} with Python {python}")


def _check_record(path: Path) -> None:
    """Every file in a wheel has the digest that the wheel's own record gives it."""
    try:
        with zipfile.ZipFile(path) as wheel:
            names = set(wheel.namelist())
            records = [n for n in names if n.endswith(".dist-info/RECORD")]
            if len(records) != 1:
                raise ExportError(f"{path.name} has no record of what it holds")
            rows = csv.reader(io.StringIO(wheel.read(records[0]).decode()))
            for row in rows:
                if row and row[1]:
                    _check_entry(wheel, path.name, row[0], row[1])
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise ExportError(f"{path.name} is damaged: {error}") from error


def _check_entry(wheel: zipfile.ZipFile, name: str, entry: str, digest: str) -> None:
    kind, _, text = digest.partition("=")
    if kind != "sha256":
        return  # no other is in use; pip would refuse it itself
    have = hashlib.sha256()
    with wheel.open(entry) as file:
        while block := file.read(1 << 20):
            have.update(block)
    if base64.urlsafe_b64encode(have.digest()).rstrip(b"=").decode() != text:
        raise ExportError(f"{name} is damaged: {entry} is not what its record says")


def _uv() -> str:
    installed = beside("uv")
    found = str(installed) if installed.exists() else shutil.which("uv")
    if found is None:
        raise DependencyError(
            "uv is not installed: it finds the wheels of another processor",
            remedy="pip install uv",
        )
    return found


def _run(command: Sequence[str], what: str) -> None:
    try:
        done = output_of(command, timeout_s=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"could not {what} within {SECONDS} s") from error
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-3:]
        raise ExportError(
            f"could not {what}: {' '.join(last)}",
            remedy="Check the network, and that wheels exist for this Python.",
        )
