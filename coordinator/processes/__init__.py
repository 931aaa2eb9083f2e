"""Child processes that end with their parent."""

__all__: list[str] = []
