"""Runs exported native models on the board: numpy in, numpy out."""

from edge_sdk.infer.bundle import Bundle
from edge_sdk.infer.model import NativeModel

__all__ = ["Bundle", "NativeModel"]
