"""Decides which weights a step of an order's rule trains: warm-up, moving masks."""

__all__: list[str] = []
