"""The algorithms, one file each; none imports another."""

__all__: list[str] = []
