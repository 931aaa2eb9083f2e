"""Report of an export and of its measurements, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edge_sdk.json_text import to_json

__all__ = ["Accuracy", "Findings", "OutputDrift", "Parity", "Report"]


@dataclass(frozen=True)
class Parity:
    """Distance of the outputs from torch's.

    Attributes:
        examples: Number of inputs compared.
        inputs: Where they come from, in words.
        max_relative: max |difference| / max |torch output|, of the output where it is
            largest; torch computes in float64.
        limit: What the gate allowed; None for a lossy format, which has other gates.
        same_top1: Share of places with the same largest output along axis 1; None where
            an output has one value, or none that compete.
        torch_error: The same of torch's own float32 outputs; None where these are what
            was compared with, as a module's rounding decides or it has no float64.
    """

    examples: int
    inputs: str
    max_relative: float
    limit: float | None
    same_top1: float | None
    torch_error: float | None = None


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a lossy format beside the exact model's.

    Attributes:
        examples: Number of evaluation examples.
        exact: Share correct before, in [0, 1].
        exported: Share correct after.
        limit_points: Allowed loss, in percentage points.
        same_answers: Share of answers that are the same before and after.
        measure: What is counted, as evaluation calls it.
    """

    examples: int
    exact: float
    exported: float
    limit_points: float
    same_answers: float = 1.0
    measure: str = "accuracy"

    @property
    def lost_points(self) -> float:
        """Percentage points lost; negative when it gained."""
        return 100.0 * (self.exact - self.exported)


@dataclass(frozen=True)
class OutputDrift:
    """Distance of a lossy format's outputs from the exact model's.

    Attributes:
        examples: Number of inputs compared.
        output_error: Root of the mean squared difference over the deviation of the
            exact outputs.
        limit: What of it was allowed.
        loss_exact: The task's loss before; None without a task's examples.
        loss_exported: After.
        loss_limit_percent: By how much it might grow.
        metric: Name of the task's primary metric; empty without one.
        metric_exact: Its value before; None without one.
        metric_made: After.
    """

    examples: int
    output_error: float
    limit: float
    loss_exact: float | None
    loss_exported: float | None
    loss_limit_percent: float
    metric: str = ""
    metric_exact: float | None = None
    metric_made: float | None = None

    @property
    def loss_growth_percent(self) -> float:
        """By how much the loss grew; infinite from 0, or where it is no number."""
        before, after = self.loss_exact, self.loss_exported
        if before is None or after is None or after <= before:
            return 0.0
        return 100.0 * (after - before) / abs(before) if before else float("inf")


@dataclass(frozen=True)
class Findings:
    """Results of the gates; every one of them passed.

    Attributes:
        checker: Whether ``onnx.checker`` ran in full (it cannot read other formats).
        weights_checked: Masked weights whose zeros were compared with the mask.
        kept_zeros: Kept weights that are 0 in the file: they were 0, or rounded to it.
        parity: Outputs against torch; None where nothing here runs the format.
        bitwise: Equal, bit for bit, in onnxruntime to the dense form of the module's
            values; None if there is none, as of a file verified without the examples
            that it was calibrated on.
        folded: Same operators as the dense form after optimisation; None if not ONNX.
        accuracy: For lossy formats with evaluation examples, where outputs are answers.
        drift: For lossy formats: how far their outputs are from the exact ones.
    """

    checker: bool
    weights_checked: int
    kept_zeros: int
    parity: Parity | None
    bitwise: bool | None = None
    folded: bool | None = None
    accuracy: Accuracy | None = None
    drift: OutputDrift | None = None

    @property
    def gates(self) -> dict[str, str]:
        """The gates that ran, each with its figure in words; all of them passed."""
        found = {"mask": f"{self.weights_checked} weights have its zeros"}
        if self.checker:
            found["onnx.checker"] = "full check"
        if self.parity is not None:
            p = self.parity
            found["parity"] = f"{p.max_relative:.1e} on {p.examples} {p.inputs}"
        if self.bitwise:
            found["bitwise"] = "equal to the dense model"
        if self.folded:
            found["folding"] = "the dense graph's operators"
        if self.accuracy is not None:
            lost = f"{self.accuracy.lost_points:+.2f} points lost"
            found[self.accuracy.measure] = lost
        if self.drift is not None:
            found["drift"] = f"{self.drift.output_error:.2g} of what outputs vary by"
        return found


@dataclass(frozen=True)
class Report:
    """One exported file.

    Attributes:
        format: Name of the format, such as ``onnx-sparse``.
        file: Path written, or "" when the bytes were only checked.
        file_bytes: Its size.
        dense_bytes: Size of the same model as dense fp32 ONNX.
        sha256: Of the file.
        task: Task or model name.
        round_no: Round of the checkpoint.
        batch: "1" or "dynamic".
        input_shape: One example, without the batch axis.
        labels: Class names.
        density: Kept over maskable weights.
        mac_density: Kept over all multiply-accumulates: the ceiling of any speed-up.
        macs: Multiply-accumulates of one example when dense.
        mask_digest: Hex SHA-256 of the mask.
        findings: What the gates found.
        notes: What passes and packing did, in words.
        versions: Package to version.
        left_out: Masked weight to the reason why the file does not hold it.
        inputs: Of a model of several, and of formats of other runtimes: name, shape of
            one example and dtype of each, in order.
        outputs: Of several or named ones, and of such formats: name and shape of each.
    """

    format: str
    file: str
    file_bytes: int
    dense_bytes: int
    sha256: str
    task: str
    round_no: int
    batch: str
    input_shape: tuple[int, ...]
    labels: tuple[str, ...]
    density: float
    mac_density: float
    macs: int
    mask_digest: str
    findings: Findings
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Mapping[str, Any], ...] = ()
    outputs: tuple[Mapping[str, Any], ...] = ()

    @property
    def size_ratio(self) -> float:
        """Size of dense fp32 ONNX over this file's."""
        return self.dense_bytes / self.file_bytes if self.file_bytes else 0.0

    def to_json(self) -> str:
        """The report as indented JSON, keys sorted, ratios included."""
        values = asdict(self)
        values["size_ratio"] = round(self.size_ratio, 3)
        if self.findings.accuracy is not None:
            lost = round(self.findings.accuracy.lost_points, 4)
            values["findings"]["accuracy"]["lost_points"] = lost
        return to_json(values, indent=2, sort_keys=True)

    def lines(self) -> list[str]:
        """The report for a person: a few lines."""
        found = self.findings
        parity = found.parity
        lines = [
            f"{self.format}: {self.file or self.task} "
            f"({self.file_bytes:,} bytes, {self.size_ratio:.1f}x smaller than dense)",
            f"density {self.density:.4g}, MAC density {self.mac_density:.4g}, "
            f"mask {self.mask_digest[:12]}, {found.weights_checked} masked weights "
            "have exactly its zeros",
            *(f"{name} is left out: {why}" for name, why in self.left_out.items()),
            *_places("inputs", self.inputs),
            *_places("outputs", self.outputs),
        ]
        lines.append(
            "outputs were not compared: nothing on this machine runs the format"
            if parity is None
            else f"parity with torch {parity.max_relative:.1e} on {parity.examples} "
            f"{parity.inputs}"
        )
        if found.bitwise:
            lines.append("bitwise equal to the dense model in onnxruntime")
        if found.folded:
            lines.append("onnxruntime runs the dense graph's operators (folded)")
        if found.accuracy is not None:
            a = found.accuracy
            lines.append(
                f"{a.measure} {a.exported:.4f}, exact {a.exact:.4f} "
                f"({a.lost_points:+.2f} points lost of {a.limit_points} allowed), "
                f"{100 * a.same_answers:.1f} % of answers the same"
            )
        if found.drift is not None:
            lines.append(_drift_line(found.drift))
        return lines


def _places(word: str, parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line of what a file takes or gives for one example."""
    if not parts:
        return []
    each = (
        f"{part['name']} ({', '.join(map(str, part['shape']))})"
        + (f" {part['dtype']}" if "dtype" in part else "")
        for part in parts
    )
    return [f"{word}: {'; '.join(each)}"]


def _drift_line(drift: OutputDrift) -> str:
    own = ""
    if drift.metric_exact is not None:
        own = (
            f", {drift.metric} {drift.metric_made:.4g}, exact {drift.metric_exact:.4g}"
        )
    text = (
        f"outputs differ by {drift.output_error:.2g} of what they vary by "
        f"({drift.limit} allowed){own}"
    )
    if drift.loss_exact is None or drift.loss_exported is None:
        return text
    return (
        f"{text}, loss {drift.loss_exported:.4g}, exact {drift.loss_exact:.4g} "
        f"({drift.loss_growth_percent:+.1f} % of "
        f"{drift.loss_limit_percent:g} % allowed)"
    )
