"""Decides which tasks are shipped; `edge_sdk.tasks.load_task` finds them by name."""

__all__: list[str] = []
