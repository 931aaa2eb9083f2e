"""The gates: what must hold of an exported model before a file is written."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_sdk.errors import ExportError
from edge_sdk.infer import NativeModel
from export import runtime
from export.checks.drift import (
    check_accuracy,
    check_drift,
    check_metric,
    check_outputs,
    measure_for,
    own_metric,
)
from export.checks.reference import Reference, distance, mixing_told, reference_of
from export.checks.tolerance import Tolerance
from export.passes.name_weights import TRANSPOSED
from export.passes.remove_dead_channels import Kept
from export.rebuild import Inputs, Source
from export.report import Findings, Parity
from export.targets import Product, Target

__all__ = ["check"]

USUAL = Tolerance()
# Of layers with rounded inputs: the last bit of a value decides, now and then, to which
# whole number it is rounded. Measured on ResNet18: 2.6e-4.
_ROUNDED = 5e-2
_ROUNDING = 1e-2  # beyond it another function is computed
_FIXED = (
    "The file computes something else: what forward takes out of a tensor (.item(), "
    ".tolist(), .numpy()) or draws by chance is fixed when it is exported; use tensor "
    "operations instead."
)

Array: TypeAlias = NDArray[np.float32]
Predict: TypeAlias = Callable[[NDArray[Any]], Array]


def check(
    product: Product,
    target: Target,
    source: Source,
    inputs: Inputs,
    *,
    kept: Kept | None = None,
    left_out: Container[str] = frozenset(),
    evaluation: Inputs | None = None,
    reference: Reference | None = None,
    tolerance: Tolerance = USUAL,
) -> Findings:
    """Runs every gate that the format has.

    Args:
        product: What the target made.
        target: The format.
        source: The module that was exported.
        inputs: What outputs are compared on.
        kept: Channels that stayed where dead ones were removed.
        left_out: Masked weights that the evaluation graph does not hold.
        evaluation: Examples with targets, to judge lossy formats on.
        reference: Of `inputs`, where it was computed before for another format.
        tolerance: What a lossy format may lose.

    Raises:
        ExportError: If a gate fails; the message has the numbers.
    """
    if target.reader == "onnx":
        _checker(product.model)
    layers = [layer for layer in source.mask if layer not in left_out]
    checked, kept_zeros = _mask(
        product.model, source, layers, kept or {}, exact=target.exact
    )
    if target.reader == "elsewhere":
        return Findings(
            checker=False, weights_checked=checked, kept_zeros=kept_zeros, parity=None
        )
    predict = _runner(product.content, target, source)
    if reference is None:  # first: its errors are the clearest
        reference = reference_of(source, inputs.batch)
    outputs = predict(inputs.batch)
    with mixing_told(source, inputs.batch, reference):
        if target.reader == "native":
            _arithmetic(outputs, product.model, inputs, reference)
        parity = _parity(outputs, reference, inputs, exact=target.exact)
    bitwise = folded = None
    if product.reference is not None:
        dense = product.reference.SerializeToString()
        # An .ort file was optimised to the extended level, and stays there.
        level: runtime.Level = "extended" if target.reader == "ort" else "all"
        session = runtime.open_session(dense, optimise=level)
        # First, as an unfolded weight also changes last bits: it is not prepacked.
        if target.reader == "onnx":
            folded = _folded(product.content, dense)
        bitwise = _bitwise(outputs, runtime.predict(session, inputs.batch))
    accuracy = drift = None
    if not target.exact:
        given = inputs if evaluation is None else evaluation
        made, exact = (
            (outputs, reference.outputs)
            if evaluation is None
            else (predict(given.batch), source.predict(given.batch))
        )
        measure, own = measure_for(source, given), own_metric(source, given)
        if measure.name == "accuracy" and (own is None or own.is_share):
            points = tolerance.accuracy_points
            accuracy = check_accuracy(measure, made, exact, given, points, own)
            drift = check_outputs(made, exact, given, reference.sizes)
        else:
            growth = tolerance.loss_percent
            drift = check_drift(
                source,
                made,
                exact,
                given,
                sizes=reference.sizes,
                loss_percent=growth,
            )
            if own is not None:
                drift = check_metric(source, own, made, exact, given, drift, tolerance)
    return Findings(
        checker=target.reader == "onnx",
        weights_checked=checked,
        kept_zeros=kept_zeros,
        parity=parity,
        bitwise=bitwise,
        folded=folded,
        accuracy=accuracy,
        drift=drift,
    )


def _runner(content: bytes, target: Target, source: Source) -> Predict:
    if target.reader == "native":
        return NativeModel(content).run
    if target.run is not None:
        return partial(target.run, content, parts=source.parts)
    session = runtime.open_session(content)

    def predict(batch: NDArray[Any]) -> Array:
        return runtime.predict(session, batch)

    return predict


def _arithmetic(
    outputs: Array, model: onnx.ModelProto, inputs: Inputs, wanted: Reference
) -> None:
    """The native runtime computes what onnxruntime does from the values it stores."""
    session = runtime.open_session(model.SerializeToString())
    expected = runtime.predict(session, inputs.batch)
    if outputs.shape != expected.shape or not np.isfinite(outputs).all():
        raise ExportError("the native runtime's outputs have another shape or no value")
    error = distance(outputs, expected, wanted.sizes)
    rounded = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    limit = _ROUNDED if rounded else wanted.limit
    if error > limit:
        raise ExportError(
            f"the native runtime differs from onnxruntime by {error:.2e} of the "
            f"largest output; {limit:.0e} is allowed"
        )


def _checker(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ExportError(f"onnx.checker refuses the model: {error}") from error


def _mask(
    model: onnx.ModelProto,
    source: Source,
    layers: Sequence[str],
    kept: Kept,
    *,
    exact: bool,
) -> tuple[int, int]:
    """Compares the zeros of masked weights: (weights compared, kept zeros)."""
    names = {}
    made = {output for node in model.graph.node for output in node.output}
    made |= {tensor.name for tensor in model.graph.initializer}
    shared = source.shared()
    for layer in layers:
        first = shared[layer]
        forms = (first, first + TRANSPOSED, *_quantised(first))
        found = [name for name in forms if name in made]
        if not found:
            raise ExportError(
                f"layer {layer}: its weight is not in the exported graph",
                remedy="Export with --format onnx, and report the model's operators.",
            )
        names[layer] = found[0]
    arrays = runtime.unpacked(model, list(names.values()))
    state = source.model.state_dict()
    kept_zeros = 0
    for layer, name in names.items():
        array = arrays[name].T if TRANSPOSED in name else arrays[name]
        keep, original = source.mask[layer], state[layer].numpy()
        for axis, positions in kept.get(shared[layer], ()):
            keep = np.take(keep, positions, axis=axis)
            original = np.take(original, positions, axis=axis)
        if array.shape != keep.shape:
            raise ExportError(
                f"layer {layer}: shape {array.shape} in the file, "
                f"{keep.shape} in the mask"
            )
        stray = int(np.count_nonzero(array[~keep]))
        if stray:
            raise ExportError(
                f"layer {layer}: {stray} weights off the mask are not zero"
            )
        lost = keep & (array == 0) & (original != 0)
        dead = ~array.reshape(array.shape[0], -1).any(axis=1)  # folded away: scale 0
        lost[dead] = False
        if exact and lost.any():
            raise ExportError(
                f"layer {layer}: {int(lost.sum())} kept weights became zero"
            )
        kept_zeros += int(np.count_nonzero(keep & (array == 0)))
    return len(names), kept_zeros


def _quantised(layer: str) -> tuple[str, str]:
    """Names that onnxruntime's quantiser gives to the int8 weight of a layer."""
    return f"{layer}_quantized", f"{layer}{TRANSPOSED}_quantized"


def _parity(
    outputs: Array, wanted: Reference, inputs: Inputs, *, exact: bool
) -> Parity:
    expected = wanted.outputs
    if outputs.shape != expected.shape:
        raise ExportError(
            f"outputs have shape {outputs.shape}, torch's {expected.shape}"
        )
    if not np.isfinite(outputs).all() or not np.isfinite(expected).all():
        raise ExportError("an output is not finite")
    error = wanted.error(outputs)
    limit = wanted.limit if exact else None
    if limit is not None and error > limit:
        own = "" if wanted.own is None else f", torch's own float32 by {wanted.own:.1e}"
        raise ExportError(
            f"outputs differ from torch by {error:.2e} of their largest value{own}; "
            f"{limit:.0e} is allowed ({len(inputs)} {inputs.origin})",
            remedy=_FIXED if error > _ROUNDING else None,
        )
    same = None
    if outputs.ndim > 1 and outputs.shape[1] > 1:
        same = float(np.mean(outputs.argmax(axis=1) == expected.argmax(axis=1)))
    return Parity(len(inputs), inputs.origin, error, limit, same, wanted.own)


def _bitwise(outputs: Array, expected: Array) -> bool:
    differ = int(np.count_nonzero(outputs.view(np.uint32) != expected.view(np.uint32)))
    if differ:
        worst = float(np.abs(outputs - expected).max())
        raise ExportError(
            f"{differ} of {outputs.size} outputs are not bitwise equal to the dense "
            f"model's in onnxruntime; largest difference {worst:.2e}"
        )
    return True


def _folded(content: bytes, dense: bytes) -> bool:
    ours, wanted = runtime.folded_operators(content), runtime.folded_operators(dense)
    if ours != wanted:
        extra = {k: n for k, n in ours.items() if wanted.get(k) != n}
        raise ExportError(
            f"onnxruntime did not fold the packed weights; left over: {extra}",
            remedy="Export with --format onnx: the packed file would be slow.",
        )
    return True
