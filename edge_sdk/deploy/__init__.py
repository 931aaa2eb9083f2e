"""Installs delivered models on the board: two slots, checked, rolled back."""

__all__: list[str] = []
