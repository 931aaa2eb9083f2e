"""The device's side of the protocol as a pure state machine: no clock, no I/O.

Rule 1. What is promised is first kept: `Keep` comes before the `Say` that promises it.
Rule 2. Duplicates and late arrivals are normal: each has a row in the table.
Rule 3. A message of an older coordinator epoch is not heard at all.
Rule 4. An update leaves the outbox by a receipt, a cancel, or a later round's task.
Rule 5. A task that has ended here is never trained again, however often it is sent.

::

    BOOT -> IDLE -> FETCH -> TRAIN -> UPLOAD -> IDLE
"""

from edge_sdk.session.table import NEXT, advance
from edge_sdk.session.values import (
    Booted,
    Broke,
    Connected,
    Effect,
    Event,
    Fetch,
    Fetched,
    Greet,
    Halt,
    Heard,
    Keep,
    Nudge,
    Say,
    Session,
    SessionPhase,
    Ship,
    Step,
    Train,
    UpdatePacked,
)

__all__ = [
    "NEXT",
    "Booted",
    "Broke",
    "Connected",
    "Effect",
    "Event",
    "Fetch",
    "Fetched",
    "Greet",
    "Halt",
    "Heard",
    "Keep",
    "Nudge",
    "Say",
    "Session",
    "SessionPhase",
    "Ship",
    "Step",
    "Train",
    "UpdatePacked",
    "advance",
]
