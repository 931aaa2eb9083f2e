"""Decides how a run is looked after from outside: planned, checked, stopped."""

__all__: list[str] = []
