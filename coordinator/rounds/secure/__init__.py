"""A secure round as the coordinator decides it: who masks with whom, and the sum."""

__all__: list[str] = []
