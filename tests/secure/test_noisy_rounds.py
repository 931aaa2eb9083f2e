"""Rounds whose devices draw noise: real agents, and the budget of what sums tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace
from secure_house import SecureHouse
from secure_messages import check

from coordinator.algorithms.privacy import (
    SPENT,
    PrivacySettings,
    check_budget,
    epsilon_of,
    keep_noise,
    keep_sum_noise,
    spent_epsilon,
)
from coordinator.checkpoints.models import model_name
from coordinator.operations.prove import prove
from coordinator.operations.verify import verify
from coordinator.server.secure.sums import kept_sum
from coordinator.views.ledger_view import read_run
from coordinator.views.report.document import _glance
from coordinator.views.terminal.status import summary
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.errors import RunError, SettingsError
from edge_sdk.secure.discrete_gaussian import own_noise
from edge_sdk.wire.messages import Message, TaskOrder
from edge_sdk.wire.secure.fixed_point import centred, unpack_ring
from edge_sdk.wire.secure.messages import SecureKeys, SecureUnmask
from edge_sdk.wire.values import pack_values, unpack_values

Make = Callable[..., SecureHouse]
NOISE = 4.0  # times a small clip: larger noise spoils a model now and then


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Make]:
    made: list[SecureHouse] = []

    def make(devices: int, *, epsilon: float = 0.0, **changes: Any) -> SecureHouse:
        privacy = PrivacySettings(
            secure_aggregation=True, noise_multiplier=NOISE, clip=0.05, epsilon=epsilon
        )
        plain = {"privacy": privacy, "cohort": devices, "round_budget_s": 60.0}
        folder = tmp_path / f"house-{len(made)}"
        here = SecureHouse(folder, devices, **{**plain, **changes})
        keep_noise(here.coordinator.ledger, NOISE, distributed=True)  # as `serve` does
        made.append(here)
        return here

    yield make
    for one in made:
        one.close()


def phases(here: SecureHouse) -> list[tuple[str, str]]:
    return [(r.phase.value, r.note) for r in here.coordinator.ledger.rounds()]


def noisy_sum(here: SecureHouse, no: int) -> tuple[Any, Any]:
    """The sum of a round's survivors with their noise, and the one that was kept."""
    ledger = here.coordinator.ledger
    rows = ledger.frozen(no)
    orders = {t.device: t.order(ledger.folder) for t in ledger.tasks(no)}
    base, family = here.coordinator.server._global_model.base_of(no)
    sent = pack_values(base.sent(family.top), family.top)
    total: Any = 0
    for row in rows:
        order = orders[row.device]
        how = order.secure
        plain = here.devices[row.device].result(order, sent)
        vector = unpack_ring(plain.payload, family.top.digest, how.bits, how.sizes[0])
        state = here.devices[row.device].agent._session_effects.secure._of(order.id)
        noise = own_noise(state.noise, how.id, how.sizes[0], how.noise.part)
        total = total + centred(vector) + noise
    mean = total * (how.clip / how.steps) / how.noise.cohort
    ((_, blob, _),) = kept_sum(ledger, no)
    values = unpack_values(ledger.blob(blob), family.top)
    flat = [values.masked[name] for name in family.top]
    flat += [values.dense[n].reshape(-1) for n in sorted(values.dense)]
    return mean.astype(np.float32), np.concatenate(flat)


def test_a_run_trains_on_noisy_sums_and_says_what_they_tell(house: Make) -> None:
    here = house(5, rounds=2)
    here.run(3000)
    ledger = here.coordinator.ledger
    assert phases(here) == [("done", "")] * 2
    wanted, kept = noisy_sum(here, 2)
    assert kept.tobytes() == wanted.tobytes()
    how = ledger.tasks(2)[0].order(ledger.folder).secure
    assert (how.noise.survivors, how.noise.cohort, how.most_examples) == (3, 5, 1)
    # All five survived where three are counted on: it tells less than was promised.
    told = ledger.get(SPENT)
    assert told["noise"] == "distributed"
    better = epsilon_of(NOISE * (5 / 3) ** 0.5, 2, 1e-5)
    assert told["epsilon"] == pytest.approx(better, rel=1e-3)
    assert told["epsilon"] < epsilon_of(NOISE, 2, 1e-5)
    # Page and commands, report, and the model that is exported.
    view = read_run(here.coordinator.server._settings, ledger)
    assert view.as_json()["privacy"] == told == summary(here.run_folder)["privacy"]
    words = "distributed noise, delta 1e-05"
    assert ("epsilon", f"{told['epsilon']:.3g}", words) in _glance(view)
    (deployed,) = here.coordinator.server._global_model.deploy(2, {}).values()
    assert json.loads(load_checkpoint(deployed).privacy) == told
    # Its sums are read again from masked updates, the noise in them.
    proof = here.folder / "proof.zip"
    prove(here.run_folder, proof)
    found = verify(proof)
    assert (found.found, found.rounds) == ((), 2)
    assert any("models were made again, bit for bit" in note for note in found.notes)


def test_a_device_killed_between_drawing_and_sending_sends_one_noise(
    house: Make,
) -> None:
    """`check` compares all chunks that a device has sent for one order."""
    here = house(4, rounds=1)
    device = here.devices["pi-1"]
    own = device.agent._session_effects.secure
    masked, drawn = own.masked, []

    def killed(order: TaskOrder, update: Any) -> Any:
        found = masked(order, update)
        if found is not None and not drawn:
            drawn.append(found.payload)
            device.kill()  # it is masked, and nobody has it yet
            return None
        return found

    own.masked = killed

    def go_on() -> bool:
        if device.agent is None:
            device.start()
        return here.coordinator.done

    here.until(go_on, 5000)
    assert drawn
    assert phases(here) == [("done", "")]
    wanted, kept = noisy_sum(here, 1)
    assert kept.tobytes() == wanted.tobytes()
    assert check(here.recorded.said) == {"seed": 4, "key": 0}
    rows = {row.device: row for row in here.coordinator.ledger.frozen(1)}
    assert here.coordinator.ledger.blob(rows["pi-1"].blob) == drawn[0]


def test_a_sum_of_fewer_than_its_noise_is_sized_for_is_not_opened(house: Make) -> None:
    """Of six, four have to be in it, though the settings ask for two."""
    own = PrivacySettings(
        secure_aggregation=True, noise_multiplier=NOISE, clip=0.05, min_devices=2
    )
    here = house(6, rounds=1, privacy=own)
    state = None

    def frozen() -> bool:
        nonlocal state
        secure = here.coordinator.server._controller._secure
        state = secure._state if secure._state.levels else state
        return state is not None

    here.until(frozen, 3000)
    assert state is not None
    assert state.too_few(["pi-0", "pi-1", "pi-2", "pi-3"]) == ""
    why = state.too_few(["pi-0", "pi-1", "pi-2"])
    assert "3 masked updates arrived; a sum is of at least 4 devices" in why
    assert "their noise is sized for so many" in why
    for name in ("pi-1", "pi-2", "pi-3"):
        here.devices[name].kill()
    here.until(lambda: phases(here)[0][0] == "aborted", 5000)
    assert not any(isinstance(m, SecureUnmask) for _, _, m in here.recorded.said)
    assert check(here.recorded.said) == {"seed": 0, "key": 0}
    assert here.coordinator.ledger.get("noise_of_sums") is None  # nothing was told


def test_a_device_whose_build_draws_no_noise_is_refused_by_name(house: Make) -> None:
    here = house(5, rounds=1)
    own = here.devices["pi-1"].agent._session_effects.secure
    say = own._say

    def older(message: Message) -> None:
        if isinstance(message, SecureKeys):
            message = replace(message, noise=UNSET)
        say(message)

    own._say = older
    here.run(3000)
    rows = here.coordinator.ledger._db.execute("SELECT device, why FROM refusals")
    found = {row["device"]: row["why"] for row in rows}
    assert list(found) == ["pi-1"]
    assert "draws no noise" in found["pi-1"]
    assert "update it" in found["pi-1"]
    assert phases(here) == [("done", "")]


def test_a_sum_that_was_read_counts_though_it_gave_no_model(house: Make) -> None:
    """A run whose budget such sums have used up ends by name, and is not resumed."""
    most = epsilon_of(NOISE, 2, 1e-5) + 0.01
    here = house(4, rounds=2, epsilon=most)
    ledger = here.coordinator.ledger
    settings = here.coordinator.server._settings
    for no in (7, 8):  # as of rounds whose sums were read and refused
        keep_sum_noise(ledger, no, NOISE)
        keep_sum_noise(ledger, no, NOISE)
    assert spent_epsilon(ledger, 1e-5) == pytest.approx(epsilon_of(NOISE, 2, 1e-5))
    with pytest.raises(RunError, match=r"privacy is spent: .* one more round"):
        here.run(3000)
    assert not any(isinstance(m, TaskOrder) for _, _, m in here.recorded.said)
    with pytest.raises(SettingsError, match="rounds have spent"):
        check_budget(ledger, settings)
    assert not (here.run_folder / "checkpoints" / model_name(1)).exists()
