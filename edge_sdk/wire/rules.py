"""Local training rules; every order holds one of them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

__all__ = [
    "FROZEN",
    "CandidateLosses",
    "Controlled",
    "Frozen",
    "LocalRule",
    "Measured",
    "Member",
    "Nested",
    "OneStep",
    "Proximal",
    "Regrow",
    "Rewire",
    "Sandwich",
    "Score",
    "Spill",
    "Swat",
    "TopK",
    "WarmUp",
]


# Who takes what a full layer cannot regrow: the others by share, or each as much.
Spill: TypeAlias = Literal["by-share", "even"]


class Frozen(Struct, frozen=True, tag="frozen"):
    """Train with the mask frozen; return the change of the kept values."""


class WarmUp(Struct, frozen=True, tag="warm-up"):
    """FLASH stage 1: prune and regrow after each epoch; return counts per layer."""

    prune_rate: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    spill: Spill | UnsetType = UNSET  # by share where it is not said


class Score(Struct, frozen=True, tag="score"):
    """Train nothing; return |weight x gradient| of every weight (SalientGrads)."""

    batches: Annotated[int, Meta(ge=1)] = 1


class OneStep(Struct, frozen=True, tag="one-step"):
    """Frozen training of one minibatch: the change is the gradient times the rate."""


class Rewire(Struct, frozen=True, tag="rewire"):
    """Prune and regrow at random while training; return the change on the new mask."""

    prune_rate: Annotated[float, Meta(gt=0, lt=1)] = 0.25


class Regrow(Struct, frozen=True, tag="regrow"):
    """Train, then replace a share of each layer by gradient magnitude (FedDST)."""

    share: Annotated[float, Meta(ge=0, lt=1)]


class Swat(Struct, frozen=True, tag="swat"):
    """Train all weights; return the change of the largest (SWAT, as ZeroFL uses it).

    Forward, the largest weights take part, backward the largest activations: `density`
    is their share of each layer's weights and input. `sent` is the share returned.
    """

    density: Annotated[float, Meta(gt=0, le=1)]
    sent: Annotated[float, Meta(gt=0, le=1)]


class TopK(Struct, frozen=True, tag="top-k"):
    """Train under the mask; return the change of the largest weights (SparsyFed).

    Kept values are trained as this power of what SGD moves (`Training.power`).
    Backward, of each layer's input as large a share takes part as the mask keeps of its
    weights. `density` is how many are returned, the largest over all layers, as a share
    of all maskable weights.
    """

    density: Annotated[float, Meta(gt=0, le=1)]
    power: Annotated[float, Meta(gt=1, le=4)] = 1.25


class Proximal(Struct, frozen=True, tag="proximal"):
    """Frozen training, each gradient with a pull back to the base (FedProx).

    The loss has mu / 2 times the squared distance to the base added, over every
    parameter that training moves.
    """

    mu: Annotated[float, Meta(gt=0)]


class Member(Struct, frozen=True, omit_defaults=True):
    """A mask nested in the order's own, drawn from its seed: as in `MaskRecipe`."""

    counts: dict[str, Annotated[int, Meta(ge=0)]]
    boxes: dict[str, tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]] = {}


class Nested(Struct, frozen=True, tag="nested"):
    """Frozen training, a share of the batches on a smaller network inside the own.

    Such a batch takes one of `members` at random.
    """

    share: Annotated[float, Meta(gt=0, lt=1)]
    members: list[Member] = []


class Sandwich(Struct, frozen=True, tag="sandwich"):
    """Frozen training; each batch goes through the own network and all `members`.

    A value takes the gradient of the smallest network in which it is not zero: what the
    members hold learns as if there were no larger network, and the rest on top of it.
    In a model with batch norm it takes the sum of all networks' gradients.
    """

    members: list[Member] = []


class Controlled(Struct, frozen=True, tag="controlled", omit_defaults=True):
    """Frozen training whose gradients are corrected by control variates (SCAFFOLD).

    The base brings the coordinator's along, as dense entries named `.control.` and the
    entry's own name. `after` is the task whose update of this device was the last to
    count: what the device remembers since is what it remembered then.
    """

    after: Annotated[str, Meta(max_length=64)] = ""


class Measured(Struct, frozen=True, tag="measured", omit_defaults=True):
    """Frozen training; beside its change goes the gradient of weights it does not keep.

    Of every weight of some layers, at the base, the mean over `batches` minibatches: of
    the gradient, or of its square. The layers are cut into `blocks` runs in the model's
    order; `block` is the one looked at.
    """

    batches: Annotated[int, Meta(ge=1)] = 1
    squared: bool = False
    block: Annotated[int, Meta(ge=0)] = 0
    blocks: Annotated[int, Meta(ge=1)] = 1


class CandidateLosses(Struct, frozen=True, tag="candidate-losses", omit_defaults=True):
    """Train nothing; return the loss of each candidate mask of the base (FedTiny).

    Each keeps the base's largest weights at the counts that `candidate_counts` gives.
    Norm statistics are those of this device's examples under that mask.
    """

    count: Annotated[int, Meta(ge=1, le=64)]
    density: Annotated[float, Meta(gt=0, le=1)]
    spread: Annotated[float, Meta(ge=0, lt=1)]
    seed: Annotated[int, Meta(ge=0)]
    batches: Annotated[int, Meta(ge=1)] = 1


LocalRule: TypeAlias = (
    Frozen
    | WarmUp
    | Score
    | OneStep
    | Rewire
    | Regrow
    | Swat
    | TopK
    | Proximal
    | Nested
    | Sandwich
    | Controlled
    | Measured
    | CandidateLosses
)

# Rules that leave the mask as it is and return the change of every kept value.
FROZEN = (Frozen, OneStep, Proximal, Nested, Sandwich, Controlled, Measured)
