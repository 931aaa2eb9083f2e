"""A bundle on its way to a board: packed, taken, proved there, taken back."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import patience

import export
from edge_sdk.checkpoint import Checkpoint
from edge_sdk.datasets.shipped import load_digits
from edge_sdk.deploy.delivered_bundle import Installed
from edge_sdk.deploy.installer import CUT, UNASKED, Installer
from edge_sdk.deploy.model_test import ModelTest
from edge_sdk.deploy.slots import install, look, recover, roll_back, switch
from edge_sdk.deploy.target import DeployTarget
from edge_sdk.errors import RemoteProtocolError, StateError
from edge_sdk.evaluation import Metric
from edge_sdk.infer import Bundle
from edge_sdk.infer.packed import files_in, pack_bundle, unpack_bundle
from edge_sdk.kernels.build import find_compiler, this_machine
from edge_sdk.storage.fetcher import Fetcher
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.training.holdout.divided import DividedExamples
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire import topics
from edge_sdk.wire.blob import blob_id, chunk_of, manifest_of
from edge_sdk.wire.messages import Install, Message, Need, Running
from edge_sdk.wire.named import Holdout

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)


@pytest.fixture(scope="module")
def bundle(
    digits: tuple[Checkpoint, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "digits"
    export.make_bundle(digits[0], folder, formats=("native",), seconds=0)
    return folder


# ------------------------------------------------------------------------ packed


def test_a_bundle_travels_as_it_is(bundle: Path, tmp_path: Path) -> None:
    packed = pack_bundle(bundle)
    assert pack_bundle(bundle) == packed
    unpack_bundle(packed, tmp_path / "new")
    assert Bundle(tmp_path / "new").check() <= 1e-5
    assert pack_bundle(tmp_path / "new") == packed


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../../x", ".ssh/x", "a//b", "a/", "", "a\nb", "a\0b"],
)
def test_a_packed_bundle_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(RemoteProtocolError, match="a file named"):
        unpack_bundle(msgpack.packb({name: b"x"}), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@given(st.dictionaries(st.text(max_size=20), st.binary(max_size=9), max_size=4))
def test_whatever_is_unpacked_stays_inside(files: dict[str, bytes]) -> None:
    try:
        found = files_in(msgpack.packb(files))
    except RemoteProtocolError:
        return
    root = Path("/srv/models/a")
    assert all((root / name).resolve().is_relative_to(root) for name in found)


# ------------------------------------------------------------------------ trials


def test_a_switch_that_was_cut_in_its_health_check_is_taken_back(
    bundle: Path, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    switch(root, bundle)

    note = tmp_path / "note"
    keep = f"cp {root}/.trial {note}; readlink {root}/current >> {note}"
    fill = partial(shutil.copytree, bundle)
    install(root, fill, name="b", health=("sh", "-c", keep), tag="7")
    text, live = note.read_text().rsplit("}", 1)
    assert json.loads(text + "}") == {"before": "a", "tag": "7"}
    assert live.strip() == "b"
    assert not (root / ".trial").exists()
    # As a power cut leaves it: the link points to the new one, the note is there.
    (root / ".trial").write_text(text + "}")
    (root / ".incoming-x").mkdir()
    assert recover(root) == "7"
    assert look(root).live == "a"
    assert sorted(p.name for p in root.iterdir()) == ["a", "b", "current"]
    assert recover(root) is None


def test_a_first_model_that_was_cut_leaves_none_live(
    bundle: Path, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    switch(root, bundle)
    (root / ".trial").write_text('{"before": null, "tag": "1"}')
    assert recover(root) == "1"
    assert look(root).live is None
    assert switch(root, bundle) == "a"


def test_two_do_not_switch_at_once(bundle: Path, tmp_path: Path) -> None:
    root, inside, go = tmp_path / "models", threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        shutil.copytree(bundle, folder)
        inside.set()
        assert go.wait(patience(30))

    first = threading.Thread(target=install, args=(root, slow), kwargs={"name": "x"})
    first.start()
    assert inside.wait(patience(30))
    with pytest.raises(StateError, match="another process"):
        switch(root, bundle)
    assert recover(root) is None  # nor is what the first one does taken for a cut
    go.set()
    first.join(patience(30))
    assert look(root).live == "a"


# ------------------------------------------------------------------------ taking


class Board:
    """An installer on a real link, and what it says."""

    def __init__(self, broker: MemoryBroker, place: DeployTarget | None) -> None:
        self.said: list[Message] = []
        self.ended: list[Installed] = []
        self.over = threading.Event()
        self.link = broker.connect(
            lambda d: self.chunks.append((d.topic, d.payload)), lambda _: None
        )
        self.chunks: list[tuple[str, bytes]] = []
        fetcher = Fetcher("demo", self.link)
        self.installer = Installer(place, fetcher, self.said.append, self._end)

    def _end(self, done: Installed) -> None:
        self.ended.append(done)
        self.over.set()

    def take_chunks(self) -> None:
        while self.chunks:
            name, chunk = self.chunks.pop(0)
            topic = topics.parse(name, "demo")
            assert isinstance(topic, topics.ChunkTopic)
            self.installer.chunk(topic, name, chunk)

    def take(self, order: Install, epoch: int = 0) -> Running:
        self.installer.take(order, epoch)
        self.take_chunks()
        if self.installer.busy:
            assert self.over.wait(patience(60))
            self.over.clear()
            self.installer.finish(self.ended.pop())
        return self.word()

    def word(self) -> Running:
        last = self.said[-1]
        assert isinstance(last, Running)
        return last


def publish(broker: MemoryBroker, packed: bytes, but: int | None = None) -> None:
    link, manifest = broker.connect(lambda _: None, lambda _: None), manifest_of(packed)
    for index in range(len(manifest.chunks)):
        if index != but:
            topic = topics.chunk("demo", blob_id(manifest), index)
            link.publish(topic, chunk_of(packed, manifest, index), retain=True)
    link.close()


def order_of(packed: bytes, no: int = 1) -> Install:
    digest = hashlib.sha256(files_in(packed)["manifest.json"]).digest()
    return Install(no, manifest_of(packed), digest)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def place(tmp_path: Path) -> DeployTarget:
    return DeployTarget(tmp_path / "models", tmp_path / "state")


def test_a_delivery_becomes_live_and_is_answered_again_when_asked_again(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    packed = pack_bundle(bundle)
    publish(broker, packed)
    board, order = Board(broker, place), order_of(packed)
    assert board.take(order) == Running(order.digest, "digits, round 3", 1, "live")
    assert look(place.root).live == "a"
    assert list((place.state / "bundles").iterdir()) == []  # it lies in its slot now
    again = Board(broker, place)  # the device was started anew
    again.installer.greet()
    assert again.word() == Running(order.digest, "digits, round 3")
    assert again.take(order_of(packed, 2)).verdict == "live"
    assert look(place.root).live == "a"  # nothing was done


def test_chunks_that_are_here_are_not_asked_for_again_after_a_cut(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    packed = pack_bundle(bundle)
    big = msgpack.packb(files_in(packed) | {"padding.bin": bytes(range(256)) * 1024})
    publish(broker, big, but=2)
    first = Board(broker, place)
    first.installer.take(order_of(big))
    first.take_chunks()
    first.installer.ask_again()
    assert first.said == [Need(manifest_of(big).sha256.hex(), [(2, 3)], 32)]
    first.link.close()  # killed here
    publish(broker, big)
    second = Board(broker, place)
    second.installer.take(order_of(big))
    assert [name.rsplit("/", 1)[1] for name, _ in second.chunks] == ["2"]


def test_a_bundle_that_was_changed_or_fails_here_leaves_the_old_one_live(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    good = pack_bundle(bundle)
    publish(broker, good)
    board = Board(broker, place)
    board.take(order_of(good))
    files = files_in(good)
    model = bytearray(files["model.native.flsp"])
    model[-1] ^= 1
    changed = msgpack.packb(files | {"model.native.flsp": bytes(model)})
    publish(broker, changed)
    order = Install(2, manifest_of(changed), b"x" * 32)
    said = board.take(order)
    assert (said.no, said.verdict) == (2, "failed")
    assert "model.native.flsp was changed" in said.why
    assert said.live == order_of(good).digest
    assert look(place.root).live == "a"
    assert board.take(order) == said  # no second try of the same delivery


def test_a_false_chunk_is_waited_for_until_the_right_one_comes(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    packed = pack_bundle(bundle)
    board, order = Board(broker, place), order_of(packed)
    board.installer.take(order)
    name = topics.chunk("demo", blob_id(order.blob), 0)
    topic = topics.parse(name, "demo")
    assert isinstance(topic, topics.ChunkTopic)
    bad = bytes(len(chunk_of(packed, order.blob, 0)))
    with pytest.raises(RemoteProtocolError, match="digest"):
        board.installer.chunk(topic, name, bad)
    assert board.installer.fetching
    publish(broker, packed)
    assert board.take(order).verdict == "live"


def test_a_key_of_the_owner_comes_before_the_coordinators_word(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    packed = pack_bundle(bundle)  # unsigned
    publish(broker, packed)
    order = order_of(packed)
    wary = Board(broker, DeployTarget(place.root, place.state, trusted=b"k" * 32))
    assert "is not signed" in wary.take(order).why
    asked = Install(2, order.blob, order.digest, b"k" * 32)
    assert "is not signed" in Board(broker, place).take(asked).why
    assert look(place.root).live is None


def test_a_failing_health_command_takes_the_delivery_back(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    packed = pack_bundle(bundle)
    publish(broker, packed)
    sick = DeployTarget(
        place.root, place.state, health=("sh", "-c", "echo no camera; exit 3")
    )
    said = Board(broker, sick).take(order_of(packed))
    assert (said.verdict, said.live) == ("failed", None)
    assert "no camera" in said.why


def test_a_device_that_died_in_the_health_check_says_so_and_does_not_try_again(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    switch(place.root, bundle)
    (place.root / ".trial").write_text('{"before": null, "tag": "5"}')
    board = Board(broker, place)
    board.installer.greet()
    assert board.word() == Running(None, "", 5, "failed", CUT)
    packed = pack_bundle(bundle)
    publish(broker, packed)
    assert board.take(order_of(packed, 5)).verdict == "failed"
    assert board.take(order_of(packed, 6)).verdict == "live"


def test_a_device_without_slots_refuses_and_says_how_to_take_models(
    bundle: Path, broker: MemoryBroker
) -> None:
    board = Board(broker, None)
    board.installer.greet()
    assert board.said == []  # nothing to say where models are no matter
    said = board.take(order_of(pack_bundle(bundle)))
    assert said == Running(None, "", 1, "refused", UNASKED)


def changed(packed: bytes, word: bytes) -> bytes:
    """Another bundle: the same model, with one more file."""
    files = files_in(packed)
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["word.txt"] = hashlib.sha256(word).hexdigest()
    more = {"word.txt": word, "manifest.json": json.dumps(manifest).encode()}
    return bytes(msgpack.packb(files | more))


def test_an_earlier_delivery_is_refused_after_a_restart_and_a_rollback_is_a_new_one(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    four, five = pack_bundle(bundle), changed(pack_bundle(bundle), b"five")
    for packed in (four, five):
        publish(broker, packed)
    board = Board(broker, place)
    assert board.take(order_of(four, 4), 7).verdict == "live"
    assert board.take(order_of(five, 5), 7).verdict == "live"
    board.link.close()
    again = Board(broker, place)  # the device was started anew
    said = again.take(order_of(four, 4), 7)
    assert (said.no, said.verdict) == (4, "refused")
    assert said.live == order_of(five).digest
    assert "delivery 4 was ordered before delivery 5" in said.why
    for epoch in (1, 6, 7):  # and by a coordinator of an earlier epoch
        again.take(order_of(four, 3), epoch)
    assert again.take(order_of(five, 5), 7).verdict == "live"  # what counts is 5
    assert again.take(order_of(four, 6), 7) == Running(
        order_of(four).digest, "digits, round 3", 6, "live"
    )


def test_what_the_owner_took_back_by_hand_does_not_come_back_by_a_repetition(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    four, five = pack_bundle(bundle), changed(pack_bundle(bundle), b"five")
    for packed in (four, five):
        publish(broker, packed)
    board = Board(broker, place)
    for no, packed in ((4, four), (5, five)):
        board.take(order_of(packed, no), 7)
    roll_back(place.root)  # `flash-edge model rollback`, with nobody to ask
    again = Board(broker, place)
    said = again.take(order_of(five, 5), 7)
    assert (said.no, said.verdict, said.live) == (5, "live", order_of(four).digest)
    assert look(place.root).live == "a"
    assert again.take(order_of(five, 6), 7).live == order_of(five).digest


def test_a_coordinator_that_lost_its_deliveries_counts_again_from_its_next_start(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    four, five = pack_bundle(bundle), changed(pack_bundle(bundle), b"five")
    for packed in (four, five):
        publish(broker, packed)
    Board(broker, place).take(order_of(five, 5), 7)
    board = Board(broker, place)
    assert board.take(order_of(four, 1), 7).verdict == "refused"
    assert board.take(order_of(four, 1), 8).verdict == "live"
    # the same number as one that ended here, for another bundle
    assert board.take(order_of(five, 1), 9).live == order_of(five).digest


def test_a_delivery_that_was_cut_goes_on_and_one_before_it_does_not(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    four, five = pack_bundle(bundle), changed(pack_bundle(bundle), b"five")
    publish(broker, four)
    first = Board(broker, place)
    first.installer.take(order_of(five, 5), 7)  # none of its chunks is there
    first.link.close()  # killed here
    again = Board(broker, place)
    assert again.take(order_of(four, 4), 7).verdict == "refused"
    assert look(place.root).live is None
    publish(broker, five)
    assert again.take(order_of(five, 5), 7).verdict == "live"


def test_a_board_of_an_older_version_goes_on(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    switch(place.root, bundle)  # and no record of deliveries beside it
    packed = changed(pack_bundle(bundle), b"next")
    publish(broker, packed)
    said = Board(broker, place).take(order_of(packed, 3))  # nor an epoch
    assert said == Running(order_of(packed).digest, "digits, round 3", 3, "live")


def test_a_damaged_record_of_deliveries_is_named_with_the_remedy(
    broker: MemoryBroker, place: DeployTarget
) -> None:
    place.state.mkdir()
    (place.state / "delivery.msgpack").write_bytes(b"\xc1")
    with pytest.raises(StateError, match=r"delivery\.msgpack") as why:
        Board(broker, place)
    assert "Move the file away" in why.value.help


def test_a_later_delivery_takes_the_place_of_one_that_does_not_come(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    packed = pack_bundle(bundle)
    missing = msgpack.packb(files_in(packed) | {"other.txt": b"x"})
    board = Board(broker, place)
    board.installer.take(Install(1, manifest_of(missing), b"x" * 32))
    assert board.installer.fetching
    publish(broker, packed)
    assert board.take(order_of(packed, 2)).verdict == "live"


def test_a_disk_that_refuses_fails_the_delivery_and_nothing_else(
    bundle: Path, broker: MemoryBroker, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    packed = pack_bundle(bundle)
    publish(broker, packed)
    board = Board(
        broker, DeployTarget(tmp_path / "file" / "models", tmp_path / "state")
    )
    said = board.take(order_of(packed))
    assert said.verdict == "failed"


# ------------------------------------------------------------------------ tested


@pytest.fixture(scope="module")
def worse(
    digits: tuple[Checkpoint, Path], tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """A bundle that passes all checks of its export, and is right about nothing."""
    made = digits[0]
    turned = replace(made, values={name: -v for name, v in made.values.items()})
    folder = tmp_path_factory.mktemp("worse") / "digits"
    export.make_bundle(turned, folder, formats=("native",), seconds=0)
    return pack_bundle(folder)


def held(count: int = 60) -> Examples:
    return load_digits()[1].take(slice(0, count))


def comparing(
    place: DeployTarget, tolerance: float = 0.05, examples: Examples | None = None
) -> DeployTarget:
    found = examples or held()
    test = ModelTest(load_task("digits"), tolerance, lambda: (found, ""))
    return replace(place, test=test)


def test_a_model_that_is_worse_on_the_boards_own_examples_is_not_made_live(
    bundle: Path, worse: bytes, broker: MemoryBroker, place: DeployTarget
) -> None:
    good = pack_bundle(bundle)
    for packed in (good, worse):
        publish(broker, packed)
    board = Board(broker, comparing(place))
    assert board.take(order_of(good, 1)).verdict == "live"  # none to compare with
    said = board.take(order_of(worse, 2))
    assert (said.no, said.verdict, said.live) == (2, "failed", order_of(good).digest)
    assert "accuracy on 60 test examples, the live model" in said.why
    assert "worse by more than 0.05" in said.why
    assert sorted(p.name for p in place.root.iterdir()) == ["a", "current"]
    again = Board(broker, comparing(place))  # the device was started anew
    assert again.take(order_of(worse, 2)).verdict == "failed"  # once is enough
    assert (
        Board(broker, comparing(place, 1.0)).take(order_of(worse, 3)).verdict == "live"
    )
    assert again.take(order_of(good, 4)).verdict == "live"  # the better one comes back


def test_a_model_that_was_refused_leaves_the_earlier_one_to_go_back_to(
    bundle: Path, worse: bytes, broker: MemoryBroker, place: DeployTarget
) -> None:
    first, second = pack_bundle(bundle), changed(pack_bundle(bundle), b"second")
    for packed in (first, second, worse):
        publish(broker, packed)
    board = Board(broker, comparing(place))
    for no, packed in enumerate((first, second, worse), 1):
        board.take(order_of(packed, no))
    assert look(place.root).digests["b"] == order_of(second).digest.hex()
    assert roll_back(place.root) == "a"
    assert look(place.root).digests["a"] == order_of(first).digest.hex()


def test_without_test_examples_a_delivery_is_refused_with_the_remedy(
    bundle: Path, broker: MemoryBroker, place: DeployTarget, tmp_path: Path
) -> None:
    packed = pack_bundle(bundle)
    publish(broker, packed)
    examples = DividedExamples(held(), None, tmp_path)
    test = ModelTest(load_task("digits"), 0.05, examples.held_so_far)
    board = Board(broker, replace(place, test=test))
    said = board.take(order_of(packed))
    assert (said.verdict, said.live) == ("refused", None)
    assert "none were held out so far" in said.why
    assert "Set holdout in the run's settings" in said.why
    examples.train(Holdout(0.2, 7))
    assert board.take(order_of(packed, 2)).verdict == "live"


def test_after_a_restart_the_same_examples_are_held_out_for_tests(
    tmp_path: Path,
) -> None:
    before = DividedExamples(held(), None, tmp_path)
    wanted, _ = before.held(Holdout(0.2, 7))
    again, why = DividedExamples(held(), None, tmp_path).held_so_far()
    assert wanted is not None
    assert again is not None
    assert np.array_equal(wanted.inputs, again.inputs)
    assert why == ""
    _, why = DividedExamples(
        load_digits()[0].take(slice(0, 9)), None, tmp_path
    ).held_so_far()
    assert why == "none of those that were held out are left"


@pytest.mark.parametrize("wrong", [float("nan"), 7.0])
def test_a_metric_that_has_no_value_is_named_and_the_live_model_stays(
    bundle: Path, broker: MemoryBroker, place: DeployTarget, wrong: float
) -> None:
    packed = pack_bundle(bundle)
    publish(broker, packed)
    odd = Metric("odd", lambda _, __: [1.0], lambda _: wrong, range=(0, 1))
    task = replace(load_task("digits"), metrics=(odd,))
    test = ModelTest(task, 0.0, lambda: (held(), ""))
    said = Board(broker, replace(place, test=test)).take(order_of(packed))
    assert (said.verdict, said.live) == ("failed", None)
    assert "odd" in said.why


def test_a_board_without_torch_compares_models_too(
    bundle: Path,
    worse: bytes,
    broker: MemoryBroker,
    place: DeployTarget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge_sdk.deploy.model_test.torch_is_here", lambda: False)
    good = pack_bundle(bundle)
    for packed in (good, worse):
        publish(broker, packed)
    board = Board(broker, comparing(place))
    assert board.take(order_of(good, 1)).verdict == "live"
    assert "accuracy on 60 test examples" in board.take(order_of(worse, 2)).why


def test_a_device_that_died_in_the_test_has_the_model_before_and_says_so(
    bundle: Path, broker: MemoryBroker, place: DeployTarget
) -> None:
    first, second = pack_bundle(bundle), changed(pack_bundle(bundle), b"second")
    for packed in (first, second):
        publish(broker, packed)
    Board(broker, place).take(order_of(first, 1))
    unpack_bundle(second, place.root.parent / "second")
    script = (
        "import os, signal, shutil, sys\n"
        "from pathlib import Path\n"
        "from edge_sdk.deploy.slots import install\n"
        "root, bundle = map(Path, sys.argv[1:])\n"
        "install(root, lambda f: shutil.copytree(bundle, f), name='x', tag='2',\n"
        "        test=lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, place.root, place.root.parent / "second"],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    board = Board(broker, place)
    board.installer.greet()
    said = board.word()
    assert (said.no, said.verdict, said.why) == (2, "failed", CUT)
    assert said.live == order_of(first).digest
    assert sorted(p.name for p in place.root.iterdir()) == ["a", "current"]
