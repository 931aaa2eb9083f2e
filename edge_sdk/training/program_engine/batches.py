"""Batches of a task in numpy, as a program takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DataError
from edge_sdk.program.graph import TrainingProgram
from edge_sdk.tasks.arrays import check_present, native
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.without_torch.batch import augmented_array, prepared_array
from edge_sdk.training.engine import Arrays

__all__ = ["ArrayBatches"]

_DOMAIN = 0xA06  # of the random words that augment


class ArrayBatches:
    """The batches of one training: prepared, augmented, of the program's dtypes.

    Args:
        task: Of two modules, or one that prepares nothing.
        examples: The device's own.
        program: Says which of inputs and targets are whole numbers.
        seed: Of the augmentation; a batch's follows from it and the batch's number.
    """

    def __init__(
        self, task: Task, examples: Examples, program: TrainingProgram, seed: int
    ) -> None:
        self._task, self._examples, self._seed = task, examples, seed
        graph = program.training
        self._whole = [graph.tensors[place].whole for place in graph.inputs]
        self._drawn = 0

    def __call__(
        self, index: NDArray[np.int64], *, augment: bool = True
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The inputs and targets at these positions.

        Raises:
            TaskError: If preparation or augmentation give no such batch.
            DataError: If values are whole numbers where the program wants none, or the
                other way round; or the examples' file was cut while it was mapped.
        """
        task, examples = self._task, self._examples
        check_present(examples.inputs, examples.targets)
        inputs = self._cast(prepared_array(task, examples.inputs[index]), 0)
        if augment and task.augment is not None:
            key = [self._seed, _DOMAIN]
            noise = np.random.Philox(key=key, counter=[0, 0, 0, self._drawn])
            self._drawn += 1
            inputs = augmented_array(task, inputs, np.random.Generator(noise))
        return inputs, self._cast(native(examples.targets[index]), 1)

    def state(self) -> dict[str, NDArray[Any]]:
        """Number of batches that were augmented, for a checkpoint."""
        return {"drawn": np.array([self._drawn], np.int64)}

    def put_back(self, state: Arrays) -> None:
        """Takes over what `state` gave."""
        self._drawn = int(state["drawn"][0])

    def _cast(self, array: NDArray[Any], place: int) -> NDArray[Any]:
        what = ("inputs", "targets")[place]
        if not self._whole[place]:
            return np.ascontiguousarray(array, np.float32)
        whole = array.astype(np.int64)
        if array.dtype.kind == "f" and not np.array_equal(whole, array):
            raise DataError(
                f"task {self._task.name}: {what} are {array.dtype}, the model takes "
                "whole numbers",
                remedy=f"Give {what} as integers, where the task reads its data.",
            )
        return whole
