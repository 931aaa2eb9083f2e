"""Cost of a task on a device, counted by running its model once."""

from __future__ import annotations

import math
from collections.abc import Collection

from device_profiles import LayerLoad, Workload
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.layers import layers_of, make_model
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.trace import LARGE, trace_step

__all__ = ["weight_uses", "workload_of"]


def workload_of(
    task: Task,
    *,
    examples: int,
    epochs: int,
    batch: int,
    input_bytes: int | None = None,
    given: Examples | None = None,
    only: Collection[str] | None = None,
) -> Workload:
    """Arithmetic, memory traffic and operator calls, from one small training step.

    Functional calls count like modules: what is counted passes below autograd. A
    weight that the forward pass does not use is taken at one use an example.

    Args:
        task: Whose model to run.
        examples: Examples a device trains on in a round.
        epochs: Passes over them.
        batch: Examples per step.
        input_bytes: Bytes of one stored example; one per input element if not given.
        given: Examples that the task has read; without them its `example_inputs`, or
            what its model is found to take.
        only: The weights that a run masks; None for all that it can.

    Raises:
        TaskError: If the model cannot run forward and backward on its input shape, or
            has nothing to mask.
    """
    some = None if given is None else tensors(task, given, slice(0, LARGE))[0]
    model = make_model(task, 0)
    masked = {layer.name for layer in layers_of(model, task.dense_layers, only=only)}
    numel = {name: weight.numel() for name, weight in model.named_parameters()}
    total = sum(tensor.numel() for tensor in model.state_dict().values())
    trace = trace_step(
        model,
        task.input_shape,
        name=task.name,
        stated=task.example_inputs,
        prepare=task.prepare,
        examples=some,
    )
    used = [name for name in numel if name in masked or name in trace.macs]
    loads = tuple(
        LayerLoad(name, numel[name], trace.macs.get(name, numel[name]), name in masked)
        for name in used
    )
    return Workload(
        layers=loads,
        other_numel=total - sum(load.numel for load in loads),
        activations=max(trace.activations, 1),
        input_bytes=math.prod(task.input_shape) if input_bytes is None else input_bytes,
        examples=examples,
        epochs=epochs,
        batch=batch,
        operators=trace.operators,
        traffic_bytes=trace.example_bytes,
        kernel_bytes=trace.kernel_bytes,
        norm_bytes=trace.norm_bytes,
        saved_bytes=trace.saved_bytes,
        compares=trace.compares,
    )


def weight_uses(task: Task) -> dict[str, float]:
    """Name of each maskable weight to how often an example uses one of its values.

    A convolution uses each once per output position, a linear layer once.

    Raises:
        TaskError: As `workload_of`.
    """
    loads = workload_of(task, examples=1, epochs=1, batch=1).layers
    return {load.name: load.macs / load.numel for load in loads if load.masked}
