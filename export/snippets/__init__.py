"""README of a bundle: code that runs its models, in five languages."""

from export.snippets.text import readme

__all__ = ["readme"]
