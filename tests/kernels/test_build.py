"""Finding, building and loading the kernel library."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patience import patience

from edge_sdk.errors import EngineError
from edge_sdk.infer import library as runtime
from edge_sdk.kernels import build as building
from edge_sdk.kernels import library
from edge_sdk.kernels.damage import damage
from edge_sdk.kernels.packed import shipped


def test_some_library_is_available_here() -> None:
    assert library.kernels().isa in {"v4", "v3", "sse41", "neon"}
    assert library.available() == library.kernels().isa
    assert library.unavailable_reason() == ""


def test_the_environment_chooses_the_isa(monkeypatch: pytest.MonkeyPatch) -> None:
    name = building.targets_for(building.this_machine())[-1].name
    monkeypatch.setenv("FLASH_EDGE_ISA", name)
    library.kernels.cache_clear()
    try:
        assert library.kernels().isa == name
        assert library.kernels().vector_bytes == 16
        monkeypatch.setenv("FLASH_EDGE_ISA", "altivec")
        library.kernels.cache_clear()
        with pytest.raises(EngineError, match="altivec"):
            library.kernels()
    finally:
        library.kernels.cache_clear()


def test_a_machine_without_a_build_is_named() -> None:
    with pytest.raises(building.BuildError, match="riscv64"):
        building.targets_for("riscv64")


def test_no_compiler_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    targets = building.targets_for(building.this_machine())
    with pytest.raises(building.BuildError, match="install g\\+\\+"):
        building.build(targets, tmp_path)
    assert not list(tmp_path.glob("*.so"))


def test_a_failing_compiler_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "false")
    targets = building.targets_for(building.this_machine())
    with pytest.raises(building.BuildError, match="failed"):
        building.build(targets, tmp_path)
    assert list(tmp_path.iterdir()) == []


def a_real_library(folder: Path) -> bytes:
    """This machine's library, with its checksum."""
    scratch = folder / "made.so"
    shutil.copyfile(library.kernels().path, scratch)
    content = scratch.read_bytes()
    if content[:-4].endswith(building.SEAL):
        scratch.write_bytes(content[: -4 - len(building.SEAL)])
    return building.place_library(scratch, folder / "whole.so").read_bytes()


@pytest.fixture
def packed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[Path, Path]]:
    """This machine's library as a wheel has it, and where it is unpacked to."""
    name = library.kernels().isa
    package, cache = tmp_path / "package", tmp_path / "cache"
    package.mkdir()
    own = package / "libflash_edge_v4.so"  # one of those that are packed
    own.write_bytes(a_real_library(tmp_path))
    made = shipped(own).rename(package / f"libflash_edge_{name}.so.xz")
    assert made.stat().st_size < 0.5 * own.stat().st_size
    own.unlink()
    monkeypatch.setattr(library, "package_folder", lambda: package)
    monkeypatch.setattr(library, "cache_folder", lambda: cache)
    library._load.cache_clear()
    yield made, cache / f"libflash_edge_{name}.so"
    library._load.cache_clear()


def test_a_packed_library_is_unpacked_once_where_it_is_used(
    packed: tuple[Path, Path], tmp_path: Path
) -> None:
    made, place = packed
    name = library.kernels().isa
    assert library._load_or_build(name, build_missing=False).path == place
    assert place.read_bytes() == a_real_library(tmp_path)
    made.unlink()
    library._load.cache_clear()
    assert library._load_or_build(name, build_missing=False).path == place


def test_a_packed_library_is_used_where_no_cache_can_be_written(
    packed: tuple[Path, Path],
) -> None:
    made, place = packed
    place.parent.write_text("no folder")
    name = library.kernels().isa
    found = library._load_or_build(name, build_missing=False)
    assert not found.path.exists()
    assert found.vector_bytes == library.kernels().vector_bytes
    made.write_bytes(made.read_bytes()[:-9])
    with pytest.raises(EngineError, match=r"\.so\.xz is damaged"):
        library._load_or_build(name, build_missing=False)


def no_seal(content: bytes) -> bytes:
    return content[: -4 - len(building.SEAL)]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"not a library",
    "cut": lambda b: b[: len(b) // 2],
    "cut at its end": lambda b: b[:-64],
    "cut within its header": lambda b: b[:40],
    "one bit": lambda b: b[:99999] + bytes([b[99999] ^ 1]) + b[100000:],
    "zeros at its end": lambda b: b[:-4096] + bytes(4096),
    "zeros at its start": lambda b: bytes(4096) + b[4096:],
    "all zeros": lambda b: bytes(len(b)),
    "another architecture": lambda b: no_seal(b[:18] + b"\x28\0" + b[20:]),
    "no checksum, and cut": lambda b: no_seal(b)[:-64],
    "no checksum, and zeros at its end": lambda b: no_seal(b)[:-4096] + bytes(4096),
}
LOADERS = ("kernels", "runtime")


@pytest.fixture(params=LOADERS)
def cached(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[Path, Callable[[], Path], list[Path]]]:
    """Where a cache holds a library, its way to a loaded one, and what was built.

    The compiler's part is to copy a library that was compiled before.
    """
    good, built = a_real_library(tmp_path), list[Path]()
    cache = tmp_path / "cache"
    cache.mkdir()

    def compiled(path: Path) -> Path:
        made = tmp_path / "new.so"
        made.write_bytes(no_seal(good))
        built.append(path)
        return building.place_library(made, path)

    monkeypatch.setenv("FLASH_EDGE_BUILD", "1")
    if request.param == "kernels":
        name = library.kernels().isa
        path = cache / f"libflash_edge_{name}.so"
        monkeypatch.setattr(library, "package_folder", lambda: tmp_path / "none")
        monkeypatch.setattr(library, "cache_folder", lambda: cache)
        monkeypatch.setattr(library, "_build_now", lambda _: compiled(path))
        monkeypatch.setattr(library, "find_compiler", lambda _: "g++")
        library._load.cache_clear()

        def load() -> Path:
            return library._load_or_build(name, build_missing=True).path
    else:
        path = cache / runtime.LIBRARY
        monkeypatch.setattr(runtime, "package_folder", lambda: tmp_path / "none")
        monkeypatch.setattr(runtime, "cache_folder", lambda: cache)
        monkeypatch.setattr(
            runtime, "build", lambda folder: compiled(folder / path.name)
        )
        load = runtime._path
    yield path, load, built
    library._load.cache_clear()


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_library_in_the_cache_is_built_anew(
    kind: str, cached: tuple[Path, Callable[[], Path], list[Path]], tmp_path: Path
) -> None:
    path, load, built = cached
    path.write_bytes(DAMAGES[kind](a_real_library(tmp_path)))
    assert load() == path
    assert built == [path]
    assert damage(path) == ""
    library._load.cache_clear()
    assert load() == path
    assert built == [path]


@pytest.mark.parametrize("kind", ["folder", "link to nowhere", "pipe"])
def test_what_is_no_file_in_the_cache_makes_room_for_a_library(
    kind: str, cached: tuple[Path, Callable[[], Path], list[Path]], tmp_path: Path
) -> None:
    path, load, built = cached
    if kind == "folder":
        (path / "inner").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "gone.so")
    assert load() == path
    assert built == [path]
    assert damage(path) == ""


def test_a_whole_library_without_a_checksum_is_taken(
    cached: tuple[Path, Callable[[], Path], list[Path]], tmp_path: Path
) -> None:
    """An older version built it, or a packager stripped it."""
    path, load, built = cached
    path.write_bytes(no_seal(a_real_library(tmp_path)))
    assert load() == path
    assert built == []


def test_a_library_of_another_version_is_built_anew(
    cached: tuple[Path, Callable[[], Path], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Its interface is asked: the checksum of a file under a wrong name is right."""
    path, load, built = cached
    if path.name == runtime.LIBRARY:
        pytest.skip("its functions are looked up when it is loaded")
    other = tmp_path / "other.so"
    source = tmp_path / "other.cpp"
    source.write_text('extern "C" int fe_abi() { return 1; }')
    compiler = building.find_compiler(building.this_machine())
    if compiler is None:
        pytest.skip("no compiler")
    building.run_compiler([compiler, "-shared", "-fPIC", str(source), "-o", str(other)])
    building.place_library(other, path)
    assert load() == path
    assert built == [path]


def test_a_library_that_another_process_made_meanwhile_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.so"
    path.write_bytes(b"damaged")
    lock = fcntl.flock

    def made_by_another(handle: int, how: int) -> None:
        new = tmp_path / "new.so"
        new.write_bytes(b"whole")
        building.place_library(new, path)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", made_by_another)
    found = building.made_once(path, lambda _: pytest.fail("it was made twice"))
    assert found.read_bytes().startswith(b"whole")


def test_while_a_library_is_made_others_wait(tmp_path: Path) -> None:
    path = tmp_path / "a.so"

    def make(scratch: Path) -> Path:
        other = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        (scratch / "a.so").write_bytes(b"whole")
        return building.place_library(scratch / "a.so", path)

    assert building.made_once(path, make) == path
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_compiler_the_damage_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = library.kernels().isa
    (tmp_path / f"libflash_edge_{name}.so").write_bytes(b"")
    monkeypatch.setattr(library, "package_folder", lambda: tmp_path / "none")
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path)
    with pytest.raises(EngineError, match=r"\.so is empty"):
        library._load_or_build(name, build_missing=False)


def test_the_build_file_needs_nothing_but_the_standard_library() -> None:
    """The packaging hook runs it before any dependency is there."""
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'edge_sdk')))"
    )
    subprocess.run(
        [sys.executable, "-S", "-c", code, building.__file__],
        check=True,
        timeout=patience(60),
    )
