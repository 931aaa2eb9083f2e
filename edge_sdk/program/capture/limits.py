"""Limits of programs, told in words of ours instead of pages of torch's exporter."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any, Final

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _Orthogonal, _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from edge_sdk.errors import EngineError
from edge_sdk.program.capture.restated.packed import UnfollowedPackError
from edge_sdk.program.capture.restated.selected import UnfollowedSelectionError
from edge_sdk.program.capture.restated.values import UnrestatedError

__all__ = ["check_layers", "known_limit", "quiet_torch"]

_LOUD = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")
_CTC: Final = (
    "programs have no CTC loss of targets in one row",
    "Give the targets as (batch, longest), padded, with their lengths; until then the "
    "torch engine trains this model.",
)
_SELECTED: Final = (
    "Programs follow tensor[mask] to a mean, a sum or a loss; else multiply by the "
    "mask and divide by its sum. Until then the torch engine trains this model."
)
_PACKED: Final = (
    "Programs take packed sequences through GRU, LSTM and RNN, to pad_packed_sequence "
    "and their last hidden states; lengths are a tensor of the batch. For else, give "
    "the padded batch and read each last step by its length: "
    "y[torch.arange(len(y)), lengths - 1]; until then the torch engine trains this "
    "model."
)
_OTHER_FORM: Final = "Until then the torch engine trains this model."


def check_layers(model: nn.Module) -> None:
    """Refuses layers whose training is more than a pass and a gradient.

    Raises:
        EngineError: If one is spectral-normed or orthogonal, or holds complex numbers;
            names it.
    """
    for name, entry in model.state_dict().items():
        if entry.is_complex():
            raise EngineError(
                f"{name} is complex; the entries of a model are real numbers",
                remedy="Hold pairs of real numbers, and take torch.view_as_complex of "
                "them in forward; a constant table of complex numbers may also be a "
                "buffer with persistent=False.",
            )
    for path, module in model.named_modules():
        normed = _has_step(module, _SpectralNorm)
        if isinstance(module, _BatchNorm) and module.momentum is None:
            raise EngineError(
                f"layer {path or type(module).__name__}: statistics that weigh all "
                "batches alike (momentum=None) depend on how many there were",
                remedy="Give the norm a momentum, such as 0.1; until then the torch "
                "engine trains this model.",
            )
        if _has_step(module, _Orthogonal):
            raise EngineError(
                f"layer {path or type(module).__name__}: an orthogonal weight is made "
                "of its parameter by a decomposition, which programs have not",
                remedy="The torch engine trains this model; a program does with a "
                "plain layer that begins orthogonal (torch.nn.init.orthogonal_), and a "
                "loss that keeps weight @ weight.t() near the identity.",
            )
        hooks = module._forward_pre_hooks.values()  # noqa: SLF001 - torch's own way
        if normed or any(isinstance(hook, SpectralNorm) for hook in hooks):
            raise EngineError(
                f"layer {path or type(module).__name__}: spectral norm takes a step of "
                "its power iteration in each batch, which programs do not take",
                remedy="The torch engine trains this model; a program does once the "
                "norm is folded (torch.nn.utils.parametrize.remove_parametrizations, "
                "or remove_spectral_norm).",
            )


def _has_step(module: nn.Module, kind: type[nn.Module]) -> bool:
    steps: Any = getattr(module, "parametrizations", {})
    return parametrize.is_parametrized(module) and any(
        isinstance(step, kind) for own in steps.values() for step in own
    )


def known_limit(error: BaseException) -> tuple[str, str] | None:
    """The reason of an exporter's error and its remedy, where they are known."""
    if isinstance(error, UnfollowedSelectionError):
        return f"{error} of what a mask selects", _SELECTED
    if "ctc_loss" in str(error):
        return _CTC
    if isinstance(error, UnfollowedPackError):
        return f"{error} of a packed sequence", _PACKED
    if isinstance(error, UnrestatedError):
        return str(error), _OTHER_FORM
    return None


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep torch's own pages about a failed export out of log and terminal."""
    loud = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)
