"""Measures what this board can afford; call `edge_sdk.device.probe.run.probe`.

Nothing is imported here: the doctor reads sensors and limits on boards where torch
itself would crash.
"""

__all__: list[str] = []
