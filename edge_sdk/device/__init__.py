"""Decides what the board can do and may do: measured, checked, limited, set up."""

__all__: list[str] = []
