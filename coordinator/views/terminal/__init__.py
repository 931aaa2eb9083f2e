"""Decides how a run looks in the terminal: live display, status, tables."""

__all__: list[str] = []
