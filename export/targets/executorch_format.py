"""`executorch`: a ``.pte`` for ExecuTorch with XNNPACK; dense, run and compared.

Methods of ExecuTorch take their inputs in order. Their names are what the methods
``get_input_names`` and ``get_output_names`` of the file return.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.errors import ExportError
from edge_sdk.infer.input_parts import InputPart
from edge_sdk.infer.output_parts import OutputPart
from export.extras import require
from export.targets import FileInterface, Material, Product, Target
from export.targets.converters import (
    converted_of,
    each_example,
    quiet,
    reading,
    rows_of,
)

__all__ = ["TARGET"]

_INPUTS, _OUTPUTS = "get_input_names", "get_output_names"
# Numbers of torch's dtypes, as files have them.
_DTYPES = {3: "int32", 4: "int64", 6: "float32", 7: "float64", 11: "bool"}


def _make(material: Material) -> Product:
    with quiet():
        require("executorch.exir", extra="executorch")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # noqa: PLC0415
            XnnpackPartitioner,
        )
        from executorch.exir import to_edge_transform_and_lower  # noqa: PLC0415

    given = converted_of(material, "executorch")
    try:
        with quiet():
            program = torch.export.export(given.module, given.examples)
            lowered = to_edge_transform_and_lower(
                program,
                partitioner=[XnnpackPartitioner()],
                constant_methods={
                    _INPUTS: list(given.inputs),
                    _OUTPUTS: list(given.outputs),
                },
            )
            content = bytes(lowered.to_executorch().buffer)
    except Exception as error:
        raise ExportError(f"ExecuTorch could not convert the model: {error}") from error
    return Product(content, material.copy(), None, ("XNNPACK, dense weights",))


@reading("ExecuTorch")
def _run(
    content: bytes, batch: NDArray[Any], parts: Sequence[InputPart]
) -> NDArray[np.float32]:
    method = _program(content).load_method("forward")
    found = method.metadata
    takes = [found.input_tensor_meta(i).sizes() for i in range(found.num_inputs())]
    return rows_of(
        [
            [one.clone() for one in method.execute(list(map(torch.from_numpy, given)))]
            for given in each_example(batch, parts, takes)
        ]
    )


@reading("ExecuTorch")
def _describe(content: bytes) -> FileInterface:
    program = _program(content)
    found = program.load_method("forward").metadata
    takes = [found.input_tensor_meta(i) for i in range(found.num_inputs())]
    gives = [found.output_tensor_meta(i) for i in range(found.num_outputs())]
    names = [
        program.load_method(key).execute([])
        if key in program.method_names
        else [f"{word}_{i}" for i in range(count)]  # of a file of before
        for key, word, count in (
            (_INPUTS, "input", len(takes)),
            (_OUTPUTS, "output", len(gives)),
        )
    ]
    return FileInterface(
        tuple(
            InputPart(name, tuple(one.sizes()[1:]), _DTYPES.get(one.dtype(), "other"))
            for name, one in zip(names[0], takes, strict=True)
        ),
        tuple(
            OutputPart(name, tuple(one.sizes()[1:]))
            for name, one in zip(names[1], gives, strict=True)
        ),
    )


def _program(content: bytes) -> Any:
    from executorch.runtime import Runtime  # noqa: PLC0415

    return Runtime.get().load_program(content)


TARGET = Target(
    name="executorch",
    suffix=".pte",
    make=_make,
    reader="own",
    exact=True,
    calibrated=False,
    summary="ExecuTorch with XNNPACK, dense fp32; needs the extra executorch",
    run=_run,
    describe=_describe,
)
