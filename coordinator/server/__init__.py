"""Decides when a round opens and ends while the coordinator runs: one loop."""

__all__: list[str] = []
