"""Decides how a task is used where torch is not: named models, examples in numpy."""

__all__: list[str] = []
