"""`Workload`: what one device's part of a round asks of it, whatever the board."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from device_profiles.errors import ProfileError

__all__ = ["LayerLoad", "NetworkPass", "Workload"]


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """One weight tensor.

    Attributes:
        name: Its key in the model's ``state_dict``.
        numel: Weights when dense.
        macs: Multiply-accumulates of one example's forward pass when dense.
        masked: False for a layer that stays dense whatever the density.
    """

    name: str
    numel: int
    macs: int
    masked: bool = True


@dataclass(frozen=True, slots=True)
class NetworkPass:
    """A batch's way through one network, forward and backward.

    Attributes:
        density: Kept share of the masked weights of that network.
        width: Share of each layer's units that it computes.
        times: How often a batch takes it: below 1 where only some batches do.
    """

    density: float
    width: float = 1.0
    times: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Local training in one round.

    Attributes:
        layers: Every convolution and linear weight, in the model's order.
        other_numel: Every other ``state_dict`` entry: biases, norms, buffers.
        activations: Elements that one example's operators put out, all together.
        input_bytes: One stored example.
        examples: Examples the device trains on.
        epochs: Passes over them in a round.
        batch: Examples per training step.
        operators: Operator calls of one forward and backward pass; 0 if not counted.
        traffic_bytes: What they read and write per example; 0 if not counted, and
            then estimated from `activations`.
        kernel_bytes: Of them, what convolutions and linear layers move.
        norm_bytes: Of them, what normalisations move.
        saved_bytes: Bytes per example kept for the backward pass; 0 alike.
        compares: Elements per example that max pooling looks at.
        max_steps: Most training steps of a round; 0 for whole epochs.
        batch_passes: Density of a device to the passes that its batches take, its own
            network's first; one pass of that density where it is not in here.

    Raises:
        ProfileError: A count that cannot be, or no masked layer.

    Example:
        >>> fc = LayerLoad("fc.weight", numel=1000, macs=1000)
        >>> load = Workload(layers=(fc,), other_numel=10, activations=20,
        ...                 input_bytes=100, examples=70, epochs=2, batch=32)
        >>> load.steps, load.kept(0.1), load.dense_numel
        (6, 100, 10)
    """

    layers: tuple[LayerLoad, ...]
    other_numel: int
    activations: int
    input_bytes: int
    examples: int
    epochs: int = 1
    batch: int = 32
    operators: int = 0
    traffic_bytes: int = 0
    kernel_bytes: int = 0
    norm_bytes: int = 0
    saved_bytes: int = 0
    compares: int = 0
    max_steps: int = 0
    batch_passes: Mapping[float, tuple[NetworkPass, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("activations", "examples", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise _wrong(name, "at least 1", getattr(self, name))
        counted = ("operators", "traffic_bytes", "kernel_bytes", "norm_bytes")
        for name in (
            *("other_numel", "input_bytes", "saved_bytes", "compares"),
            *counted,
            "max_steps",
        ):
            if getattr(self, name) < 0:
                raise _wrong(name, "at least 0", getattr(self, name))
        if not any(layer.masked for layer in self.layers):
            raise _wrong("layers", "at least one masked layer", "none")
        for layer in self.layers:
            if layer.numel < 1 or layer.macs < 1:
                raise _wrong(layer.name, "weights and multiplications", layer)

    @property
    def steps(self) -> int:
        """Training steps in a round."""
        whole = self.epochs * math.ceil(self.examples / self.batch)
        return min(whole, self.max_steps or whole)

    @property
    def masked_numel(self) -> int:
        """Weights that a mask acts on."""
        return sum(layer.numel for layer in self.layers if layer.masked)

    @property
    def masked_layers(self) -> tuple[LayerLoad, ...]:
        """The layers that a mask acts on."""
        return tuple(layer for layer in self.layers if layer.masked)

    @property
    def dense_numel(self) -> int:
        """Everything that travels dense: unmasked weights, biases, norms, buffers."""
        dense = sum(layer.numel for layer in self.layers if not layer.masked)
        return dense + self.other_numel

    def kept(self, density: float) -> int:
        """Masked weights kept at a density."""
        return round(density * self.masked_numel)

    def passes_at(self, density: float) -> tuple[NetworkPass, ...]:
        """Passes of a batch on a device of a density, its own network's first."""
        return self.batch_passes.get(density) or (NetworkPass(density),)

    def kept_units(self, width: float) -> tuple[float, ...]:
        """Share of each layer's weights between the units that a width leaves.

        Args:
            width: Share of the units; the model's input and output are never cut.
        """
        ends = {0, len(self.layers) - 1}
        return tuple(
            (width if at in ends else width**2) if layer.masked else 1.0
            for at, layer in enumerate(self.layers)
        )


def _wrong(key: str, expected: str, found: object) -> ProfileError:
    return ProfileError(
        file="workload",
        key=key,
        expected=f"expected {expected}, got {found}",
        remedy="Check the task's model, its examples, epochs and batch size.",
    )
