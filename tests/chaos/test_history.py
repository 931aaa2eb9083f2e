"""The checker itself: a sound history passes, each kind of damage is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

if TYPE_CHECKING:
    from chaos.history import History

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def history(zygote: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    from chaos.fleet import Fleet
    from chaos.kinds import PATIENT

    folder: Path = tmp_path_factory.mktemp("sound")
    fleet = Fleet(folder, "mosquitto", zygote, rounds=2, options={"waits": PATIENT})
    try:
        fleet.start()
        fleet.wait_end(60)
        yield fleet.history(over=True)
    finally:
        fleet.close()


def test_an_undisturbed_run_is_sound(history: History) -> None:
    from chaos.history import check

    assert check(history) == []
    assert [r["phase"] for r in history.rounds] == ["done"] * 3
    told = [v for j in history.journals.values() for _, v in j.finished]
    assert told == ["accepted"] * 8  # two in the warm-up, three in each round


@pytest.mark.parametrize("algorithm", ["prunefl(interval=1)", "pdst", "equal-counts"])
def test_a_run_that_needs_no_warm_up_begins_with_round_one(
    zygote: Any, tmp_path: Path, algorithm: str
) -> None:
    from chaos.fleet import Fleet
    from chaos.history import check
    from chaos.kinds import PATIENT

    fleet = Fleet(
        *(tmp_path, "mosquitto", zygote),
        rounds=2,
        algorithm=algorithm,
        options={"waits": PATIENT},
    )
    try:
        fleet.start()
        fleet.wait_end()
        found = fleet.history(over=True)
    finally:
        fleet.close()
    assert check(found) == []
    assert [(r["no"], r["phase"]) for r in found.rounds] == [(1, "done"), (2, "done")]
    twice = replace(found, rounds=(found.rounds[0], *found.rounds))
    assert "round 1 stands where round 2 should" in check(twice)
    missing = {n: c for n, c in found.checkpoints.items() if "00000" not in n}
    assert any(
        "cannot be recomputed" in w for w in check(replace(found, checkpoints=missing))
    )


def _row(history: History, no: int = 2) -> dict[str, Any]:
    return dict(next(u for u in history.updates.values() if u["round"] == no))


def _updates(history: History, row: dict[str, Any]) -> History:
    return replace(history, updates={**history.updates, row["task"]: row})


def _without_a_row(history: History) -> History:
    gone = _row(history)["task"]
    kept = {t: u for t, u in history.updates.items() if t != gone}
    return replace(history, updates=kept)


def _another_weight(history: History) -> History:
    return _updates(history, _row(history) | {"weight": 1})


def _swapped_updates(history: History) -> History:
    one, other = [dict(u) for u in history.updates.values() if u["round"] == 2][:2]
    one["blob"], other["blob"] = other["blob"], one["blob"]
    return _updates(_updates(history, one), other)


def _a_bit_of_the_model(history: History) -> History:
    name = history.rounds[2]["model"]
    content = bytearray(history.checkpoints[name][0])
    content[-1] ^= 1
    changed = {**history.checkpoints, name: (bytes(content),)}
    return replace(history, checkpoints=changed)


def _a_stale_model(history: History) -> History:
    before, name = (history.rounds[no]["model"] for no in (1, 2))
    changed = {**history.checkpoints, name: history.checkpoints[before]}
    return replace(history, checkpoints=changed)


def _a_bit_of_a_blob(history: History) -> History:
    name = _row(history)["blob"]
    content = bytearray(history.blobs[name])
    content[-1] ^= 1
    return replace(history, blobs={**history.blobs, name: bytes(content)})


def _two_models(history: History) -> History:
    name = history.rounds[2]["model"]
    twice = history.checkpoints[name] + history.checkpoints[history.rounds[1]["model"]]
    return replace(history, checkpoints={**history.checkpoints, name: twice})


def _another_base(history: History) -> History:
    rows = [dict(r) for r in history.rounds]
    rows[2]["base"] = rows[0]["model"]
    return replace(history, rounds=tuple(rows))


def _an_open_round(history: History) -> History:
    rows = [dict(r) for r in history.rounds]
    rows[2] |= {"phase": "run", "model": None}
    return replace(history, rounds=tuple(rows))


def _told(verdict: str) -> Callable[[History], History]:
    def change(history: History) -> History:
        device = _row(history)["device"]
        record = history.journals[device]
        told = [*record.finished[:-1], (record.finished[-1][0], verdict)]
        changed = msgspec.structs.replace(record, finished=told)
        return replace(history, journals={**history.journals, device: changed})

    return change


def _a_device_that_forgot(history: History) -> History:
    device = _row(history)["device"]
    record = msgspec.structs.replace(history.journals[device], finished=[])
    return replace(history, journals={**history.journals, device: record})


def _twice(history: History) -> History:
    row = _row(history) | {"task": "2-again"}
    return _updates(history, row)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_without_a_row, "holds a receipt for"),
        (_another_weight, "is not what the ledger add up to"),
        (_swapped_updates, "made another update for"),
        (_a_bit_of_the_model, "round 2 cannot be recomputed"),
        (_a_stale_model, "the model of round 2 is not what the devices add up to"),
        (_a_bit_of_a_blob, "has a damaged blob"),
        (_two_models, "had 2 different contents"),
        (_another_base, "stands on 'round-00000.safetensors'"),
        (_an_open_round, "is left in phase run"),
        (_told("late"), "was told late for"),
        (_a_device_that_forgot, "has forgotten it"),
        (_twice, "is counted twice in round 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damage_is_named(
    history: History, damage: Callable[[History], History], said: str
) -> None:
    from chaos.history import check

    found = check(damage(history))
    assert any(said in one for one in found), found


def test_an_open_history_is_checked_too(history: History) -> None:
    from chaos.history import check

    early = replace(_an_open_round(_without_a_row(history)), over=False)
    assert any("holds a receipt for" in one for one in check(early))
