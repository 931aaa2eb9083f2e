"""Decides who trains simulated devices: processes of this machine, or Ray actors."""

__all__: list[str] = []
