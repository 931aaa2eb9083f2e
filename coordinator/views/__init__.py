"""A run as people see it: terminal, web page, report, tracking servers."""

__all__: list[str] = []
