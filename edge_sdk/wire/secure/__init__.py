"""Bytes of secure aggregation: its messages, and updates as fixed-point numbers."""

__all__: list[str] = []
