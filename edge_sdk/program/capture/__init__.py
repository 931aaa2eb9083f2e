"""Programs out of torch modules; nothing else in `edge_sdk.program` needs torch."""

from edge_sdk.program.capture.compare import Compiled, compare, compiled
from edge_sdk.program.capture.export import capture

__all__ = ["Compiled", "capture", "compare", "compiled"]
