"""What a built wheel holds: everything that runs, and nothing of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_sdk.kernels.build import find_compiler, this_machine

ROOT = Path(__file__).parents[1]
PACKAGES = ("coordinator", "device_profiles", "edge_sdk", "export")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged: what is compiled does not land in the tree."""
    folder = tmp_path_factory.mktemp("source") / "flash-edge-of-somebody"
    unwanted = shutil.ignore_patterns("lib", "__pycache__")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    (folder / "tests").mkdir()
    (folder / "tests" / "test_stray.py").touch()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


# A compiler in a hurry: the last -O counts, and of a kernel the object of the first
# instruction set serves for all; the names and paths in it are the same.
QUICK = """\
#!/bin/sh
for word; do
  case $word in */kernels/src/*.cpp) source=$word ;; esac
done
[ "$source" ] || exec {real} "$@" -O0
made={kept}/$(basename "$source").o
[ -e "$made" ] || {real} "$@" -O0 -o "$made" || exit
cp "$made" "$word"  # the last word is the object
"""


@pytest.fixture(scope="module")
def wheel(source: Path) -> zipfile.ZipFile:
    real = find_compiler(this_machine())
    assert real is not None
    quick, kept = source.parent / "g++-in-a-hurry", source.parent / "objects"
    quick.write_text(QUICK.format(real=real, kept=kept))
    quick.chmod(0o755)
    kept.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out"],
        cwd=source,
        env={**os.environ, "FLASH_EDGE_REQUIRE_KERNELS": "1", "CXX": str(quick)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "out").glob("*.whl")
    return zipfile.ZipFile(path)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
    ),
]


def test_a_wheel_carries_the_runtime_its_header_and_the_kernels(
    wheel: zipfile.ZipFile,
) -> None:
    names = wheel.namelist()
    (runtime,) = [n for n in names if n.endswith("/libflsp.so")]
    assert runtime.startswith(f"export/native/lib/{this_machine()}-")
    assert "export/native/src/flsp.h" in names
    kernels = [n for n in names if n.startswith("edge_sdk/kernels/lib/")]
    assert kernels
    assert all(this_machine() in n for n in kernels)
    if this_machine() == "x86_64":  # of three, a machine uses one
        libraries = sorted(Path(n).name.partition("_edge_")[2] for n in kernels)
        assert libraries == ["sse41.so.xz", "v3.so", "v4.so.xz"]
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert any(n.startswith("device_profiles/boards/") for n in names)
    static = "coordinator/views/page/static"
    for name in ("page.css", "vendor/uPlot.iife.min.js", "vendor/uPlot.LICENSE"):
        assert f"{static}/{name}" in names


def test_a_wheel_holds_packages_and_no_tests_or_leftovers(
    wheel: zipfile.ZipFile,
) -> None:
    names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    (about,) = [top for top in tops if top.endswith(".dist-info")]
    assert tops == {*PACKAGES, about}
    wrong = ("test_", "conftest", "__pycache__", ".o", ".tmp", ".pyc")
    assert [n for n in names if Path(n).name.startswith(wrong[:2])] == []
    assert [n for n in names if n.endswith(wrong[3:]) or wrong[2] in n] == []
    packed = [n for n in names if n.startswith(PACKAGES)]
    tracked = {p for name in PACKAGES for p in (ROOT / name).rglob("*") if p.is_file()}
    known = {str(p.relative_to(ROOT)) for p in tracked}
    assert [n for n in packed if n not in known and "/lib/" not in n] == []


def test_no_file_of_a_wheel_names_the_machine_that_built_it(
    wheel: zipfile.ZipFile, source: Path
) -> None:
    told = [str(source).encode(), str(source.parent).encode(), str(ROOT).encode()]
    home = Path.home()
    if len(home.parts) > 2:  # /root stands in paths of its own right
        told.append(str(home).encode())
    for name in wheel.namelist():
        content = wheel.read(name)
        assert [t for t in told if t in content] == [], name


def test_a_wheel_runs_what_it_carries_without_a_compiler(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import edge_sdk.infer.library as library\n"
        "from edge_sdk.infer.build import LIBRARY, package_folder\n"
        "print(package_folder() / LIBRARY, (package_folder() / LIBRARY).exists())\n"
        "print(library.runtime_library()._name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wanted, loaded = done.stdout.splitlines()
    assert wanted == f"{loaded} True"
    assert loaded.startswith(str(tmp_path))
