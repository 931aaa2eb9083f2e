"""Every message type. Decoding is validation: a value of these types is well-formed.

Rules of evolution: new fields come last and have a default; a released tag and field
keep their meaning; unknown fields are skipped, unknown tags are counted and dropped.
"""

from __future__ import annotations

from typing import TypeAlias

from edge_sdk.wire.evaluation import (
    BaseTest,
    BaseTested,
    DataDescribed,
    DataQuery,
    DataSummary,
    DescribeData,
    Evaluate,
    Evaluated,
)
from edge_sdk.wire.messages.certificates import (
    Certificate,
    NextKey,
    Renew,
    Request,
    Revoked,
)
from edge_sdk.wire.messages.deliveries import (
    Install,
    Running,
)
from edge_sdk.wire.messages.presence import (
    Announce,
    Hello,
    Status,
    Wait,
)
from edge_sdk.wire.messages.tasks import (
    Cancel,
    Data,
    Fail,
    Need,
    Offer,
    Receipt,
    TaskAck,
    TaskOrder,
    Training,
    Verdict,
)
from edge_sdk.wire.named import Manifest, MaskRecipe
from edge_sdk.wire.secure.messages import SecureMessage

__all__ = [
    "Announce",
    "BaseTest",
    "BaseTested",
    "Cancel",
    "Certificate",
    "Data",
    "DataDescribed",
    "DataQuery",
    "DataSummary",
    "DescribeData",
    "Evaluate",
    "Evaluated",
    "Fail",
    "Hello",
    "Install",
    "Manifest",
    "MaskRecipe",
    "Message",
    "Need",
    "NextKey",
    "Offer",
    "Receipt",
    "Renew",
    "Request",
    "Revoked",
    "Running",
    "Status",
    "TaskAck",
    "TaskOrder",
    "Training",
    "Verdict",
    "Wait",
]

Message: TypeAlias = (
    Announce
    | Hello
    | Wait
    | TaskOrder
    | TaskAck
    | Fail
    | Offer
    | Need
    | Data
    | Receipt
    | Cancel
    | Status
    | Revoked
    | Renew
    | Request
    | Certificate
    | NextKey
    | Install
    | Running
    | Evaluate
    | Evaluated
    | DescribeData
    | DataDescribed
    | SecureMessage
)
