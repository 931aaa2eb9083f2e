"""Rows of losses: of classes, of values, and of pairs of examples."""

__all__: list[str] = []
