"""Decides how child processes start, log, and end with their parent."""

__all__: list[str] = []
