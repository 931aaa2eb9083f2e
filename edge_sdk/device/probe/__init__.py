"""Measures what this board can afford; `edge_sdk.device.probe.run.probe` is the door.

Nothing is imported here: the doctor reads sensors and limits on boards where torch
itself would crash.
"""

__all__: list[str] = []
