"""Decides which model is on its way to which board, and sends it."""

__all__: list[str] = []
