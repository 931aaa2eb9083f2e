"""Decides what a device keeps between two starts: its journal and blobs."""

__all__: list[str] = []
