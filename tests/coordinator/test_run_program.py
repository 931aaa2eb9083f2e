"""The program of a run: made once, kept through a crash, named only where needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from patience import patience
from torch import nn

from coordinator.algorithms.mask_family import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.ledger import Ledger, open_ledger
from coordinator.rounds.blobs import publish_blobs, publish_blobs_again
from coordinator.server.devices.run_program import RunProgram, needs_program
from edge_sdk import Examples, Task
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.file import unpack_program
from edge_sdk.session import Fetch, Heard, Session, SessionPhase, advance
from edge_sdk.sparse import LayerShape
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import Hello, Manifest, MaskRecipe, TaskOrder, Training
from edge_sdk.wire.rules import Frozen

EXAMPLES = Examples(np.zeros((3, 4), np.float32), np.array([0, 1, 2]))
compiles = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels here")


def task(model: type[nn.Module] | None = None) -> Task:
    return Task(
        name="toy", model=model or (lambda: nn.Sequential(nn.Linear(4, 3))),
        loss=nn.functional.cross_entropy, input_shape=(4,),
    )  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path)
    yield opened
    opened.close()


def made(program: RunProgram) -> str:
    """What comes of asking for it."""
    assert program.ask() in {"coming", "here", "none"}
    thread = program._thread
    if thread is not None:
        thread.join(patience(120))
    return program.ask()


@compiles
def test_a_run_makes_its_program_once_and_takes_it_up_again(ledger: Ledger) -> None:
    first = RunProgram(task(), EXAMPLES, ledger)
    assert made(first) == "here"
    assert unpack_program(first.content).parameters[0].name == "0.weight"
    ledger.plan_round(0, goal=1, quorum=1, rate=0.1, base="")
    path = ledger.folder / "program.bin"
    changed = path.stat().st_mtime_ns
    again = RunProgram(task(), EXAMPLES, ledger)
    assert again.kept() == first.content
    assert made(again) == "here"
    assert again.content == first.content
    assert path.stat().st_mtime_ns == changed
    path.write_bytes(first.content[:-3])
    assert RunProgram(task(), EXAMPLES, ledger).kept() == b""  # and is made again


@compiles
def test_a_program_of_another_run_in_this_folder_is_not_believed(
    ledger: Ledger,
) -> None:
    (ledger.folder / "program.bin").write_bytes(b"of a model that has changed since")
    assert made(RunProgram(task(), EXAMPLES, ledger)) == "here"


class Unseen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x).logcumsumexp(1)


class Branching(Unseen):
    def forward(self, x):
        return self.layer(x) if float(x.sum()) > 1 else self.layer(-x)


@compiles
@pytest.mark.parametrize(
    ("model", "said"), [(Unseen, "logcumsumexp"), (Branching, "cannot be exported")]
)
def test_a_model_without_a_program_is_told_by_its_operation(
    ledger: Ledger, model: type[nn.Module], said: str
) -> None:
    program = RunProgram(task(model), EXAMPLES, ledger)
    assert made(program) == "none"
    assert said in program.why_not
    assert not program.content


def test_only_a_device_without_any_other_engine_needs_one() -> None:
    hello = Hello("idle", None, "0.1.0", "toy", 3, {}, ["fp32"], ["program"], 0)
    assert needs_program(hello)
    for engines in ([], ["masked"], ["sparse", "masked"], ["program", "masked"]):
        assert not needs_program(
            Hello("idle", None, "0.1.0", "toy", 3, {}, ["fp32"], engines, 0)
        )


def test_a_program_is_published_once_and_again_after_a_crash() -> None:
    layer = LayerShape("fc.weight", (3, 4))
    family = MaskFamily.draw((layer,), {0.5: {"fc.weight": 6}}, 1)
    mask = family.masks[0.5]
    model = Model(mask, {"fc.weight": np.zeros(6, np.float32)}, {})
    sent: list[bytes] = []

    def publish(content: bytes, _: int) -> Manifest:
        sent.append(content)
        return manifest_of(content)

    masks, codecs = dict.fromkeys("abc", mask), dict.fromkeys("abc", "fp32")
    programs = dict.fromkeys("ab", b"program")
    named = publish_blobs(publish, 1, model, family, masks, codecs, programs)
    assert sent.count(b"program") == 1
    assert named["c"].program is None
    assert named["a"].program == named["b"].program == manifest_of(b"program")
    for program in (None, manifest_of(b"program")):
        sent.clear()
        order = structs.replace(
            an_order(program), base=named["a"].base, mask=named["a"].mask
        )
        publish_blobs_again(
            publish, 1, model, family, [("a", order)], lambda: b"program"
        )
        assert sent.count(b"program") == (program is not None)
        assert len(sent) == 1 + (program is not None)


def an_order(program: Manifest | None) -> TaskOrder:
    base = manifest_of(b"base")
    return TaskOrder(
        id="1-a", round_no=1, density=0.5, base=base, training=Training(1, 8, 0.1),
        mask=MaskRecipe(1, {"fc": 2}, bytes(32), structure=manifest_of(b"structure")),
        rule=Frozen(), ttl_ms=1000, shard=0, codec="fp32", program=program,
    )  # fmt: skip


def test_an_order_without_a_program_has_the_bytes_it_had() -> None:
    assert b"program" not in pack(an_order(None))
    assert unpack(pack(an_order(None)), TaskOrder).program is None
    named = an_order(manifest_of(b"program"))
    assert unpack(pack(named), TaskOrder) == named


def test_a_device_fetches_what_its_order_names() -> None:
    for program, count in ((None, 2), (manifest_of(b"program"), 3)):
        session = replace(Session(), phase=SessionPhase.IDLE, epoch=1)
        _, effects = advance(session, Heard(1, an_order(program)))
        (fetch,) = [e for e in effects if isinstance(e, Fetch)]
        assert len(fetch.blobs) == count
        assert fetch.blobs[0] == manifest_of(b"base")
        assert program in fetch.blobs or program is None


def test_a_coordinator_that_ends_waits_for_the_compiler(ledger: Ledger) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def model() -> nn.Module:
        begun.set()
        go_on.wait()
        raise ValueError("no model after all")

    program = RunProgram(task(model), EXAMPLES, ledger)
    program.close()  # nothing is being made
    assert program.ask() == "coming"
    begun.wait()
    closing = threading.Thread(target=program.close)
    closing.start()
    assert program.ask() == "coming"
    go_on.set()
    closing.join()
    assert "no model after all" in program.why_not
