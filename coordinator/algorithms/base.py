"""An algorithm is a frozen value of nine slots; a round is what the slots say.

Eight are pure functions that the coordinator calls; what `local` gives for a round is a
small value that travels to the devices. A user's own algorithm is another such value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from coordinator.algorithms.evidence import (
    CandidateMasks,
    Evidence,
    LayerSensitivity,
    Saliency,
    Trained,
    WarmUpResult,
)
from coordinator.algorithms.mask_family import ANYONE, Counts, MaskFamily
from coordinator.algorithms.mean import (
    Contribution,
    Coverage,
    Model,
    State,
    coverage_mean,
)
from edge_sdk.sparse import LayerShape, Mask
from edge_sdk.wire.rules import Frozen, LocalRule

__all__ = [
    "ANYONE",
    "Aggregate",
    "Algorithm",
    "Counts",
    "MaskFamily",
    "Plan",
    "RoundContext",
    "always_frozen",
    "as_initialised",
    "keep_masks",
    "same_for_all",
    "the_devices_own",
]

# (layers, the run's densities, what the warm-up found or None, mask seed) -> masks
Plan: TypeAlias = Callable[
    [Sequence[LayerShape], Sequence[float], "WarmUpResult | None", int], "MaskFamily"
]
# (first masks, the seed's initial weights, what the warm-up found) -> first model
Start: TypeAlias = Callable[
    ["MaskFamily", Mapping[str, NDArray[Any]], "WarmUpResult | None"], Model
]
# (what each device affords, the family's densities) -> density per device
Assign: TypeAlias = Callable[[Mapping[str, float], Sequence[float]], dict[str, float]]
Local: TypeAlias = Callable[["RoundContext"], LocalRule]
Aggregate: TypeAlias = Callable[[Model, Iterable[Contribution]], tuple[Model, Coverage]]
# (this round's masks, the new model, how many devices held each of its weights, and
# the mask that each device's update stands on)
Revise: TypeAlias = Callable[
    ["MaskFamily", Model, Coverage, Mapping[str, Mask]], "MaskFamily"
]
# (the masks that `revise` has left, the new model, what the round's devices measured,
# the round) -> masks
Redraw: TypeAlias = Callable[
    ["MaskFamily", Model, "WarmUpResult", "RoundContext"], "MaskFamily"
]
InitState: TypeAlias = Callable[[Model], State]


@dataclass(frozen=True, slots=True)
class RoundContext:
    """Position of an order in its run.

    Attributes:
        round_no: 1, 2, ... of the rounds that give a model; one that was aborted is
            made up for.
        rounds: Rounds of the whole run.
        density: The run's largest density.
        members: Weaker networks of the family inside the device's own.
        drifted: Whether the devices' data have drifted by more than `on_drift` since
            masks were drawn; what `local` is told, and nobody else.
    """

    round_no: int
    rounds: int
    density: float
    members: int = 0
    drifted: bool = False


def as_initialised(
    family: MaskFamily,
    state: Mapping[str, NDArray[Any]],
    _findings: WarmUpResult | None,
) -> Model:
    """The seed's initial weights, kept on the top mask."""
    top = family.top
    masked = {name: state[name][top[name]] for name in top}
    return Model(top, masked, {n: a for n, a in state.items() if n not in top.layers})


def same_for_all(
    affordable: Mapping[str, float], densities: Sequence[float]
) -> dict[str, float]:
    """Every device trains the largest mask."""
    return dict.fromkeys(affordable, max(densities))


def the_devices_own(
    affordable: Mapping[str, float], densities: Sequence[float]
) -> dict[str, float]:
    """Each device trains the largest mask it affords (hetero-FLASH)."""
    return {
        device: max((d for d in densities if d <= own), default=min(densities))
        for device, own in affordable.items()
    }


def always_frozen(_moment: RoundContext) -> LocalRule:
    """Train with the mask frozen, in every round."""
    return Frozen()


def keep_masks(
    family: MaskFamily, _model: Model, _coverage: Coverage, _moved: Mapping[str, Mask]
) -> MaskFamily:
    """Frozen masks: the next round has the same."""
    return family


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm: a frozen value of nine slots and a name.

    With a plan alone it is FedAvg on one frozen mask.

    Attributes:
        name: Its name in settings and results.
        plan: First masks.
        evidence: What a warm-up has to return, or None for no warm-up.
        assign: Which density each device trains at.
        local: What a device does with its task.
        aggregate: How updates become the next model.
        revise: The masks of the next round.
        start: The weights on the first masks.
        init_state: What `aggregate` and `revise` remember from round to round, before
            the first; None for nothing. It gets the first model with those dense
            entries alone that training moves: no norm statistics, no buffers, nothing
            that the user has frozen. `aggregate` finds it as `state` of its base and
            gives it on as that of its model; `revise` sees it there.
        redraw: The masks after a round whose rule is `Measured`; None if there is none.
            Weights that both masks hold stay, others begin at 0.
        on_drift: The fleet's drift from which on `local` finds `drifted`; 0 for never.
    """

    name: str
    plan: Plan
    evidence: Evidence | None = None
    assign: Assign = same_for_all
    local: Local = always_frozen
    aggregate: Aggregate = coverage_mean
    revise: Revise = keep_masks
    start: Start = as_initialised
    init_state: InitState | None = None
    redraw: Redraw | None = None
    on_drift: float = 0.0

    @property
    def warms_up(self) -> bool:
        """True if devices have to do something before the first masks."""
        return isinstance(
            self.evidence, LayerSensitivity | Saliency | Trained | CandidateMasks
        )
