"""Decides what messages say and their bytes and topics: no sockets, no clock."""

__all__: list[str] = []
