"""Rows of the table of operations, a family in each file."""

__all__: list[str] = []
