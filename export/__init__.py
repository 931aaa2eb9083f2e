"""Export of sparse models to verified files: checkpoints, and any pruned module.

`build` exports and checks, `verify` checks again, `load` opens a file to run it,
`formats` lists the formats. A name is imported when it is first used; torch, onnx and
onnxruntime only when one of them runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk.own_packages import lazy_names

if TYPE_CHECKING:
    from export.api import Exported, build, build_source, formats
    from export.bundle import make_bundle
    from export.loaded import LoadedModel, load
    from export.measure.timing import Timing, bench
    from export.recheck import verify, verify_bundle
    from export.report import Accuracy, Findings, Parity, Report

__all__ = [
    "Accuracy",
    "Exported",
    "Findings",
    "LoadedModel",
    "Parity",
    "Report",
    "Timing",
    "bench",
    "build",
    "build_source",
    "formats",
    "load",
    "make_bundle",
    "verify",
    "verify_bundle",
]

_HOMES = {
    "export.api": ("Exported", "build", "build_source", "formats"),
    "export.bundle": ("make_bundle",),
    "export.loaded": ("LoadedModel", "load"),
    "export.recheck": ("verify", "verify_bundle"),
    "export.report": ("Accuracy", "Findings", "Parity", "Report"),
    "export.measure.timing": ("Timing", "bench"),
}
__getattr__, __dir__ = lazy_names(
    __name__, {name: (home, name) for home, names in _HOMES.items() for name in names}
)
