"""A run in the terminal: live display, status, tables."""

__all__: list[str] = []
