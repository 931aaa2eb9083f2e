"""Extension of a run: a file of one number in its folder, its rounds by now."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from coordinator.settings.training import TrainingSettings
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import StateError

__all__ = ["RELEASED", "extended", "extended_rounds", "keep_extension"]

RELEASED = "released"  # key of the ledger: the devices were told that it is done
FILE = "rounds"  # beside run.toml, which stays as the run began


def extended_rounds(folder: Path) -> int:
    """The rounds that a run in a folder is to complete; 0 where nobody extended it.

    Raises:
        StateError: If the file is damaged.
    """
    path = folder / FILE
    try:
        text = path.read_text("utf-8", "replace").strip()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror or error}") from error
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise _damaged(path, f"holds {text[:20]!r}, which is no number of rounds")
    return int(text)


def _damaged(path: Path, what: str) -> StateError:
    again = f"flash-coordinator extend {path.parent} --rounds N"
    return StateError(
        f"{path} {what}", remedy=f"Delete it, then extend the run again: {again}."
    )


def keep_extension(folder: Path, rounds: int) -> None:
    """Makes durable how many rounds a run is to complete; 0 takes that back.

    Raises:
        CheckpointError: If the folder cannot be written.
    """
    if rounds:
        replace_file(folder / FILE, f"{rounds}\n".encode())
    else:
        (folder / FILE).unlink(missing_ok=True)


def extended(
    rounds: int, training: TrainingSettings, more: int
) -> tuple[int, TrainingSettings]:
    """The rounds and the training of a run that was extended.

    The learning rate falls as before, and stays where it would have ended.

    Args:
        rounds: As the run began.
        training: As the run began.
        more: Rounds to complete by now; 0 for as it began.
    """
    if more <= rounds or not rounds:
        return rounds, training
    horizon = training.horizon or rounds - training.recalibrate
    return more, msgspec.structs.replace(training, horizon=horizon, hold=True)
