"""The task contract: a user's model, loss and data, plugged in by ``module:object``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from device_profiles.words import meant
from edge_sdk.errors import DataError, TaskError
from edge_sdk.evaluation.metric import Metric, checked_metrics
from edge_sdk.tasks.arrays import check_present, group_numbers, numbers
from edge_sdk.tasks.reference import find_tasks_beside, load_object
from edge_sdk.tasks.user_errors import blamed
from edge_sdk.tasks.without_torch.halves import ByName, needs_torch, of_arrays
from edge_sdk.tasks.without_torch.shipped import SHIPPED

if TYPE_CHECKING:
    import torch

    from edge_sdk.tasks.casts import Casts
    from edge_sdk.tasks.parts.adapters import Adapters

__all__ = [
    "SHIPPED",
    "Examples",
    "Task",
    "check_functions",
    "find_tasks_beside",
    "load_task",
]

Loss: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """A finite set of examples: arrays in memory, or memory maps of files.

    Attributes:
        inputs: (n, ...) numbers of any dtype and byte order, as `Task.prepare` gets
            them: uint8 images stay uint8 until then.
        targets: (n, ...) numbers: class indices of any integer dtype, floats for a
            regression, booleans for what is or is not.
        casts: What a batch is cast to; found out where a task reads its examples.
        groups: (n,) whole numbers, such as the recording that an example is of: one
            group is held out or trained on as a whole; None where each stands alone.

    Raises:
        DataError: If there are none, inputs, targets and groups differ in number, or
            one of them is no array of numbers.
    """

    inputs: NDArray[np.generic]
    targets: NDArray[np.generic]
    casts: Casts | None = None
    groups: NDArray[np.generic] | None = None

    def __post_init__(self) -> None:
        for name in ("inputs", "targets"):
            object.__setattr__(self, name, numbers(getattr(self, name), name))
        if self.groups is not None:
            groups = group_numbers(self.groups, len(self.inputs))
            object.__setattr__(self, "groups", groups)
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"{len(self.inputs)} inputs but {len(self.targets)} targets",
                remedy="Give as many targets as inputs: one row of each per example.",
            )
        if not len(self.inputs):
            raise DataError("there are no examples")

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: NDArray[np.int64] | slice) -> Examples:
        """The examples here: copied, by a slice as views; errors as `check_present`."""
        check_present(self.inputs, self.targets)
        groups = None if self.groups is None else self.groups[index]
        return Examples(self.inputs[index], self.targets[index], self.casts, groups)


def _identity(inputs: Any) -> Any:
    return inputs


def _not_given(folder: Path) -> Examples:
    """Refuse to read examples for a task that names no function for it."""
    raise DataError(
        f"the task does not say how examples are read from {folder}",
        remedy="Give the Task train_data and eval_data, functions of a folder; or give "
        "coordinator.simulate arrays.",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A model with its loss and data; device, coordinator and export share it.

    Its functions cannot be compared, so two tasks are equal only if they are one.

    A task whose model and loss are named (`by_name`) needs no torch: `prepare` takes
    and gives numpy arrays there, and `augment` draws from a numpy generator.

    Attributes:
        name: Short name, ``[a-z0-9-]``.
        model: Returns a fresh ``torch.nn.Module``; called under a seeded generator.
        loss: (predictions, targets) -> scalar tensor, the mean over the batch.
        input_shape: Shape of one prepared example, without the batch axis.
        train_data: Folder -> this device's private examples; left out where
            `coordinator.simulate` is given arrays.
        eval_data: Folder -> the coordinator's evaluation examples; alike.
        labels: Class names, in the order of the model's outputs.
        prepare: Raw input batch (tensor of `Examples.inputs`' dtype; an array where
            the model is named, `by_name`) -> model input; deterministic. Floats become
            the model's own; token ids and masks stay what they are.
        augment: Prepared batch -> the same shape, with randomness from the given
            generator, torch's or numpy's; training only.
        dense_layers: Names of weights kept dense although they could be masked.
        batch_size: Examples per training step unless the run says otherwise.
        personal: Patterns of names: what a device trains for itself and never sends.
        frozen: Patterns likewise: what nobody trains, sent once.
        start: File of a state dict that training begins at.
        example_inputs: How many -> as many prepared inputs that the model takes, of
            its dtype and in its range; for planning and export without data. Needed
            only where floats are refused and small integers are not right either.
        metrics: What models are measured by, `edge_sdk.evaluation`; the first is the
            primary metric. Left out: the share of right answers, else the loss.
        holdout_data: Folder -> the examples that this device tests models on; left
            out, a share of its training examples is held out.
        statistics: Buffer of the model -> which statistic of all devices' prepared
            examples goes into it before training: ``mean`` or ``deviation``, of the
            buffer's shape broadcast against an example, or ``classes``, their shares.
        adapters: Low-rank adapters, which train in place of the layers they are on.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    loss: Loss
    input_shape: tuple[int, ...]
    train_data: Callable[[Path], Examples] = _not_given
    eval_data: Callable[[Path], Examples] = _not_given
    labels: Sequence[str] = ()
    prepare: Callable[[Any], Any] = _identity
    augment: Callable[[Any, Any], Any] | None = None
    dense_layers: frozenset[str] = field(default_factory=frozenset)
    batch_size: int = 32
    example_inputs: Callable[[int], torch.Tensor] | None = None
    metrics: Sequence[Metric] = ()
    holdout_data: Callable[[Path], Examples] | None = None
    personal: Sequence[str] = ()
    frozen: Sequence[str] = ()
    start: Path | str | None = None
    statistics: Mapping[str, str] = field(default_factory=dict)
    adapters: Adapters | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", checked_metrics(self.name, self.metrics))
        shape: object = self.input_shape
        whole = isinstance(shape, Sequence) and not isinstance(shape, str | bytes)
        if not whole or not all(isinstance(n, Integral) for n in self.input_shape):
            raise TaskError(
                f"task {self.name}: input_shape is {shape!r}, not a tuple of whole "
                "numbers",
                remedy="Give the shape of one prepared example, without the batch "
                "axis: input_shape=(16,).",
            )
        if not isinstance(self.batch_size, Integral) or self.batch_size < 1:
            raise TaskError(
                f"task {self.name}: batch_size is {self.batch_size!r}, not a number of "
                "examples",
                remedy="Give a whole number from 1 on, such as batch_size=32.",
            )
        if isinstance(self.model, ByName):
            if not self.prepares_nothing:
                object.__setattr__(self, "prepare", of_arrays(self.prepare))
            if self.augment is not None:
                object.__setattr__(self, "augment", of_arrays(self.augment))

    @property
    def prepares_nothing(self) -> bool:
        """True if examples go into the model as they are."""
        return self.prepare is _identity

    def read_train(
        self, folder: Path, *, known: bool = False, arrays: bool = False
    ) -> Examples:
        """Read a device's examples by `train_data`, and check that they fit the model.

        Args:
            folder: Where the examples are.
            known: Whether they were read and looked at before; saves the looking.
            arrays: Whether they are checked in numpy alone, as where torch is not.

        Raises:
            DataError: As `train_data` raises it, or if values are not finite, out of
                range, or would lose in the model's precision what tells them apart.
            TaskError: If it raises anything else or gives anything but `Examples`, or
                if one step of model and loss on some of them fails.
        """
        return self._read("train_data", folder, known=known, arrays=arrays)

    def read_eval(self, folder: Path, *, known: bool = False) -> Examples:
        """Read the evaluation examples by `eval_data`; as `read_train`."""
        return self._read("eval_data", folder, known=known)

    def read_holdout(self, folder: Path, *, arrays: bool = False) -> Examples | None:
        """Read a device's own test examples by `holdout_data`; None without it."""
        if self.holdout_data is None:
            return None
        return self._read("holdout_data", folder, arrays=arrays)

    def _read(
        self, what: str, folder: Path, *, known: bool = False, arrays: bool = False
    ) -> Examples:
        read: Callable[[Path], object] = getattr(self, what)
        try:
            with blamed(self.name, f"reading the examples of {folder} by {what}"):
                found = read(folder)
        except DataError as error:
            if str(folder) in str(error):
                raise
            raise DataError(
                f"task {self.name}, {what} of {folder}: {error}", remedy=error.help
            ) from error
        if not isinstance(found, Examples):
            gave = type(found).__name__
            raise TaskError(
                f"task {self.name}: reading the examples of {folder} by {what} gave a "
                f"{gave}, not an edge_sdk.Examples",
                remedy=f"Return Examples(inputs, targets) from {what}.",
            )
        from edge_sdk.tasks.without_torch.batch import checked  # noqa: PLC0415 - late

        return checked(self, found, folder, known=known, arrays=arrays)


def load_task(reference: str, *, beside: Path | None = None) -> Task:
    """The task named by ``package.module:object``, or a shipped one by its short name.

    Args:
        reference: The task's name.
        beside: Folder of the settings file which names it; see `find_tasks_beside`.

    Raises:
        TaskError: If it cannot be imported or is not a `Task`; says which part failed.

    Example:
        >>> load_task("mnist").input_shape
        (1, 28, 28)
    """
    target = SHIPPED.get(reference, reference)
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        known = ", ".join(sorted(SHIPPED))
        raise TaskError(
            f"task {reference!r} is neither one of {known} nor package.module:object"
            f"{meant(reference, SHIPPED)}"
        )
    try:
        task = load_object(
            target,
            Task,
            what="task",
            wanted="an edge_sdk.Task",
            error=TaskError,
            beside=beside,
        )
    except TaskError as error:
        raise needs_torch(error, f"task {reference}") or error from error
    check_functions(task)
    return task


def check_functions(task: Task) -> None:
    """Refuses a model that is made already, and a loss that is not.

    Raises:
        TaskError: If so; both are easily mistaken.
    """
    if not isinstance(task.model, type) and hasattr(task.model, "state_dict"):
        name = type(task.model).__name__
        raise TaskError(
            f"task {task.name}: model is a {name}, not a function that returns one",
            remedy="Give a function that makes it anew: model=lambda: ..., or its "
            "class.",
        )
    if isinstance(task.loss, type):
        name = task.loss.__name__
        raise TaskError(
            f"task {task.name}: loss is the class {name}, not a function",
            remedy=f"Make one: loss={name}().",
        )
