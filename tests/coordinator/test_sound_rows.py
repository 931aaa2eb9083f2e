"""Who spoils a round's model is left out, until too few are left."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.rounds.model_check import Unsound, sound_rows


def judged(
    names: Sequence[str], bad: Sequence[str], *, quorum: int, blame: bool = True
) -> tuple[Sequence[str], str, list[str]]:
    left: list[str] = []

    def unsound(rows: Sequence[str]) -> Unsound | None:
        worst = [name for name in rows if name in bad][:1]
        return Unsound("no", tuple(worst) if blame else ()) if worst else None

    def leave_out(wrong: Unsound) -> Sequence[str]:
        left.extend(wrong.devices)
        return [name for name in names if name not in left]

    return (*sound_rows(names, len(names), quorum, unsound, leave_out), left)


def test_one_after_the_other_is_left_out() -> None:
    kept, why, left = judged("abcxy", "xy", quorum=4)
    assert (list(kept), why, left) == (["a", "b", "c"], "", ["x", "y"])


def test_a_round_without_anybody_to_keep_or_to_blame_has_no_model() -> None:
    assert judged("x", "x", quorum=1)[:2] == ([], "no; spoilt by: x")
    kept, why, _ = judged("abx", "x", quorum=2, blame=False)
    assert (kept, why) == ([], "no; spoilt by: no device can be named")
