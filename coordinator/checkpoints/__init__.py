"""Decides how models and masks of a run are kept on disk."""

__all__: list[str] = []
