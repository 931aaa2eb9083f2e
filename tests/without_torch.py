"""An interpreter that has every package of this one but torch and what it brings."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

__all__ = ["boards_without_torch", "python_without_torch"]

ROOT = Path(__file__).parents[1]
# Whatever a wheel is called, its packages and its metadata begin with these.
LEFT_OUT = (
    *("torch", "functorch", "tensorboard", "onnxscript", "ray"),
    *("psutil", "safetensors"),
)


@cache
def python_without_torch() -> str:
    """Path of the interpreter: a virtual environment whose packages are links.

    Nothing pretends: `import torch`, its specification and its metadata fail there as
    on a board where it was never installed.
    """
    home = Path(mkdtemp(prefix="no-torch-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    make = [sys.executable, "-m", "venv", "--without-pip", str(home)]
    subprocess.run(make, check=True)
    packages = {Path(np.__file__).parents[1], Path(sysconfig.get_paths()["purelib"])}
    place = next((home / "lib").glob("python3*/site-packages"))
    for folder in packages:
        for entry in folder.iterdir():
            name, link = entry.name.lower(), place / entry.name
            if not name.startswith((*LEFT_OUT, "__pycache__")) and (
                entry.suffix != ".pth" and not link.exists()
            ):
                link.symlink_to(entry)
    (place / "tree.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    return str(home / "bin" / "python")


def boards_without_torch(fleet: Any, *names: str, has: str = "") -> None:
    """Lets devices train by programs; the one named last has torch, and may wait."""
    for name in names:
        # One that has torch imports it when it must: it begins without.
        fleet.pythons[name] = sys.executable if name == has else python_without_torch()
        path = fleet.folder / f"{name}.toml"
        engine = "program" if name == has else "auto"  # a slow task would be raced
        text = path.read_text().replace('engine = "masked"', f'engine = "{engine}"')
        path.write_text(text)
