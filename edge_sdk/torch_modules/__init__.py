"""Provides what torch modules of others need: copies of used ones, and weight norm."""

__all__: list[str] = []
