"""torchvision beside a CPU torch, and a clear word where it is absent."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from patience import patience

from edge_sdk.datasets.torchvision_data import examples_of, load_torchvision
from edge_sdk.errors import DataError

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None,
    reason="torchvision is not installed (pip install 'flash-edge[vision]')",
)


@needs_torchvision
def test_models_transforms_and_datasets_work() -> None:
    torchvision = load_torchvision()
    model = torchvision.models.resnet18(num_classes=7).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    image = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
    for transforms in (torchvision.transforms, torchvision.transforms.v2):
        flipped = transforms.RandomHorizontalFlip(p=1.0)(image)
        assert torch.equal(flipped, image.flip(2))
    fake = torchvision.datasets.FakeData(size=2, image_size=(3, 8, 8))
    assert fake[0][0].size == (8, 8)


@needs_torchvision
def test_loading_twice_gives_the_same_module() -> None:
    assert load_torchvision() is load_torchvision()


@needs_torchvision
def test_it_loads_after_a_plain_import_has_failed_or_not() -> None:
    code = (
        "try:\n"
        "    import torchvision\n"
        "except RuntimeError as error:\n"
        "    print('plain import:', error)\n"
        "from edge_sdk.datasets.torchvision_data import load_torchvision\n"
        "print(load_torchvision().models.resnet18.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=patience(120),
        capture_output=True,
    )
    assert done.stdout.decode().splitlines()[-1] == "resnet18"


def test_without_torchvision_the_error_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "from edge_sdk.errors import DependencyError\n"
        "from edge_sdk.datasets.torchvision_data import load_torchvision\n"
        "sys.path[:] = []\n"
        "sys.path_importer_cache.clear()\n"
        "try:\n"
        "    load_torchvision()\n"
        "except DependencyError as error:\n"
        "    print(error.help)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=patience(60),
        capture_output=True,
    )
    assert b"pip install 'flash-edge[vision]'" in done.stdout


def test_gray_and_colour_data_sets_become_examples() -> None:
    gray = SimpleNamespace(
        data=torch.zeros(2, 5, 4, dtype=torch.uint8), targets=torch.tensor([3, 1])
    )
    assert examples_of(gray).inputs.shape == (2, 1, 5, 4)
    colour = SimpleNamespace(
        data=np.arange(120, dtype=np.uint8).reshape(2, 5, 4, 3), targets=[3, 1]
    )
    examples = examples_of(colour)
    assert examples.inputs.shape == (2, 3, 5, 4)
    assert examples.inputs[1, 2, 4, 3] == colour.data[1, 4, 3, 2]
    assert examples.targets.dtype == np.int64
    assert examples.targets.tolist() == [3, 1]


@pytest.mark.parametrize(
    "dataset",
    [
        pytest.param(object(), id="streamed"),
        pytest.param(SimpleNamespace(data=np.zeros(3), targets=[0] * 3), id="flat"),
    ],
)
def test_a_data_set_without_images_in_memory_is_refused(dataset: object) -> None:
    with pytest.raises(DataError):
        examples_of(dataset)
