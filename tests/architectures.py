"""Pruned models of other packages, with random weights, for tests and benches."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from torch.nn.utils import prune

SIZE = 64  # pixels
# Small ones first: name to where it is from.
MODELS = {
    "squeezenet1_1": "torchvision",
    "mnasnet0_5": "torchvision",
    "shufflenet_v2_x0_5": "torchvision",
    "mobilenet_v2": "torchvision",
    "mobilenet_v3_small": "torchvision",
    "mobilenetv4_conv_small": "timm",
    "ghostnet_100": "timm",
    "vit_tiny_patch16_224": "timm",
    "efficientnet_b0": "torchvision",
    "regnet_x_400mf": "torchvision",
    "regnet_y_400mf": "torchvision",
    "levit_128s": "timm",
    "resnet18": "torchvision",
    "densenet121": "torchvision",
    "googlenet": "torchvision",
    "convnext_tiny": "torchvision",
    "deepspeech": "torchaudio",
    "conv_tasnet": "torchaudio",
    "yolov8n": "ultralytics",
    "swin_t": "torchvision",
}
_SHAPES = {"deepspeech": (1, 50, 40), "conv_tasnet": (1, 2000)}  # of no image
_AUDIO = {
    "deepspeech": ("DeepSpeech", {"n_feature": 40, "n_hidden": 128, "n_class": 40}),
    "conv_tasnet": ("ConvTasNet", {
        "enc_num_feats": 64, "msk_num_feats": 32, "msk_num_hidden_feats": 64,
        "msk_num_layers": 3, "msk_num_stacks": 2,
    }),
}  # fmt: skip
_SIZED = {"vit_tiny_patch16_224", "levit_128s"}  # made for one size of images


@cache
def torchvision() -> ModuleType:
    """torchvision's models, also where its library for CUDA does not load.

    It then only lacks operators of detection, whose names its modules look for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("torchvision.models")
        except RuntimeError:
            for name in ("nms", "qnms"):
                _OPERATORS.define(
                    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
            return importlib.import_module("torchvision.models")


_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


def shape_of(name: str) -> tuple[int, ...]:
    """Shape of one of a model's examples."""
    return _SHAPES.get(name, (3, SIZE, SIZE))


def of_torchaudio(name: str) -> nn.Module:
    """One of torchaudio's models, from its file: the package wants CUDA's libraries."""
    package = find_spec("torchaudio")
    if package is None or package.origin is None:
        raise ImportError("torchaudio is not installed")
    file = Path(package.origin).parent / "models" / f"{name}.py"
    spec = spec_from_file_location(f"architectures_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    kind, sizes = _AUDIO[name]
    made = getattr(module, kind)(**sizes)
    assert isinstance(made, nn.Module)
    return made


def of_ultralytics(name: str) -> nn.Module:
    """A detector of ultralytics, whose package needs torchvision."""
    torchvision()
    tasks = importlib.import_module("ultralytics.nn.tasks")
    made = tasks.DetectionModel(f"{name}.yaml", verbose=False)
    assert isinstance(made, nn.Module)
    return made


def pruned(model: nn.Module) -> nn.Module:
    """A tenth of each weight; norms that have seen data."""
    for module in model.modules():
        names: list[str] = []
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            names = ["weight"]
        elif isinstance(module, nn.RNNBase):
            names = [n for n, _ in module.named_parameters() if n.startswith("weight")]
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
        for name in names:
            prune.l1_unstructured(module, name, amount=0.9)
    return model.eval()


def made(name: str) -> nn.Module:
    """A pruned model by its name.

    Raises:
        ImportError: If its package is not installed, or made for another torch.
    """
    torch.manual_seed(0)
    package = MODELS.get(name)
    if package == "torchaudio":
        return pruned(of_torchaudio(name))
    if package == "ultralytics":
        return pruned(of_ultralytics(name))
    if package == "timm":
        size = {"img_size": SIZE} if name in _SIZED else {}
        return pruned(importlib.import_module("timm").create_model(name, **size))
    make = getattr(torchvision(), name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of googlenet's initial weights
        return pruned(make(weights=None))
