"""A delivered bundle: unpacked, tried and made live; and which one is live."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edge_sdk.deploy.slots import install, look
from edge_sdk.deploy.target import DeployTarget
from edge_sdk.errors import EdgeError
from edge_sdk.infer.packed import unpack_bundle
from edge_sdk.wire.messages import Install

__all__ = ["Installed", "install_delivery", "live_bundle"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Installed:
    """A delivery has ended here; `why` it failed or was refused, or None."""

    order: Install
    why: str | None
    refused: bool = False


def install_delivery(
    order: Install,
    place: DeployTarget,
    content: bytes,
    own: Callable[[], Mapping[str, NDArray[Any]]],
) -> Installed:
    """Makes a delivered bundle live; raises nothing, whatever is in it.

    Args:
        order: Asks for it.
        place: Where models go.
        content: The packed bundle.
        own: Gives this device's own values, which go into a new model.
    """
    try:
        if place.test is not None and (why := place.test.impossible()):
            return Installed(order, why, refused=True)
        install(
            place.root,
            lambda folder: unpack_bundle(content, folder),
            name=f"delivery {order.no}",
            trusted=place.trusted or order.key,
            health=place.health,
            home=place.home,
            tag=str(order.no),
            own=own(),
            test=place.test,
        )
    except EdgeError as error:
        return Installed(order, str(error))
    except Exception as error:  # whatever a hostile bundle provokes
        log.exception("delivery %d failed", order.no)
        return Installed(order, f"{type(error).__name__}: {error}")
    return Installed(order, None)


def live_bundle(place: DeployTarget) -> tuple[bytes | None, str]:
    """Digest and name of the bundle that is live; None and why if none can be read."""
    try:
        slots = look(place.root)
    except EdgeError as error:
        return None, str(error)
    if slots.live not in slots.digests:
        return None, ""
    return bytes.fromhex(slots.digests[slots.live]), slots.tasks[slots.live]
