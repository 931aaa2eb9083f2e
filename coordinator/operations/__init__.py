"""Looks after a run: plan it, check it, stop it."""

__all__: list[str] = []
