"""Models, data and the contract by which a user's own plug in."""

from edge_sdk.tasks.task import Examples, Task, load_task

__all__ = ["Examples", "Task", "load_task"]
