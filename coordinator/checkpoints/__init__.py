"""Models and masks of a run on disk."""

__all__: list[str] = []
