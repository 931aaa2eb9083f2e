"""A whole run of two devices in this process, on any address of a broker."""

from __future__ import annotations

import hashlib
import itertools
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from in_threads import run_around
from limiting import LimitingBroker
from torch import nn

import export
from coordinator.delivery.store import DeliveryStore
from coordinator.ledger import open_ledger
from coordinator.protocol.link import link_to
from coordinator.server.loop import Server
from coordinator.settings import CodecSettings, RunSettings, TrainingSettings
from coordinator.views.terminal.status import summary
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.checkpoint import Checkpoint
from edge_sdk.deploy.slots import look
from edge_sdk.deploy.target import DeployTarget
from edge_sdk.infer.packed import files_in, pack_bundle
from edge_sdk.sparse import draw
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import Deliver, OnLink, Will
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.wire.blob import blob_id, manifest_of

__all__ = ["CHUNKS", "pack_wide", "run_through"]

UNITS = 2200  # a model of 660 KB: ten chunks, above every limit of filters
CHUNKS = 10
_RUNS = itertools.count(1)  # each is a federation of its own


def examples(_: Path = Path()) -> Examples:
    rng = np.random.default_rng(0)
    return Examples(
        rng.normal(size=(8, 64)).astype(np.float32), np.arange(8, dtype=np.int64)
    )


TASK = Task(
    name="wide",
    model=lambda: nn.Sequential(nn.Linear(64, UNITS), nn.ReLU(), nn.Linear(UNITS, 10)),
    loss=nn.functional.cross_entropy,
    train_data=examples,
    eval_data=examples,
    input_shape=(64,),
)


def pack_wide(folder: Path) -> bytes:
    """A packed bundle of the model, of several chunks."""
    model = TASK.model()
    layers = layers_of(model)
    mask = draw(layers, {layer.name: layer.numel // 3 for layer in layers}, 1)
    state = {name: t.numpy() for name, t in model.state_dict().items()}
    checkpoint = Checkpoint(
        task="whole_run:TASK",
        round_no=1,
        layers=layers,
        mask=mask,
        values={layer.name: state[layer.name][mask[layer.name]] for layer in layers},
        dense={n: a for n, a in state.items() if n not in mask.layers},
        metrics={"accuracy": 0.5},
    )
    export.make_bundle(checkpoint, folder, formats=("native",), seconds=0)
    return pack_bundle(folder)


def run_through(
    there: Address,
    folder: Path,
    *,
    coordinator: Address | None = None,
    rounds: int = 2,
    cut: LimitingBroker | None = None,
    packed: bytes | None = None,
) -> dict[str, object]:
    """A run of two devices on a broker; what its status says at the end.

    Args:
        there: The broker, with the limits that both sides know.
        folder: Where it is kept.
        coordinator: The broker as the coordinator reaches it, if in another way.
        rounds: How many.
        cut: A proxy whose links are cut each time that a device trains.
        packed: A bundle to deliver to both devices; it is live there at the end.
    """
    # What a run leaves at a broker, "done" above all, is no other's.
    home = f"home-{next(_RUNS)}"
    settings = RunSettings(
        federation=home,
        task="wide",
        evaluation=folder,
        densities=[1.0],
        rounds=rounds,
        algorithm="erk",
        wait_for=2,
        training=TrainingSettings(max_steps=1),
        codec=CodecSettings(up="fp32", down="fp32", zstd=False),
    )
    profile = msgspec.to_builtins(load_board("jetson_orin_nano"))

    def connect(
        name: str, deliver: Deliver, on_link: OnLink, will: Will
    ) -> MqttTransport:
        return MqttTransport(there, name, deliver, on_link, will=will, window=64)

    class Runner(TaskRunner):
        def run(self, *given: object, **named: object) -> object:  # type: ignore[override]
            if cut is not None:
                cut.cut()
            return super().run(*given, **named)  # type: ignore[arg-type]

    agents, places = [], []
    for name in ("pi-1", "pi-2"):
        me = Identity(name, home, "wide", 8, profile)
        runner = Runner(TASK, examples(), "masked", micro_batch=0)
        place = DeployTarget(folder / f"{name}-models", folder / name)
        linked, journal = partial(connect, name), Journal(folder / name)
        agents.append(Agent(me, linked, journal, runner, place=place))
        places.append(place)
    ledger = open_ledger(folder / "run")
    with closing(ledger):
        if packed is not None:
            _deliver(ledger.folder, packed)
        server = Server(
            *(settings, TASK, examples(), ledger, link_to(coordinator or there, home)),
            linger=packed is not None,
        )
        assert run_around(server, agents) == []
    if packed is not None:
        for slots in (look(place.root) for place in places):
            assert slots.live is not None
            assert slots.digests[slots.live] == _digest(packed).hex()
    return summary(folder / "run")


def _deliver(folder: Path, packed: bytes) -> None:
    DeliveryStore(folder).add(
        *(packed, blob_id(manifest_of(packed))),
        digest=_digest(packed),
        key=None,
        label="wide, round 1",
        devices=["pi-1", "pi-2"],
    )


def _digest(packed: bytes) -> bytes:
    return hashlib.sha256(files_in(packed)["manifest.json"]).digest()
