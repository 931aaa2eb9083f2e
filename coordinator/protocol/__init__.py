"""Receives and sends messages: signatures, sequence numbers, uploads in parts."""

__all__: list[str] = []
