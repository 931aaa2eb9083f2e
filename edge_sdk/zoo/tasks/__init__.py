"""The shipped tasks; `edge_sdk.tasks.load_task` finds them by their short names."""

__all__: list[str] = []
