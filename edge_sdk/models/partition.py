"""Partition files by their name in 0.1.0; use `edge_sdk.datasets.partition`."""

from edge_sdk.datasets.partition import load_partition, save_partition

__all__ = ["load_partition", "save_partition"]
