"""`executorch`: a ``.pte`` for ExecuTorch with XNNPACK; dense, run and compared."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.errors import ExportError
from export.extras import require
from export.targets import Material, Product, Target, fixed_batch, row_notes

__all__ = ["TARGET"]


def _make(material: Material) -> Product:
    require("executorch.exir", extra="executorch")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # noqa: PLC0415
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower  # noqa: PLC0415

    example = (material.source.example(fixed_batch(material, "executorch")[0]),)
    try:
        program = torch.export.export(material.source.model, example)
        lowered = to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()]
        )
        content = bytes(lowered.to_executorch().buffer)
    except Exception as error:
        raise ExportError(f"ExecuTorch could not convert the model: {error}") from error
    notes = ("XNNPACK, dense weights", *row_notes(material))
    return Product(content, material.copy(), None, notes)


def _run(content: bytes, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    from executorch.runtime import Runtime  # noqa: PLC0415

    method = Runtime.get().load_program(content).load_method("forward")
    outputs = [
        method.execute([torch.from_numpy(one[None])])[0].numpy().copy() for one in batch
    ]
    return np.concatenate(outputs)


TARGET = Target(
    name="executorch",
    suffix=".pte",
    make=_make,
    reader="own",
    exact=True,
    calibrated=False,
    summary="ExecuTorch with XNNPACK, dense fp32; needs the extra executorch",
    run=_run,
)
