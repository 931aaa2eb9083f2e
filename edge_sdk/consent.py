"""The line in which an operator says what a device's people have agreed to."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

__all__ = ["ONE_LINE", "Consent"]

# For terminal, page and proof: no control character, so no terminal's codes.
ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f]*\Z"
Consent = Annotated[str, Meta(min_length=1, max_length=200, pattern=ONE_LINE)]
