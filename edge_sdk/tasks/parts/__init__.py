"""Parts of a model that stay apart: personal and frozen ones, and where it starts."""

__all__: list[str] = []
