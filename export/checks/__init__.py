"""Decides which exported models are written: gates, and losses of rounded formats."""

__all__: list[str] = []
