"""A task in two modules: data in numpy for every board, the model where torch is.

A board without torch reads and prepares its examples by the task's module, which
imports no torch; the coordinator finds model and loss in another, by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import TaskError, a_type

__all__ = [
    "ArrayFunction",
    "ByName",
    "by_name",
    "needs_torch",
    "of_arrays",
    "torch_is_here",
]

_TWO_MODULES = (
    "Install torch here (pip install 'flash-edge[device]'); or give the task two "
    'modules: name its model and loss, model=by_name("my_model:Net") and '
    'loss=by_name("my_model:loss"), and import no torch beside them '
    "(docs/guides/task.md)."
)


@dataclass(frozen=True)
class ByName:
    """A function or class of another module, imported when it is first called.

    Attributes:
        reference: ``module:object``; the object may be an attribute, ``nn:Net.small``.
    """

    reference: str

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Calls it.

        Raises:
            TaskError: If it cannot be imported, or there is no such object.
        """
        return _found(self.reference)(*args, **named)


def by_name(reference: str) -> ByName:
    """Name a model or a loss of a task whose own module imports no torch.

    Args:
        reference: ``module:object``.

    Raises:
        TaskError: If it is not of that form.

    Example:
        >>> by_name("math:sqrt")(9.0)
        3.0
    """
    module, _, name = reference.partition(":")
    if not module or not name:
        raise TaskError(
            f"by_name({reference!r}) is not module:object",
            remedy='Write the module, a colon and the object: "my_model:Net".',
        )
    return ByName(reference)


@dataclass(frozen=True)
class ArrayFunction:
    """A preparation or augmentation written in numpy, called with arrays or tensors.

    Attributes:
        function: Takes and gives arrays; an augmentation also takes a numpy generator.
    """

    function: Callable[..., NDArray[Any]]

    def __call__(self, inputs: Any, noise: Any = None) -> Any:
        """Arrays give arrays, tensors give tensors; so do the two generators."""
        if isinstance(inputs, np.ndarray):
            return self._called(inputs, noise)
        import torch  # noqa: PLC0415 - whoever has a tensor has torch

        if noise is not None:
            seed = torch.randint(1 << 62, (1,), generator=noise)
            noise = np.random.Generator(np.random.Philox(key=int(seed)))
        found = self._called(inputs.detach().cpu().numpy(), noise)
        if not isinstance(found, np.ndarray):
            return found  # whoever asked says what is wrong with it
        return torch.from_numpy(np.ascontiguousarray(found))

    def _called(self, inputs: NDArray[Any], noise: Any) -> Any:
        return self.function(inputs) if noise is None else self.function(inputs, noise)


def of_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as an `ArrayFunction`; one that is already stays what it is."""
    return function if isinstance(function, ArrayFunction) else ArrayFunction(function)


def needs_torch(error: BaseException, what: str) -> TaskError | None:
    """An error that says what to do where an import failed for want of torch.

    Args:
        error: What importing raised, or what that came from.
        what: What was imported, for the message.

    Returns:
        None where it failed for another reason.
    """
    cause: BaseException | None = error
    while cause is not None:
        missing = getattr(cause, "name", None) if isinstance(cause, ImportError) else ""
        if missing == "torch" or str(missing).startswith("torch."):
            return TaskError(
                f"{what} imports torch, which this machine does not have",
                remedy=_TWO_MODULES,
            )
        cause = cause.__cause__ or cause.__context__
    return None


@cache
def _found(reference: str) -> Callable[..., Any]:
    module_name, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (Exception, SystemExit) as error:
        wanting = needs_torch(error, f"{reference}, named by a task,")
        if wanting is not None:
            raise wanting from error
        raise TaskError(
            f"{reference}, named by a task, cannot be imported: "
            f"{type(error).__name__}: {error}",
            remedy="Put the module beside the task's, and see that it has that name.",
        ) from error
    if not callable(found):
        raise TaskError(
            f"{reference}, named by a task, is {a_type(found)}, no function",
            remedy="Name a function or a class.",
        )
    wanted: Callable[..., Any] = found
    return wanted


def torch_is_here() -> bool:
    """Return whether torch can be imported; it is not imported to find out."""
    if "torch" in sys.modules:
        return sys.modules["torch"] is not None
    return importlib.util.find_spec("torch") is not None
