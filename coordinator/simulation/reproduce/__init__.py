"""Published tables, run cell by cell."""

__all__: list[str] = []
