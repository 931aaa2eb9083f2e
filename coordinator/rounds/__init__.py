"""Decides who trains in a round, on what, for how long, and what of it counts."""

__all__: list[str] = []
