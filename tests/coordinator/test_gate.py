from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from coordinator.rounds.validation import Refusal, check_offer, check_payload
from edge_sdk.sparse import Mask
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.evidence import Evidence, pack_evidence
from edge_sdk.wire.messages import Offer, TaskOrder
from edge_sdk.wire.rules import Regrow, Rewire, WarmUp
from edge_sdk.wire.values import Values, pack_values

Orders = Callable[..., TaskOrder]
Offers = Callable[..., Offer]
MASK = Mask({"fc": np.eye(3, dtype=bool)})
DENSE: dict[str, Any] = {"b": np.zeros(2, np.float32), "n": np.array(3, np.int64)}


def payload(**changes: Any) -> bytes:
    kept = changes.pop("kept", np.ones(3, np.float32))
    return pack_values(Values(MASK.digest, {"fc": kept}, {**DENSE, **changes}), MASK)


def test_an_honest_offer_passes(order: Orders, offer: Offers) -> None:
    assert check_offer(offer(), order(), max_examples=8) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mask_digest": b"\x01" * 32}, "another mask"),
        ({"codec": "int8"}, "'int8' was not agreed"),
        ({"examples": 0}, "0 examples"),
        ({"examples": 9}, "9 examples; its HELLO said 8"),
        ({"norm": math.inf}, "not finite"),
        ({"metrics": {"seconds": math.inf}}, "not finite"),
        ({"metrics": {"loss": math.nan}}, "not finite"),
        ({"manifest": manifest_of(bytes(100 + 65537))}, "the task takes at most"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_offer_that_cannot_be_is_refused_before_a_byte_is_asked_for(
    order: Orders, offer: Offers, changes: dict[str, Any], why: str
) -> None:
    found = check_offer(
        msgspec.structs.replace(offer(), **changes), order(), max_examples=8
    )
    assert isinstance(found, Refusal)
    assert why in found.why


def test_an_update_that_fits_passes_with_its_values(order: Orders) -> None:
    found = check_payload(payload(), order(), MASK, DENSE, examples=8)
    assert isinstance(found, Values)
    np.testing.assert_array_equal(found.masked["fc"], np.ones(3))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (payload(kept=np.array([1, np.nan, 0], np.float32)), "not finite"),
        (payload(b=np.array([np.inf, 0], np.float32)), "not finite"),
        (payload(extra=np.zeros(1, np.float32)), "names other entries"),
        (payload(b=np.zeros(3, np.float32)), "entry b has another shape"),
        (payload(b=np.zeros(2, np.int64)), "entry b has another shape or type"),
        (payload(n=np.array([3], np.int64)), "entry n has another shape"),
        (payload()[:-1], ""),
        (b"", ""),
        (pack_evidence(Evidence({"fc": 2})), ""),
    ],
)
def test_an_update_that_does_not_fit_is_refused_with_a_reason(
    order: Orders, content: bytes, why: str
) -> None:
    found = check_payload(content, order(), MASK, DENSE, examples=8)
    assert isinstance(found, Refusal)
    assert why in found.why
    assert found.why


def test_an_update_on_another_mask_is_refused(order: Orders) -> None:
    other = Mask({"fc": np.fliplr(np.eye(3, dtype=bool))})
    found = check_payload(payload(), order(), other, DENSE, examples=8)
    assert isinstance(found, Refusal)
    assert "made with mask" in found.why


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ({"fc": 10}, "cannot keep 10 of 9"),
        ({"fc": 0}, "kept 0 weights; its mask has 3"),
        ({"fc": 4}, "kept 4 weights; its mask has 3"),
        ({"out": 1}, "other layers"),
    ],
)
def test_evidence_that_cannot_be_is_refused(
    order: Orders, counts: dict[str, int], why: str
) -> None:
    warm_up = order(rule=WarmUp())
    good = check_payload(
        pack_evidence(Evidence({"fc": 3})), warm_up, MASK, DENSE, examples=8
    )
    assert good == Evidence({"fc": 3})
    found = check_payload(
        pack_evidence(Evidence(counts)), warm_up, MASK, DENSE, examples=8
    )
    assert isinstance(found, Refusal)
    assert why in found.why


STATE: dict[str, Any] = {
    "bn.running_var": np.array([0.5, 1e-9], np.float32),
    "bn.running_mean": np.zeros(2, np.float32),
    "bn.num_batches_tracked": np.array(40, np.int64),
    "table": np.array([5, 2**30], np.int32),
    "bias": np.array([3e38], np.float32),
}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"bn.running_var": [-0.6, 0.0]}, "running_var would be a negative variance"),
        ({"bn.running_var": [0.0, -0.1]}, "running_var would be a negative variance"),
        ({"bn.num_batches_tracked": 2**63 - 1}, "count 9223372036854775807 batches"),
        ({"bn.num_batches_tracked": -1}, "would count -1 batches; from 0 to 8"),
        ({"bn.num_batches_tracked": 9}, "would count 9 batches; from 0 to 8"),
        ({"table": [0, 2**30]}, "entry table would leave the range of int32"),
        ({"table": [-(2**31) - 6, 0]}, "entry table would leave the range of int32"),
        ({"table": [2**63 - 1, 0]}, "entry table would leave the range of int32"),
        ({"bias": [3e38]}, "entry bias would pass the largest float32"),
        # What an honest device sends:
        ({"bn.running_var": [-0.5, -2e-9]}, ""),
        ({"bn.num_batches_tracked": 8, "table": [-5, 7]}, ""),
        ({"bn.running_mean": [1e-42, -3.0], "bias": [-3e38]}, ""),
    ],
    ids=str,
)
def test_an_entry_is_held_against_what_its_kind_can_be(
    order: Orders, changes: dict[str, Any], why: str
) -> None:
    still = {n: np.zeros_like(a) for n, a in STATE.items()}
    sent = {
        n: np.array(v, np.float32 if STATE[n].dtype.kind == "f" else np.int64)
        for n, v in changes.items()
    }
    kept = {"fc": np.ones(3, np.float32)}
    content = pack_values(Values(MASK.digest, kept, {**still, **sent}), MASK)
    found = check_payload(content, order(), MASK, STATE, examples=8)
    if not why:
        assert isinstance(found, Values)
        return
    assert isinstance(found, Refusal)
    assert why in found.why
    assert "shipped training" in found.remedy


def test_regrowing_keeps_each_layers_count_and_no_rule_empties_one(
    order: Orders,
) -> None:
    before = Mask({"a": np.ones((20, 20), bool), "b": np.eye(20, dtype=bool)})
    half = np.ones((20, 20), bool)
    half[:10] = False
    shifted = Mask({"a": np.ones((20, 20), bool), "b": np.roll(np.eye(20), 1) > 0})
    fewer = Mask({"a": half, "b": np.eye(20, dtype=bool)})
    gone = Mask({"a": np.zeros((20, 20), bool), "b": np.eye(20, dtype=bool)})

    def judge(mask: Mask, rule: Any) -> Any:
        kept = {n: np.ones(mask.counts[n], np.float32) for n in mask}
        content = pack_values(Values(mask.digest, kept, {}), mask, structure=True)
        task = msgspec.structs.replace(order(rule=rule), moves=True)
        return check_payload(content, task, before, {}, examples=8)

    assert isinstance(judge(shifted, Regrow(0.1)), Values)
    assert "keeps 200 of layer a; regrowing keeps 400" in judge(fewer, Regrow(0.1)).why
    assert isinstance(judge(fewer, Rewire()), Values)
    assert "leaves 0 of 400 weights of layer a" in judge(gone, Rewire()).why


OTHER = Mask({"fc": np.fliplr(np.eye(3, dtype=bool))})


def moving(order: Orders) -> TaskOrder:
    return msgspec.structs.replace(order(), moves=True)


def moved(mask: Mask, *, structure: bool = True) -> bytes:
    kept = {"fc": np.ones(mask.nnz, np.float32)}
    return pack_values(Values(mask.digest, kept, DENSE), mask, structure=structure)


def test_where_the_mask_may_move_an_update_on_its_own_mask_passes(
    order: Orders, offer: Offers
) -> None:
    offered = msgspec.structs.replace(offer(), mask_digest=OTHER.digest)
    found = check_offer(offered, moving(order), max_examples=8, sizes={"fc": 9})
    assert found is None
    values = check_payload(moved(OTHER), moving(order), MASK, DENSE, examples=8)
    assert isinstance(values, Values)
    assert values.mask_digest == OTHER.digest


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (moved(OTHER, structure=False), "does not name the mask"),
        (moved(Mask({"fc": np.ones((3, 3), bool)})), "keeps 9 weights, the task's 3"),
        (moved(Mask({"fc": np.eye(3, 4, dtype=bool)})), "beyond the layer's end"),
    ],
)
def test_a_mask_that_moved_too_far_is_refused(
    order: Orders, content: bytes, why: str
) -> None:
    found = check_payload(content, moving(order), MASK, DENSE, examples=8)
    assert isinstance(found, Refusal)
    assert why in found.why
