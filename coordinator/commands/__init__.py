"""The commands of `flash-coordinator`: each parses, calls a function, prints."""

__all__: list[str] = []
