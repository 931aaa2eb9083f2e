"""The algorithms that prune weights which were trained, one file each."""

__all__: list[str] = []
