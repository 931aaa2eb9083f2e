"""Federated training of one sparse model on small boards: the device SDK.

``from edge_sdk import Examples, Task`` is how a task of one's own begins. A name is
imported when it is first used, so that `import edge_sdk` needs neither torch nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk.own_packages import lazy_names

if TYPE_CHECKING:
    from edge_sdk.agent import Agent, Identity
    from edge_sdk.errors import (
        CheckpointError,
        DataError,
        DensityError,
        EdgeError,
        EngineError,
        RunError,
        SettingsError,
        TaskError,
    )
    from edge_sdk.sparse import CsrTensor, LayerShape, Mask
    from edge_sdk.tasks import Examples, Task, by_name, load_task

__all__ = [
    "Agent",
    "CheckpointError",
    "CsrTensor",
    "DataError",
    "DensityError",
    "EdgeError",
    "EngineError",
    "Examples",
    "Identity",
    "LayerShape",
    "Mask",
    "RunError",
    "SettingsError",
    "Task",
    "TaskError",
    "by_name",
    "load_task",
]

_HOMES = {
    "edge_sdk.agent": ("Agent", "Identity"),
    "edge_sdk.sparse": ("CsrTensor", "LayerShape", "Mask"),
    "edge_sdk.tasks": ("Examples", "Task", "by_name", "load_task"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__getattr__, __dir__ = lazy_names(
    __name__, {name: (_HOME.get(name, "edge_sdk.errors"), name) for name in __all__}
)
