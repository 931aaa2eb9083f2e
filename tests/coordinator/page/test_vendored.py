"""The chart library that the page carries is the published one, with its licence."""

from __future__ import annotations

import pytest
import vendored


def test_the_files_are_those_of_the_pinned_package() -> None:
    content = vendored.package()
    if content is None:
        pytest.skip("npm or its registry cannot be reached")
    version, integrity = vendored.pinned()
    assert vendored.integrity_of(content) == integrity
    for name, file in vendored.unpack(content).items():
        assert (vendored.VENDOR / name).read_bytes() == file, (name, version)


def test_its_licence_and_version_are_beside_it() -> None:
    version, _ = vendored.pinned()
    code = (vendored.VENDOR / "uPlot.iife.min.js").read_text(encoding="utf-8")
    assert f"(v{version})" in code.splitlines()[0]
    assert "</script" not in code  # it goes into the report as it is
    licence = (vendored.VENDOR / "uPlot.LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in licence
    assert {p.name for p in vendored.VENDOR.iterdir()} == {*vendored.FILES, "README.md"}
