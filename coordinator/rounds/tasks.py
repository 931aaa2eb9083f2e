"""Tasks of a round's devices: pure functions from settings to orders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from msgspec import UNSET, structs

from coordinator.algorithms.base import Algorithm, Counts, RoundContext
from coordinator.algorithms.evidence import (
    CandidateMasks,
    LayerSensitivity,
    Saliency,
    Trained,
)
from coordinator.algorithms.mean import Model
from coordinator.algorithms.slots import named_slots
from coordinator.rounds.blobs import OrderBlobs
from coordinator.rounds.cohort import choose
from coordinator.settings import RunSettings
from edge_sdk.sparse import LayerShape, nested_counts, uniform
from edge_sdk.wire.blob import CHUNK_SIZE
from edge_sdk.wire.messages import BaseTest, TaskOrder, Training
from edge_sdk.wire.named import Holdout
from edge_sdk.wire.rules import (
    FROZEN,
    CandidateLosses,
    Controlled,
    Frozen,
    LocalRule,
    Nested,
    Regrow,
    Rewire,
    Sandwich,
    Score,
    Swat,
    TopK,
    WarmUp,
)

__all__ = [
    "held_out",
    "mask_seed",
    "measured_at",
    "order_for",
    "round_of",
    "task_id",
    "warm_up_cohort",
    "warm_up_counts",
]


def task_id(epoch: int, round_no: int, device: str, attempt: int = 0) -> str:
    """A single-use id: another epoch, round, device or attempt gives another."""
    again = f"\0{attempt}" if attempt else ""
    text = f"{epoch}\0{round_no}\0{device}{again}".encode()
    return f"{round_no}-{hashlib.sha256(text).hexdigest()[:16]}"


def mask_seed(seed: int, *, warm_up: bool) -> int:
    """The masks' seed: the warm-up draws other positions than training."""
    return 2 * seed + int(warm_up)


def warm_up_counts(layers: Sequence[LayerShape], densities: Sequence[float]) -> Counts:
    """The warm-up starts uniform at the top density (FLASH, stage 1)."""
    return nested_counts(uniform(layers), layers, [max(densities)])


def warm_up_cohort(
    seed: int, affordable: Mapping[str, float], count: int
) -> tuple[str, ...]:
    """Devices for the warm-up: it trains dense for many epochs, so the strongest."""
    ranked: list[str] = []
    for density in sorted(set(affordable.values()), reverse=True):
        able = [d for d, own in affordable.items() if own == density]
        ranked += choose(seed, 0, able, min(count - len(ranked), len(able)))
    return tuple(sorted(ranked))


def measured_at(
    densities: Mapping[str, float], base: Model, settings: RunSettings, place: int
) -> dict[str, float]:
    """Device to the density of the network whose statistics it measures.

    A device that trains at .2 holds the networks of .1 and .05 as well, and its
    examples say as much about their norm statistics as about its own's. So in rounds
    that move no weight it gets orders of smaller masks. With n rounds that recalibrate
    and k densities, the first measures each device's own network; the last one the
    smallest network on every device, the one before the next larger, on those that hold
    it, and so on for the last k - 1. Before these rounds every device has its own.

    Args:
        densities: Device to its own.
        base: Has statistics for each mask; each device stays at its own where not.
        settings: The run's.
        place: The round's among those that give a model.
    """
    largest_first = sorted(set(settings.densities), reverse=True)
    last = settings.training.recalibrate
    measuring = place - (settings.rounds - last)  # 1, 2, ..., last
    if not (last and base.norms) or measuring <= 1:
        return dict(densities)
    most = largest_first[max(len(largest_first) - 1 - (last - measuring), 0)]
    return {device: min(own, most) for device, own in densities.items()}


def held_out(settings: RunSettings) -> Holdout | None:
    """Choice of devices' test examples, as orders name it; None for none."""
    return Holdout(settings.holdout, settings.seed) if settings.holdout else None


def order_for(
    device: str,
    blobs: OrderBlobs,
    *,
    epoch: int,
    round_no: int,
    place: int,
    density: float,
    algorithm: Algorithm,
    settings: RunSettings,
    batch_size: int,
    ttl_s: float,
    codec: str = "fp32",
    steps: int = 0,
    attempt: int = 0,
    after: str = "",
    drifted: bool = False,
    test: BaseTest | None = None,
    chunk_size: int = CHUNK_SIZE,
    unasked: int = 0,
) -> TaskOrder:
    """One device's task of a round; round 0 is the warm-up.

    `place` is the round's among those that give a model, which rates and rules go by.
    `blobs` are what `publish_blobs` has published for the device.
    `steps` bounds the steps of a device that the round's pace cuts short; 0 does not.
    `after` is the last task of the device that counted, for rules and personal entries
    that go on from it.
    `attempt` counts how often the round was given up before: only a warm-up is.
    `drifted` says whether the fleet's data have since masks were drawn.
    `test` has the device test the base beside.
    `chunk_size` is the most bytes of a chunk of the update.
    `unasked` is the most bytes of an update that comes without being asked for.
    """
    training, warm_up = settings.training, settings.warm_up
    epochs, max_steps = training.epochs, steps or training.max_steps
    rate = training.rate_at(place, settings.rounds)
    rule: LocalRule
    match algorithm.evidence if round_no == 0 else None:
        case LayerSensitivity(own_epochs, prune_rate, spill):
            rule = WarmUp(prune_rate, UNSET if spill == "by-share" else spill)
            epochs, max_steps = warm_up.epochs or own_epochs, warm_up.max_steps
        case Trained(epochs=own_epochs, prune_rate=prune_rate):
            rule = Rewire(prune_rate=prune_rate)
            epochs, max_steps = warm_up.epochs or own_epochs, warm_up.max_steps
        case Saliency(batches):
            rule = Score(batches=batches)
            codec = "fp32"  # a coarser one would round small scores to nothing
        case CandidateMasks(count, spread, batches):
            seed = mask_seed(settings.seed, warm_up=False)  # as `plan` gets it
            largest = max(settings.densities)
            rule = CandidateLosses(count, largest, spread, seed, batches)
        case _:
            largest, inside = max(settings.densities), blobs.members
            over = settings.rounds or settings.training.horizon
            moment = RoundContext(place, over, largest, len(inside), drifted)
            rule = named_slots(algorithm).local(moment)
            if isinstance(rule, Controlled):
                rule = Controlled(after=after)
            if isinstance(rule, Nested | Sandwich):
                nested = structs.replace(rule, members=list(inside))
                rule = nested if inside else Frozen()
            if not rate:  # a round that recalibrates: the own network's statistics
                rule = Frozen()
    power = rule.power if isinstance(rule, TopK) else training.power
    powered = isinstance(rule, (TopK, *FROZEN)) and not isinstance(rule, Controlled)
    return TaskOrder(
        id=task_id(epoch, round_no, device, attempt),
        round_no=round_no,
        density=density,
        base=blobs.base,
        mask=blobs.mask,
        rule=rule,
        training=Training(
            epochs=epochs,
            batch_size=training.batch_size or batch_size,
            learning_rate=rate,
            momentum=training.momentum if round_no else 0.0,
            weight_decay=training.weight_decay,
            max_steps=max_steps,
            seed=_order_seed(settings.seed, round_no, device),
            power=power if powered and power != 1 else UNSET,
            clip=training.clip if training.clip and round_no else UNSET,
        ),
        ttl_ms=int(1000 * ttl_s),
        shard=0,  # devices of 0.1.0 ask for the field; one coordinator hears them all
        codec=codec,
        moves=isinstance(rule, Regrow | Rewire | Swat | TopK),
        program=blobs.program,
        parts=blobs.parts,
        after=after if blobs.parts else "",
        holdout=held_out(settings),
        test=test,
        chunk_size=chunk_size,
        unasked=0 if settings.privacy.secure_aggregation else unasked,
    )


def _order_seed(seed: int, round_no: int, device: str) -> int:
    text = f"{seed}\0{round_no}\0{device}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


def round_of(task_id: str) -> int:
    """Return the round that a task's id begins with; 0 if it is not one of ours."""
    head = task_id.partition("-")[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) < 10 else 0
