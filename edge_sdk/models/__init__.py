"""The task contract by its name in 0.1.0; use `edge_sdk.tasks`."""

from edge_sdk.tasks import Examples, Task, load_task

__all__ = ["Examples", "Task", "load_task"]
