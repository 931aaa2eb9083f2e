"""Text of others on our terminal: a device must not move its cursor or forge a line."""

from __future__ import annotations

__all__ = ["plain"]

# C0, DEL and C1; what a terminal obeys begins with one of them.
_SHOWN = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_LINES = {ord("\n"): "\n", ord("\t"): "\t"}


def plain(text: str, *, lines: bool = False) -> str:
    r"""The text with its control characters shown instead of sent.

    Args:
        text: Of whoever.
        lines: Whether ends of lines and tabs stay what they are.

    Example:
        >>> plain("hot\x1b[2J\n")
        'hot\\x1b[2J\\x0a'
    """
    return text.translate({**_SHOWN, **_LINES} if lines else _SHOWN)
