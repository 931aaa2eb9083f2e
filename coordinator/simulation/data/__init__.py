"""Decides where a simulation's examples are: folders, or arrays written into some."""

__all__: list[str] = []
