"""Losses of torch's that ask for values, restated without the question or by steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import torch
import torch.nn.functional as F  # noqa: N812

from edge_sdk.program.capture.restated.selected import MaskedSelection

__all__ = ["RESTATED"]

Lengths = torch.Tensor | Sequence[int]
_NEVER = -1e30  # instead of minus infinity: the logarithm of what cannot be
_REDUCED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda terms: terms,
}


def _gaussian(
    input: torch.Tensor,  # noqa: A002 - torch's name
    target: torch.Tensor,
    var: torch.Tensor | float,
    full: bool = False,  # noqa: FBT001, FBT002 - as torch has it
    eps: float = 1e-6,
    reduction: str = "mean",
) -> torch.Tensor:
    """The negative log-likelihood of a normal distribution.

    torch refuses a variance below zero; here it counts as `eps`, like one of zero. The
    gradient is that of the variance itself.
    """
    spread = torch.as_tensor(var)
    if spread.shape == input.shape[:-1] and spread.dim():
        spread = spread.unsqueeze(-1)
    spread = spread + (spread.clamp(min=eps) - spread).detach()
    terms = 0.5 * (torch.log(spread) + (input - target) ** 2 / spread)
    return _REDUCED[reduction](terms + 0.5 * math.log(2 * math.pi) if full else terms)


def _ctc(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,  # noqa: FBT001, FBT002 - as torch has it
) -> torch.Tensor:
    """The CTC loss, frame by frame: how likely all ways to each place are (logarithms).

    Places are an example's labels, with a blank before, between and behind them.
    """
    targets = _in_rows(targets, log_probs)
    if log_probs.dim() != 3 or targets.dim() != 2:  # torch's, which is refused
        of_inputs, of_targets = cast("Any", input_lengths), cast("Any", target_lengths)
        options = blank, reduction, zero_infinity
        return F.ctc_loss(log_probs, targets, of_inputs, of_targets, *options)
    kind, count, frames = log_probs.dtype, targets.shape[1], log_probs.shape[0]
    heard, barred = _heard(log_probs, targets, blank), _barred(targets, kind)
    ways = F.pad(heard[:, 0, :2], (0, 2 * count - 1), value=_NEVER)
    ends, sizes = _each(input_lengths), _each(target_lengths)
    for frame in range(1, frames):
        held = F.pad(ways, (2, 0), value=_NEVER)
        stay, step, skip = ways, held[:, 1:-1], held[:, :-2] + barred
        most = torch.maximum(torch.maximum(stay, step), skip).detach()
        further = torch.exp(stay - most) + torch.exp(step - most)
        further = most + torch.log(further + torch.exp(skip - most))
        ways = torch.where(ends > frame, further + heard[:, frame], ways)
    behind = torch.arange(2 * count + 1) - 2 * sizes
    last = ((behind == 0) | (behind == -1)).to(kind)  # the last blank, the last label
    ways = ways * last + (1 - last) * _NEVER
    most = ways.amax(1, keepdim=True).detach()
    terms = -(most + torch.log(torch.exp(ways - most).sum(1, keepdim=True))).squeeze(1)
    if zero_infinity:
        terms = torch.where(terms > -_NEVER / 2, torch.zeros_like(terms), terms)
    if reduction == "mean":
        terms = terms / sizes.clamp(min=1).flatten()
    return _REDUCED[reduction](terms)


def _in_rows(
    targets: torch.Tensor | MaskedSelection, log_probs: torch.Tensor
) -> torch.Tensor:
    """Targets as (batch, longest), of one row of those of all examples, too.

    A row of all labels of a table (`y.flatten()`) has as many for each example, as
    torch asks that lengths add up to it; of `y[mask]` each example's labels are moved
    to the front of its own row.
    """
    if isinstance(targets, MaskedSelection):
        return targets.moved_to_front()
    count = log_probs.shape[1] if log_probs.dim() == 3 else 0
    if targets.dim() == 1 and count and targets.shape[0] % count == 0:
        return targets.reshape(count, -1)
    return targets


def _heard(log_probs: torch.Tensor, targets: torch.Tensor, blank: int) -> torch.Tensor:
    """(batch, frames, places): the logarithm of each place's label in each frame."""
    classes = torch.arange(log_probs.shape[2])
    rows = (targets.unsqueeze(2) == classes).to(log_probs.dtype)
    blanks = rows * 0 + (classes == blank).to(log_probs.dtype)
    pairs = torch.stack([blanks, rows], 2).flatten(1, 2)
    rows = torch.cat([pairs, blanks[:, :1]], 1)
    return log_probs.transpose(0, 1) @ rows.transpose(1, 2)


def _barred(targets: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """(batch, places): 0 where the blank before a label may be left out."""
    apart = (targets[:, 1:] != targets[:, :-1]).to(kind)
    apart = F.pad(apart, (1, 0)).unsqueeze(2)
    free = F.pad(torch.cat([apart * 0, apart], 2).flatten(1), (0, 1))
    return (1 - free) * _NEVER


def _each(lengths: Lengths) -> torch.Tensor:
    """Lengths as a column; of one length for all a lone one."""
    if isinstance(lengths, torch.Tensor):
        return lengths.reshape(-1, 1)
    given = [int(n) for n in lengths]
    return torch.tensor(given[:1] if len(set(given)) == 1 else given).reshape(-1, 1)


RESTATED: Final[dict[Any, Callable[..., Any]]] = {
    F.gaussian_nll_loss: _gaussian,
    F.ctc_loss: _ctc,
}
