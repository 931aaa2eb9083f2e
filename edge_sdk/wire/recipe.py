"""Mask from its recipe, made alike on either side of the wire."""

from __future__ import annotations

from edge_sdk.errors import MaskMismatchError
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.wire.messages import MaskRecipe

__all__ = ["mask_of", "named_layers"]


def named_layers(
    recipe: MaskRecipe, layers: tuple[LayerShape, ...]
) -> tuple[LayerShape, ...]:
    """The maskable layers that a recipe counts; the run leaves the others dense.

    A run that an older version started masks fewer kinds of layers than this one can.

    Raises:
        MaskMismatchError: If the recipe names a layer that is not among them.
    """
    unknown = sorted(recipe.counts.keys() - {layer.name for layer in layers})
    if unknown:
        raise MaskMismatchError(
            f"the coordinator masks {', '.join(unknown[:3])}, which is no maskable "
            "layer of the model here",
            remedy="Use the same task file, and a flash-edge as new as the "
            "coordinator's, on the device.",
        )
    return tuple(layer for layer in layers if layer.name in recipe.counts)


def mask_of(recipe: MaskRecipe, layers: tuple[LayerShape, ...]) -> Mask:
    """The mask that a recipe without a structure describes.

    Raises:
        MaskMismatchError: If what is drawn here has another digest: the two sides run
            different models or versions.
        SparsityError: If a count or a box does not fit its layer.
    """
    mask = draw(layers, recipe.counts, recipe.seed, recipe.boxes)
    if mask.digest != recipe.digest:
        raise MaskMismatchError(
            f"the mask drawn here is {mask.digest.hex()[:12]}, "
            f"the coordinator's is {recipe.digest.hex()[:12]}",
            remedy="Use the same task file on coordinator and device.",
        )
    return mask
