"""Decides whose message it is, whether it is new, and what it is answered."""

__all__: list[str] = []
