"""The coordinator's durable memory: SQLite, and files of updates, a round in each.

Rule 1. What decides a round (its plan, its tasks, its freeze, its end) is committed
        before the method returns.
Rule 2. What devices say (hello, progress, updates, refusals) joins an open group;
        `Ledger.settle` commits the group: one fsync for many receipts.
Rule 3. Whoever promises something that hangs on a group hands the promise to
        `Ledger.once_durable`; it is kept after the commit, or never.
Rule 4. A group that cannot be committed breaks the ledger: nothing more is promised.
"""

from coordinator.ledger.device_rows import DeviceRow, EvaluationRow, RefusalRow
from coordinator.ledger.ledger import (
    Ledger,
    holder,
    is_held,
    no_run,
    open_ledger,
    read_ledger,
)
from coordinator.ledger.log.pages import LogEntry, LogSigner, RunLog, SignedOffer
from coordinator.ledger.rows import RoundRow, TaskRow, UpdateRow, read_order
from coordinator.ledger.secure_pages import SECURE_SUM
from coordinator.ledger.update_files import BlobPlace

__all__ = [
    "SECURE_SUM",
    "BlobPlace",
    "DeviceRow",
    "EvaluationRow",
    "Ledger",
    "LogEntry",
    "LogSigner",
    "RefusalRow",
    "RoundRow",
    "RunLog",
    "SignedOffer",
    "TaskRow",
    "UpdateRow",
    "holder",
    "is_held",
    "no_run",
    "open_ledger",
    "read_ledger",
    "read_order",
]
