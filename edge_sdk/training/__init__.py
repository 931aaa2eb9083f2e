"""Decides how a device trains: engines, the loop, the rules of its order."""

__all__: list[str] = []
