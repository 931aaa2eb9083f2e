"""Mask from its recipe, made alike on either side of the wire."""

from __future__ import annotations

from edge_sdk.errors import MaskMismatchError
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.wire.messages import MaskRecipe

__all__ = ["mask_of"]


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
