"""From a sparse checkpoint to a verified model file.

`build` exports and checks, `verify` checks again; both return a `Report`. torch, onnx
and onnxruntime are imported only when they run.
"""

from export.builder import build, build_source
from export.bundle import make_bundle
from export.recheck import verify, verify_bundle
from export.report import Accuracy, Findings, Parity, Report
from export.timing import Timing, bench

__all__ = [
    "Accuracy",
    "Findings",
    "Parity",
    "Report",
    "Timing",
    "bench",
    "build",
    "build_source",
    "make_bundle",
    "verify",
    "verify_bundle",
]
