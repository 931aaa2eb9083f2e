"""A regression from a CSV of sensor readings: a motor's degrees by its housing."""

from pathlib import Path

import numpy as np
from torch import nn
from torch.nn import functional as F

from edge_sdk import Examples, Task
from edge_sdk.evaluation import mae, r2, rmse

READINGS = 8  # columns before the last, which is the degrees to tell


def read(folder: Path) -> Examples:
    """Rows of ``readings.csv``: readings, then the value to predict; no header."""
    table = np.loadtxt(folder / "readings.csv", delimiter=",", dtype=np.float32)
    return Examples(table[:, :READINGS], table[:, READINGS:])


def prepare(readings):  # type: ignore[no-untyped-def]
    """Each reading in the unit of its own spread, which is known of the sensors."""
    return readings / 10


task = Task(
    name="sensors",
    model=lambda: nn.Sequential(
        nn.Linear(READINGS, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 1),
    ),
    loss=F.mse_loss,
    metrics=[rmse(), mae(), r2()],  # the first is what displays show
    train_data=read,
    eval_data=read,
    prepare=prepare,
    input_shape=(READINGS,),
)
