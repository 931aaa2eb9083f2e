"""Decides which delivered model runs on the board: two slots, checked, rolled back."""

__all__: list[str] = []
