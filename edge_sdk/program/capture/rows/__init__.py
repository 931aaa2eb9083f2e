"""Rows of the capture table, a family in each file."""

__all__: list[str] = []
