"""Runs native sparse bundles (``.flsp``) on the board: numpy in, numpy out."""

from edge_sdk.infer.model import NativeModel

__all__ = ["NativeModel"]
