"""Workers that train simulated devices: processes of this machine, or Ray actors."""

__all__: list[str] = []
