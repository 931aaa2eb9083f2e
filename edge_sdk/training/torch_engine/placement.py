"""`Placement`: where torch's engines compute. All that knows of another device is here.

Parameters, their gradients and the optimizer stay in the board's memory, where the
loop and its rules see them as numpy arrays; they are small, being kept values. A
forward pass sends them over in one copy, computes there, and brings the predictions
back; autograd sends the gradients back in one copy, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.func import functional_call

from edge_sdk.errors import EngineError

__all__ = ["Placement", "placement_of"]

HOST = torch.device("cpu")
MIB = 1 << 20
_JETSON = Path("/proc/device-tree/model")


@dataclass(frozen=True)
class Placement:
    """A device that computes, and how.

    Attributes:
        device: torch's.
        autocast: dtype in which matrix products are computed; None for float32.
    """

    device: torch.device
    autocast: torch.dtype | None = None

    def told(self) -> str:
        """The device in words, for reasons in the log."""
        more = "" if self.autocast is None else f", autocast to {self.autocast}"
        return f"{self._name()}{more}".replace("torch.", "")

    def predict(
        self,
        module: nn.Module,
        weights: Mapping[str, torch.Tensor],
        inputs: torch.Tensor,
    ) -> torch.Tensor:
        """Predictions, in the board's memory; gradients flow back to `weights`.

        Args:
            module: Called with these weights instead of its own.
            weights: By parameter name; on the device, as `sent` gives them.
            inputs: (N, ...), in the board's memory.
        """
        cuda, images = self.device.type == "cuda", inputs.dim() == 4
        batch = inputs.pin_memory() if cuda else inputs
        batch = batch.to(self.device, non_blocking=cuda)
        if images:
            batch = batch.contiguous(memory_format=torch.channels_last)
        wide = {n: _channels_last(w) if images else w for n, w in weights.items()}
        with self._buffers(module) as buffers, self._cast():
            out = functional_call(module, {**wide, **buffers}, (batch,))
        return cast("torch.Tensor", out).float().to(HOST)

    def sent(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors on the device; those of float32 go over in one copy."""
        joined = {n: t for n, t in tensors.items() if t.dtype == torch.float32}
        others = [n for n in tensors if n not in joined]
        found = {n: tensors[n].to(self.device, copy=True) for n in others}
        if joined:
            flat = torch.cat([t.reshape(-1) for t in joined.values()]).to(self.device)
            parts = torch.split(flat, [t.numel() for t in joined.values()])
            for (name, own), part in zip(joined.items(), parts, strict=True):
                found[name] = part.view(own.shape)
        return found

    def peak_mib(self) -> float:
        """Most memory of the device's own allocator so far; 0 without one."""
        if self.device.type != "cuda":
            return 0.0
        return torch.cuda.max_memory_reserved(self.device) / MIB

    def reset_peak(self) -> None:
        """Starts `peak_mib` anew, with nothing cached."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def shares_ram(self) -> bool:
        """Return whether the device's memory is the board's, as on every Jetson."""
        if self.device.type != "cuda":
            return True
        found = torch.cuda.get_device_properties(self.device)
        if getattr(found, "is_integrated", 0):
            return True
        try:
            return "jetson" in _JETSON.read_text(encoding="ascii").lower()
        except OSError:
            return False

    def _name(self) -> str:
        if self.device.type != "cuda":
            return str(self.device)
        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"

    def _cast(self) -> torch.autocast | nullcontext[None]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    @contextmanager
    def _buffers(self, module: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
        """The module's buffers on the device; a pass in training mode changes them.

        They all come back then: torch does not mark the norm statistics that it moved.
        """
        own = dict(module.named_buffers())
        there = self.sent(own)
        yield there
        if any(layer.training for layer in module.modules()):
            back = Placement(HOST).sent({n: t.detach() for n, t in there.items()})
            for name, tensor in own.items():
                tensor.detach().copy_(back[name])


def placement_of(wanted: str, *, autocast: bool = False) -> Placement | None:
    """The placement that the settings ask for.

    Args:
        wanted: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for a GPU where there is one.
        autocast: Compute matrix products in bfloat16.

    Returns:
        None for the processor: there is nothing to send then.

    Raises:
        EngineError: If there is no such GPU, or it cannot do bfloat16.
    """
    here = torch.cuda.is_available()
    if wanted == "cpu" or (wanted == "auto" and not here):
        return None
    device = torch.device("cuda" if wanted == "auto" else wanted)
    if not here or (device.index or 0) >= torch.cuda.device_count():
        raise EngineError(
            f'device = "{wanted}": torch {torch.__version__} finds '
            + (f"{torch.cuda.device_count()} GPUs" if here else "no GPU here"),
            remedy='Set device = "cpu"; or install a torch that is built for this GPU '
            "(on a Jetson NVIDIA's own wheel of its JetPack).",
        )
    if autocast and not torch.cuda.is_bf16_supported():
        raise EngineError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16",
            remedy="Set autocast = false: float32 trains there as on the processor.",
        )
    return Placement(device, torch.bfloat16 if autocast else None)


def _channels_last(weight: torch.Tensor) -> torch.Tensor:
    if weight.dim() != 4:
        return weight
    return weight.contiguous(memory_format=torch.channels_last)
