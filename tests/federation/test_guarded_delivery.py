"""Models to certified devices: mosquitto under mutual TLS, with the run's own rules."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.proxy import Gate
from patience import patience

import export
from coordinator.views.terminal.status import summary
from edge_sdk.checkpoint import Checkpoint, save_checkpoint
from edge_sdk.deploy.slots import look
from edge_sdk.infer.bundle import MANIFEST, digests
from edge_sdk.infer.run_key import PRIVATE
from edge_sdk.infer.signature import SIGNATURE, read_key, sign
from edge_sdk.kernels.build import find_compiler, this_machine
from edge_sdk.sparse import draw, erk, exact_counts
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import load_task
from edge_sdk.transport.address import parse_url

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
    ),
]
CHUNK = 64 << 10
LARGE = 16 << 20


@pytest.fixture
def gates() -> Iterator[list[Gate]]:
    made: list[Gate] = []
    yield made
    for gate in made:
        gate.close()


def admit(site: Any) -> None:
    """A device that takes models: well, unless a file `moody` is there.

    The run waits for another device, so nothing is trained.
    """
    site.admit("pi-1")
    with site.settings("pi-1").open("r+") as file:
        rest = file.read()
        file.seek(0)
        health = f"test ! -e {site.folder}/moody"
        file.write(f"models = 'models'\nhealth = \"{health}\"\n{rest}")


def bundle_of(site: Any, folder: str) -> Path:
    """A bundle of a model that nobody has trained, signed by the run."""
    task = load_task("digits")
    model = task.model()
    layers = layers_of(model, task.dense_layers)
    mask = draw(layers, exact_counts(erk(layers), layers, 0.4), 1)
    state = {n: t.detach().numpy() for n, t in model.state_dict().items()}
    checkpoint = Checkpoint(
        task="digits", round_no=1, layers=layers, mask=mask,
        values={n: state[n][mask[n]] for n in mask},
        dense={n: a for n, a in state.items() if n not in mask.layers}, metrics={},
    )  # fmt: skip
    path, out = site.run / "models" / "untrained.safetensors", site.folder / folder
    path.parent.mkdir(exist_ok=True)
    save_checkpoint(path, checkpoint)
    export.make_bundle(path, out, formats=("native",), seconds=0)
    return Path(out)


def signed_again(site: Any, bundle: Path, name: str, content: bytes) -> None:
    """The bundle with one more file, listed and signed by the run."""
    (bundle / name).write_bytes(content)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"] = digests(bundle)
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    signature = sign((bundle / MANIFEST).read_bytes(), read_key(site.run / PRIVATE))
    (bundle / SIGNATURE).write_text(signature)


def verdict(site: Any) -> tuple[int, str]:
    devices = summary(site.run)["devices"]  # none before the first HELLO
    last = devices[0]["delivery"] if devices else None
    return (0, "") if last is None else (int(last["no"]), str(last["verdict"]))


def live(site: Any) -> str:
    slots = look(site.folder / "pi-1" / "models")
    return slots.digests[slots.live] if slots.live else ""


def test_a_signed_bundle_goes_live_and_an_app_that_is_not_well_gets_its_old_one_back(
    site: Any,
) -> None:
    admit(site)
    site.start_device("pi-1")
    first = bundle_of(site, "first")
    signed_again(site, first, "note.txt", b"first")
    site.coordinator("deliver", site.run, first)
    site.wait(lambda: verdict(site) == (1, "live"), "the model")
    before = live(site)
    assert before != ""

    (site.folder / "moody").touch()
    signed_again(site, first, "note.txt", b"second")
    site.coordinator("deliver", site.run, first)
    site.wait(lambda: verdict(site) == (2, "failed"), "the way back")
    assert live(site) == before
    assert "was live in slot b for a moment" in site.log("pi-1")
    assert not site.ended("pi-1")


def arrived(site: Any) -> int:
    """Bytes of a bundle that is on its way, as whole chunks that are on the disk."""
    parts = (p for p in site.folder.glob("pi-1/**/bundles/*") if p.is_file())
    content = next((p.read_bytes() for p in parts), b"")
    chunks = [content[i : i + CHUNK] for i in range(0, len(content), CHUNK)]
    return sum(any(chunk) for chunk in chunks) * CHUNK


def test_a_large_bundle_goes_on_where_the_link_was_cut_and_the_agent_killed(
    site: Any, gates: list[Gate]
) -> None:
    admit(site)
    broker = parse_url((site.run / "broker.url").read_text().strip())
    gate = Gate(broker.port)  # TLS passes through it unread
    gates.append(gate)
    text = site.settings("pi-1").read_text()
    assert f":{broker.port}" in text
    site.settings("pi-1").write_text(text.replace(f":{broker.port}", f":{gate.port}"))
    bundle = bundle_of(site, "large")
    signed_again(site, bundle, "weights.bin", os.urandom(LARGE))

    gate.weather.rate = LARGE / patience(4)  # seconds, to cut it in the middle
    site.start_device("pi-1")
    site.coordinator("deliver", site.run, bundle)
    site.wait(lambda: gate.bytes > LARGE * 5 // 8, "more than half of it")
    gate.weather.refuse = True
    gate.sever()
    site.wait(lambda: arrived(site) > LARGE // 4, "what had arrived on the disk")
    site.processes["pi-1"].kill()
    site.processes["pi-1"].wait()
    site.kill_broker()
    (part,) = (p for p in site.folder.glob("pi-1/**/bundles/*") if p.is_file())
    here = arrived(site)
    assert LARGE // 4 < here < LARGE
    assert verdict(site) == (1, "pending")
    assert live(site) == ""

    gate.weather.rate, gate.weather.refuse, gate.bytes = 0.0, False, 0
    site.start_device("pi-1")
    site.wait(lambda: verdict(site) == (1, "live"), "the model")
    assert LARGE - here < gate.bytes < LARGE - here + (2 << 20)  # a window may repeat
    assert (site.folder / "pi-1" / "models" / "current" / "weights.bin").stat().st_size
    assert not part.exists()
