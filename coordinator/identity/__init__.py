"""Decides who is a device of this federation: tokens, certificates, revocations."""

__all__: list[str] = []
