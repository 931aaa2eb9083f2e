"""A fuzzer's process: its progress is passed on as it comes, its figures at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["figures_of"]

_LAST = 6000  # characters of a sanitizer's report


def figures_of(call: Sequence[str | Path], name: str = "") -> dict[str, Any]:
    """Figures of one process; a finding is in words under "finding".

    Args:
        call: Prints figures as JSON on stdout, and lines of progress on stderr.
        name: In front of each of these lines.
    """
    said: list[str] = []
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("progress: "):
                sys.stderr.write(f"{name}{': ' if name else ''}{line}")
                sys.stderr.flush()
            else:
                said.append(line)
        out = process.stdout.read()
    if process.returncode:
        return {"finding": "".join(said)[-_LAST:] or f"it ended {process.returncode}"}
    figures: dict[str, Any] = json.loads(out)
    return figures
