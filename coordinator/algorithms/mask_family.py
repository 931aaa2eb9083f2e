"""`MaskFamily`: the nested masks of a run, one per density, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.sparse import Boxes, LayerShape, Mask, draw
from edge_sdk.wire.messages import Manifest, MaskRecipe
from edge_sdk.wire.rules import Member

__all__ = ["ANYONE", "Counts", "MaskFamily"]

Counts: TypeAlias = dict[float, dict[str, int]]  # density -> weight name -> kept
ANYONE = ""  # in `MaskFamily.own`: the mask of devices that have none of their own yet


@dataclass(frozen=True, eq=False)
class MaskFamily:
    """Nested masks, one per density.

    Attributes:
        layers: The maskable layers.
        masks: Density to mask, densest first; every other is nested in the first.
        seed: What they were drawn from; None for masks that were chosen weight by
            weight, whose structure has to travel.
        own: Device to the mask that it alone trains on, nested in the first; `ANYONE`
            to that of a device which is not in here yet.
        boxes: Density to the units that its mask keeps; absent where it keeps all.
    """

    layers: tuple[LayerShape, ...]
    masks: Mapping[float, Mask]
    seed: int | None
    own: Mapping[str, Mask] = field(default_factory=dict)
    boxes: Mapping[float, Boxes] = field(default_factory=dict)

    @classmethod
    def draw(
        cls,
        layers: Sequence[LayerShape],
        counts: Counts,
        seed: int,
        boxes: Mapping[float, Boxes] = MappingProxyType({}),
    ) -> MaskFamily:
        """The masks of these counts, in these boxes of units.

        Raises:
            SparsityError: If a count or a box does not fit its layer.
        """
        densities = sorted(counts, reverse=True)
        cut = {d: boxes[d] for d in densities if boxes.get(d)}
        masks = {d: draw(layers, counts[d], seed, cut.get(d, {})) for d in densities}
        return cls(tuple(layers), masks, seed, boxes=cut)

    @property
    def top(self) -> Mask:
        """The largest mask, which the global model stands on."""
        return next(iter(self.masks.values()))

    @property
    def counts(self) -> Counts:
        """Kept weights per density and layer."""
        return {d: dict(mask.counts) for d, mask in self.masks.items()}

    @classmethod
    def planned(
        cls, layers: Sequence[LayerShape], plan: Mapping[str, Any], seed: int
    ) -> MaskFamily:
        """The masks of what `plan` has written down.

        Args:
            layers: The maskable layers.
            plan: ``counts`` and, where masks cut units, ``boxes``, as JSON has them.
            seed: What they are drawn from.
        """
        counts = {float(d): dict(kept) for d, kept in plan["counts"].items()}
        boxes = {
            float(d): {name: (box[0], box[1]) for name, box in cut.items()}
            for d, cut in (plan.get("boxes") or {}).items()
        }
        return cls.draw(layers, counts, seed, boxes)

    def plan(self) -> dict[str, Any]:
        """Counts and boxes by density, as JSON has them; `planned` draws from them."""
        counts = {str(d): kept for d, kept in self.counts.items()}
        boxes = {str(d): dict(cut) for d, cut in self.boxes.items()}
        return {"counts": counts, "boxes": boxes} if boxes else {"counts": counts}

    def of(self, device: str, density: float) -> Mask:
        """Mask that a device of this density trains on."""
        mine = self.own.get(device) or self.own.get(ANYONE)
        return mine or self.masks[density]

    def drawn(self, mask: Mask) -> bool:
        """Return whether seed and counts give this mask: then no structure is sent.

        A mask that keeps everything is the same whatever the seed.
        """
        if mask.nnz == mask.numel:
            return True
        mine = any(mask is other for other in self.masks.values())
        return self.seed is not None and mine

    def recipe(self, mask: Mask, structure: Manifest | None = None) -> MaskRecipe:
        """Recipe from which a device makes one of the family's masks.

        Args:
            mask: One of the family's.
            structure: The blob that says where its weights are, unless it is drawn.
        """
        boxes: dict[str, tuple[int, int]] = {}
        if structure is None:
            at = (d for d, other in self.masks.items() if other is mask)
            boxes = dict(self.boxes.get(next(at, 0.0), {}))
        counts = dict(mask.counts)
        return MaskRecipe(self.seed or 0, counts, mask.digest, structure, boxes)

    def members(self, mask: Mask) -> tuple[Member, ...]:
        """The smaller masks of the family, densest first, as a device draws them.

        Args:
            mask: One of the family's; of masks that no seed gives there are none.
        """
        if self.seed is None or not any(mask is m for m in self.masks.values()):
            return ()
        return tuple(
            Member(dict(inner.counts), dict(self.boxes.get(density, {})))
            for density, inner in self.masks.items()
            if inner.nnz < mask.nnz
        )

    def idle(self, mask: Mask) -> dict[str, NDArray[np.bool_]]:
        """Dense entries of units that a mask cuts: entry -> True where a unit is cut.

        What a device returns there says nothing: no layer of its reads such a unit.

        Args:
            mask: One of the family's.
        """
        at = next((d for d, other in self.masks.items() if other is mask), None)
        boxes = self.boxes.get(at, {}) if at is not None else {}
        found: dict[str, NDArray[np.bool_]] = {}
        for layer in self.layers:
            sides = (layer.outputs, layer.inputs)
            kept = boxes.get(layer.name, layer.shape[:2])
            for units, whole, count in zip(sides, layer.shape, kept, strict=False):
                if units is not None and count < whole:
                    cut = np.arange(units.size) >= count * units.size // whole
                    found |= dict.fromkeys(units.entries, cut)
        return found
