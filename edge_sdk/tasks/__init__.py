"""Decides what a task is: the contract by which a user's model and data plug in."""

from edge_sdk.tasks.task import Examples, Task, load_task
from edge_sdk.tasks.without_torch.halves import by_name

__all__ = ["Examples", "Task", "by_name", "load_task"]
