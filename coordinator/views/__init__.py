"""Decides what people see of a run: terminal, page, report, tracking servers."""

__all__: list[str] = []
