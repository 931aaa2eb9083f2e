"""What tests compile, once per version of its sources and flags.

Kept in ``.pytest_cache/compiled``, so that workers of one session and later sessions
share it; an edit of a source, a header, a flag or the compiler makes it anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["compiled"]

KEPT = Path(__file__).parents[1] / ".pytest_cache" / "compiled"


def compiled(
    name: str,
    make: Callable[[Path], object],
    *,
    compiler: str,
    flags: Iterable[str],
    sources: Iterable[Path],
) -> Path:
    """The folder that `make` has filled, now or in an earlier session.

    Args:
        name: What it is; one version of it is kept.
        make: Compiles into the folder that it is given.
        compiler: Its program; another version of it compiles again.
        flags: Whatever else decides about the result.
        sources: Files, and folders of files, that it is made of.
    """
    said = subprocess.run([compiler, "--version"], capture_output=True, check=True)
    sha = hashlib.sha256(said.stdout + repr(tuple(flags)).encode())
    for path in sources:
        for file in sorted(path.glob("*.*")) if path.is_dir() else [path]:
            sha.update(file.name.encode() + b"\0" + file.read_bytes())
    KEPT.mkdir(parents=True, exist_ok=True)
    whole = KEPT / f"{name}-{sha.hexdigest()[:16]}"
    with (KEPT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be at it
        if not whole.exists():
            for older in KEPT.glob(f"{name}-*"):
                shutil.rmtree(older)
            scratch = Path(tempfile.mkdtemp(dir=KEPT, prefix="unfinished-"))
            try:
                make(scratch)
                scratch.rename(whole)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return whole
