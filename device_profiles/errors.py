"""The one error of this room: a profile that cannot be trusted or cannot be found."""

from __future__ import annotations

__all__ = ["ProfileError"]


class ProfileError(ValueError):
    """A device profile is missing, misspelt, or holds an impossible number.

    Attributes:
        file: Where it was read from, or what sent it.
        key: Path of the key inside it, such as ``caps.cpu_share``; empty if the whole.
        expected: What should stand there.
        help: What to do about it.
    """

    def __init__(
        self, *, file: str, key: str = "", expected: str, remedy: str | None = None
    ) -> None:
        where = f"{file}: {key}" if key else file
        super().__init__(f"{where}: {expected}")
        self.file, self.key, self.expected = file, key, expected
        self.help = remedy or (
            "Correct the key that the message names, or write a fresh profile with "
            "`flash-edge profile`."
        )
