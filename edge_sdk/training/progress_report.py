"""Progress of a training by counting its steps: for displays, never for decisions."""

from __future__ import annotations

from collections.abc import Callable

from edge_sdk.wire.messages import Training

__all__ = ["counted", "steps_of"]


def steps_of(plan: Training, examples: int) -> int:
    """Steps that a plan asks for, at least 1.

    Example:
        >>> steps_of(Training(epochs=2, batch_size=8, learning_rate=0.1), 20)
        6
    """
    whole = plan.epochs * -(-examples // plan.batch_size)
    return max(1, min(whole, plan.max_steps) if plan.max_steps else whole)


def counted(
    stop: Callable[[], bool], steps: int, tell: Callable[[int], None]
) -> Callable[[], bool]:
    """Wrap the callable that training asks before each step, to count the steps.

    A training that goes on from a checkpoint counts from 0.

    Args:
        stop: What is asked.
        steps: All of them.
        tell: Told before each step how many are done, in permille.

    Example:
        >>> told = []
        >>> step = counted(lambda: False, 2, told.append)
        >>> step(), step(), step(), told
        (False, False, False, [0, 500, 1000])
    """
    done = 0

    def step() -> bool:
        nonlocal done
        tell(min(1000 * done // steps, 1000))
        done += 1
        return stop()

    return step
