"""Settings of secure aggregation: what does not go with it is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import coordinator
from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.privacy import PrivacySettings, with_privacy
from coordinator.settings import load_run
from edge_sdk.errors import SettingsError

GOOD = """
federation = "demo"
task = "digits"
evaluation = "eval"
densities = [0.1]
rounds = 40
cohort = 10
algorithm = "equal-counts"
[privacy]
secure_aggregation = true
"""


def load(folder: Path, text: str) -> Any:
    path = folder / "run.toml"
    path.write_text(text)
    return load_run(path)


@pytest.mark.parametrize(
    "algorithm", ["equal-counts", "fedavg", "fedprox", "fedadam", "fedavgm", "fjord"]
)
def test_algorithms_of_frozen_masks_and_a_mean_are_taken(
    tmp_path: Path, algorithm: str
) -> None:
    run = load(tmp_path, GOOD.replace("equal-counts", algorithm))
    assert run.privacy.secure_aggregation
    assert run.bounds.clip == run.bounds.weight == run.bounds.influence == 0


@pytest.mark.parametrize("algorithm", ["heterofl", "pdst-released"])
def test_several_densities_whose_masks_share_no_values_are_refused_at_once(
    tmp_path: Path, algorithm: str
) -> None:
    several = GOOD.replace("[0.1]", "[0.1, 0.4]")
    with pytest.raises(SettingsError, match="key densities: ") as caught:
        load(tmp_path, several.replace("equal-counts", algorithm))
    assert algorithm in str(caught.value)
    assert "Set one density" in str(caught.value.help)
    assert load(tmp_path, GOOD.replace("equal-counts", algorithm))
    units = "flash-edge(epochs=0)", "fjord"
    for drawn in ("equal-counts", "erk", "pdst", "fedprox", *units):
        assert load(tmp_path, several.replace("equal-counts", drawn))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("equal-counts", "flash", ["warm-up of flash", "epochs=0"]),
        ("equal-counts", "salientgrads", ["warm-up of salientgrads"]),
        ("equal-counts", "scaffold", ["scaffold needs single updates"]),
        ("equal-counts", "zerofl", ["zerofl needs single updates"]),
        ("equal-counts", "nst", ["nst"]),
        ("equal-counts", "feddst", ["feddst"]),
        ("rounds = 40", 'rounds = 40\naggregate = "trimmed-mean"', ["trimmed-mean"]),
        ("rounds = 40", "rounds = 40\nholdout = 0.2", ["key holdout", "one by one"]),
        ("cohort = 10", "cohort = 2", ["2 updates are fewer than the 3"]),
        ("cohort = 10", "wait_for = 2", ["key wait_for", "3 or more"]),
        ("cohort = 10", "cohort = 600", ["ring_bits = 32"]),
        (
            "= true",
            "= true\nnoise_multiplier = 4e3\nclip = 90.0",
            ["too few for the noise of 10 devices", "ring_bits = 32"],
        ),
        ("= true", "= true\nepsilon = 1.0", ["key privacy.epsilon", "needs noise"]),
        (
            "= true",
            "= true\nnoise_multiplier = 1.0\nepsilon = 1.0",
            ["40 rounds come to"],
        ),
        ("= true", "= true\nmin_devices = 1", ["min_devices"]),
        ("= true", "= true\nclipping_range = 0.0", ["clipping_range"]),
        ("= true", "= true\nring_bits = 8", ["ring_bits"]),
        ("= true", "= true\nnum_shares = 2", ["num_shares", "3 or more"]),
    ],
)
def test_what_needs_single_updates_is_refused_by_name(
    tmp_path: Path, old: str, new: str, said: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    text = f"{caught.value} {caught.value.help}"
    assert all(part in text for part in said), text


def test_noise_of_devices_needs_a_cohort_that_is_known_before(tmp_path: Path) -> None:
    noisy = GOOD + "noise_multiplier = 1.0\n"
    run = load(tmp_path, noisy)
    assert (run.privacy.noise, run.privacy.distributed) == ("distributed", True)
    with pytest.raises(SettingsError, match=r"key cohort: .* known before"):
        load(tmp_path, noisy.replace("cohort = 10", "wait_for = 5"))


def test_a_simulation_says_that_it_hides_nothing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="a simulation has all devices in one"):
        coordinator.simulate(
            "digits",
            devices=4,
            densities=[0.1],
            rounds=1,
            algorithm="equal-counts",
            privacy={"secure_aggregation": True},
        )


def test_norm_statistics_are_refused_by_the_name_of_their_layer(tmp_path: Path) -> None:
    run = load(tmp_path, GOOD)
    with pytest.raises(SettingsError, match="layer net\\.1 of the model keeps"):
        with_privacy(ALGORITHMS["fedavg"], run, ["net.1.running_var"], bytes)
    own = msgspec.structs.replace(run.privacy, secure_aggregation=False)
    assert own == PrivacySettings()
