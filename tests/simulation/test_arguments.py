"""Arguments of `coordinator.simulate` and `coordinator.Federation` that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import coordinator
from edge_sdk import Examples, Task
from edge_sdk.errors import BrokerError, DataError, EdgeError, SettingsError, StateError

FEW = Examples(np.zeros((6, 4), np.float32), np.arange(6) % 2)
DIGITS = Examples(np.zeros((4, 1, 8, 8), np.uint8), np.arange(4))
TASK = Task(
    name="two",
    model=lambda: nn.Linear(4, 2),
    loss=nn.functional.cross_entropy,
    input_shape=(4,),
)


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"workers": True}, SettingsError, "workers is True"),
        ({"folder": 5}, SettingsError, "folder is 5, which is no path"),
        ({"cache": 5}, SettingsError, "cache is 5, which is no path"),
        ({"cache": "a\0b"}, SettingsError, "cache is 'a"),
        ({"fleet": 5}, SettingsError, "fleet is one int, not a sequence"),
        ({"fleet": {"share": 1}}, SettingsError, "fleet is one dict"),
        ({"data": "mnist"}, DataError, "data is 'mnist', and devices hold examples"),
        ({"devices": {"a": FEW}}, DataError, "devices is one dict, not a sequence"),
        ({"devices": "abc"}, DataError, "devices is one str"),
        ({"algorithm": "nothing"}, SettingsError, "algorithm 'nothing' is none of"),
        ({"fleet": [{"share": 0.5}]}, SettingsError, "key fleet: the shares sum to"),
        ({"rounds": 0}, SettingsError, "key rounds: Expected"),
        ({"rouns": 3}, SettingsError, "`rouns`.*rounds"),
        ({"training": {"lr": 1}}, SettingsError, "key training: .*`lr`"),
        ({"training": 3}, SettingsError, "key training: Expected"),
    ],
)
def test_simulate_names_what_it_cannot_use(
    given: dict[str, Any], kind: type[EdgeError], says: str
) -> None:
    arguments: dict[str, Any] = {
        "devices": [FEW],
        "evaluation": FEW,
        "rounds": 1,
        "densities": (1.0,),
        **given,
    }
    with pytest.raises(kind, match=says) as caught:
        coordinator.simulate(TASK, **arguments)
    assert caught.value.help
    assert "the file that the message names" not in caught.value.help


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"folder": 5}, SettingsError, "folder is 5, which is no path"),
        ({"folder": "a\0b"}, SettingsError, "which is no path"),
        ({"task": 5}, SettingsError, "task is an int, not an edge_sdk.Task"),
        ({"task": len}, SettingsError, "task is a builtin_function_or_method, not"),
        ({"task": TASK}, DataError, "does not say how examples are read"),
        ({"algorithm": 5}, SettingsError, "algorithm is an int, not"),
        ({"algorithm": None}, SettingsError, "algorithm is None, not"),
        ({"algorithm": "nothing"}, SettingsError, "algorithm 'nothing' is none of"),
        ({"algorithm": coordinator.flash}, SettingsError, "what it returns: call it"),
        ({"densities": 0.1}, SettingsError, "key densities: .*`float`"),
        ({"densities": "x"}, SettingsError, "key densities: .*`str`"),
        ({"densities": None}, SettingsError, "key densities: .*`null`"),
        ({"densities": (0.1, "x")}, SettingsError, r"key densities\[1\]: "),
        ({"broker": "http://x"}, BrokerError, "must begin with mqtt://"),
        ({"broker": "mqtt://x:99999"}, BrokerError, "broker"),
    ],
)
def test_a_federation_names_what_it_cannot_use(
    given: dict[str, Any], kind: type[EdgeError], says: str, tmp_path: Path
) -> None:
    arguments = {
        "folder": tmp_path / "run",
        "task": "digits",
        "evaluation": DIGITS,
        **given,
    }
    with pytest.raises(kind, match=says) as caught:
        coordinator.Federation(arguments.pop("folder"), **arguments)
    assert caught.value.help
    assert "the file that the message names" not in caught.value.help
    assert not (tmp_path / "run" / "run.toml").exists()


def test_a_device_and_hours_that_cannot_be_are_named(tmp_path: Path) -> None:
    federation = coordinator.Federation(tmp_path, "digits", evaluation=DIGITS)
    for name in ("", "A", 5, None, "pi 1"):
        with pytest.raises(EdgeError, match="is no device's name") as caught:
            federation.join(name)  # type: ignore[arg-type]
        assert "such as pi-1" in caught.value.help
    for hours in (0, -1, float("nan"), float("inf"), "24", None):
        with pytest.raises(SettingsError, match="hours is"):
            federation.join("pi-1", hours=hours)  # type: ignore[arg-type]
    for rounds in ("x", 1.5, -1, 99):
        with pytest.raises(SettingsError, match="rounds is"):
            federation.wait(rounds)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="was started here"):
        federation.wait()
