"""Packaging hook: compiles what is native into the wheel where a compiler is at hand.

Building never fails an installation: without a compiler the wheel is pure Python,
training runs at masked-dense speed (`flash-edge doctor` says so), and the inference
runtime is compiled on its first use, if there is a compiler then.

Environment:
    FLASH_EDGE_TARGET: machine type to build for, x86_64 or aarch64 (cross-compiled).
    FLASH_EDGE_WHEEL_PLATFORM: platform tag, such as manylinux_2_28_aarch64.
    FLASH_EDGE_REQUIRE_KERNELS: 1 makes a failed build an error; releases set it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["KernelBuildHook"]


class KernelBuildHook(BuildHookInterface[Any]):
    """Adds compiled kernels and inference runtime to a wheel, tagged by platform."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles before the files are collected; `version` may be "editable"."""
        if self.target_name != "wheel":
            return
        root = Path(self.root) / "edge_sdk"
        building = _load("edge_sdk.kernels.build", root / "kernels" / "build.py")
        packing = _load("edge_sdk.kernels.packed", root / "kernels" / "packed.py")
        runtime = _load("edge_sdk.infer.build", root / "infer" / "build.py")
        machine = os.environ.get("FLASH_EDGE_TARGET") or building.this_machine()
        folder = building.package_folder(machine)
        infer_folder = runtime.package_folder(machine)
        for old in (folder.parent, infer_folder.parent):
            shutil.rmtree(old, ignore_errors=True)
        try:
            if not sys.platform.startswith("linux"):
                raise building.BuildError(sys.platform)  # noqa: TRY301 - same end
            built = building.build(building.targets_for(machine), folder)
            if version != "editable":
                built = [packing.shipped(library) for library in built]
            inference = runtime.build(infer_folder, machine=machine)
        except (building.BuildError, OSError) as error:
            if os.environ.get("FLASH_EDGE_REQUIRE_KERNELS") == "1":
                raise
            self.app.display_warning(f"kernels not built, training is dense: {error}")
            return
        platform = os.environ.get("FLASH_EDGE_WHEEL_PLATFORM") or f"linux_{machine}"
        build_data["pure_python"] = False
        # ctypes and no CPython interface: one wheel serves every Python 3.
        build_data["tag"] = f"py3-none-{platform}"
        for path in (*built, inference):
            build_data["force_include"][str(path)] = str(path.relative_to(self.root))


def _load(name: str, path: Path) -> ModuleType:
    """Imports one file under its own name, without its package's dependencies."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is missing from the source tree")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
