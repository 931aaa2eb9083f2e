"""Durable state of a device between two starts: journal and blobs."""

__all__: list[str] = []
