"""Data sources that grow: read anew when they change, and what of them is kept."""

from edge_sdk.datasets.growing.folder import folder_examples
from edge_sdk.datasets.growing.mapped import mapped_npz
from edge_sdk.datasets.growing.sqlite import sqlite_examples
from edge_sdk.datasets.growing.stream import stream_examples
from edge_sdk.datasets.growing.timed import TimedExamples

__all__ = [
    "TimedExamples",
    "folder_examples",
    "mapped_npz",
    "sqlite_examples",
    "stream_examples",
]
