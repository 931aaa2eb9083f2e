"""`coordinator.Federation` with real processes over a real broker."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from patience import patience

import coordinator
from edge_sdk import Examples, Task
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.errors import (
    DensityError,
    EdgeError,
    IdentityError,
    RunError,
    SettingsError,
    StateError,
)

pytestmark = pytest.mark.broker
DEVICES = ("pi-1", "pi-2")


@pytest.fixture
def site(tmp_path: Path) -> Iterator["Site"]:
    site = Site(tmp_path)
    yield site
    site.close()


class Site:
    """Data of two devices, and their processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = prepare_folders(
            "digits", folder / "cache", folder / "data", DEVICES, alpha=1.0, seed=1
        )
        self.agents: list[subprocess.Popen[bytes]] = []

    def federation(self, **more: object) -> coordinator.Federation:
        given = {
            "evaluation": self.data["evaluation"], "rounds": 2, "densities": [0.2, 0.4],
            "wait_for": 2,
            "training": {"max_steps": 5}, "warm_up": {"epochs": 1, "max_steps": 5},
        }  # fmt: skip
        return coordinator.Federation(
            self.folder / "run", "digits", **{**given, **more}
        )

    def join(self, name: str, line: str) -> None:
        """What a person does with the line, but that our data lies elsewhere."""
        own = self.folder / name
        own.mkdir()
        (own / "data").symlink_to(self.data[name])
        bin_ = Path(sys.executable).parent
        with (self.folder / f"{name}.log").open("wb") as log:
            self.agents.append(
                subprocess.Popen(
                    ["bash", "-c", f"{line} --until-done"],
                    cwd=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"},
                    start_new_session=True,
                )
            )  # fmt: skip

    def close(self) -> None:
        for agent in self.agents:
            for process in [*psutil.Process(agent.pid).children(recursive=True), agent]:
                process.kill()
            agent.wait()


def of_run(folder: Path) -> list[str]:
    """Processes whose command line names the folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder / "run") in line and process.info["status"] != "zombie":
            found.append(line)
    return found


def test_two_devices_join_by_the_line_and_the_run_is_read_and_gone_on_with(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with site.federation() as federation:
        assert federation.running
        assert federation.broker.startswith("mqtts://")
        with pytest.raises(StateError, match="holds no model yet"):
            federation.run.model(0.2)
        for name in DEVICES:
            site.join(name, federation.join(name))
        run = federation.wait(1, timeout_s=patience(120))
        assert federation.status().rounds_done >= 1
    assert not of_run(site.folder)
    said = capsys.readouterr().out
    assert "warm-up: 2 updates" in said
    assert re.search(r"round 1 of 2: 2 updates, accuracy .* at 0.2, .* at 0.4", said)
    assert run.history["round"][:2].tolist() == [0, 1]
    assert run.history["accuracy@0.2"].shape == run.history["round"].shape
    assert list(run.history)[:4] == ["round", "loss", "bytes_up", "bytes_down"]
    assert (run.history["loss"] > 0).all()
    assert (np.diff(run.history["bytes_up"]) > 0).all()
    model = run.model(0.2)
    assert not model.training
    assert sum(int((p == 0).sum()) for p in model.parameters()) > 0
    with pytest.raises(DensityError, match="no model of density"):
        run.model(0.3)

    again = coordinator.Federation(site.folder / "run")  # the folder says all
    rounds = []
    try:
        again.start()
        again.wait(timeout_s=patience(120), progress=rounds.append)
    finally:
        again.stop()
    assert [r.no for r in rounds][-1] == 2
    assert again.run.history["round"].tolist() == [0, 1, 2]
    assert not of_run(site.folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_ends_the_block_leaves_no_process(
    site: Site, error: type[BaseException]
) -> None:
    def block() -> None:
        with federation:
            assert of_run(site.folder)
            with pytest.raises(StateError, match=r"runs in .* already"):
                site.federation().start()
            with pytest.raises(RunError, match="waited 0 s for round 2"):
                federation.wait(timeout_s=0)
            raise error

    federation = site.federation()
    with pytest.raises(error):
        block()
    assert not of_run(site.folder)
    assert not federation.running


def test_a_coordinator_that_cannot_start_says_why(site: Site) -> None:
    federation = site.federation(broker="mqtt://127.0.0.1:9", insecure=True)
    run = site.folder / "run/run.toml"
    text = run.read_text()
    run.write_text('broker_ca = "gone"\n' + text.replace("mqtt://127", "mqtts://127"))
    with pytest.raises(
        RunError, match=r"(?s)has ended before its broker.*error: .*gone"
    ):
        federation.start()
    run.write_text(text)
    with pytest.raises(RunError, match=r"waited 8 s for its broker to answer"):
        federation.start(timeout_s=8)  # one that may come by itself is waited for
    assert not of_run(site.folder)


def test_without_identities_a_line_lets_a_device_of_this_machine_in(site: Site) -> None:
    federation = site.federation(insecure=True, wait_for=1, rounds=1)
    with pytest.raises(StateError, match="no broker yet"):
        federation.join("pi-1")
    with federation:
        with pytest.raises(IdentityError, match="'Pi 1' is no device's name"):
            federation.join("Pi 1")
        site.join("pi-1", federation.join("pi-1"))
        run = federation.wait(timeout_s=patience(120))
    # Not that it is round 1: a device without processor time misses a deadline.
    assert run.history["round"].tolist()[0] == 0
    assert len(run.history["round"]) == 2


def test_evaluation_is_given_as_examples(site: Site) -> None:
    inputs = np.random.default_rng(0).random((30, 1, 8, 8), np.float32)
    pair = inputs, np.arange(30) % 10
    federation = site.federation(evaluation=pair)
    assert len(load_partition(federation.settings.evaluation, part="eval")) == 30
    assert site.federation(evaluation=Examples(*pair)).settings == federation.settings
    with pytest.raises(StateError, match="with other inputs of evaluation"):
        site.federation(evaluation=Examples(inputs + 1, pair[1]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            (np.zeros((4, 5)), np.zeros(4, int)),
            "examples of evaluation raised",
        ),
        (np.zeros((4, 1, 8, 8)), "evaluation is a ndarray, not"),
        ((np.zeros((4, 1, 8, 8)), np.zeros(3, int)), "4 inputs but 3 targets"),
        (5, "evaluation is an int, not"),
    ],
)
def test_evaluation_that_does_not_fit_leaves_no_folder(
    site: Site, given: object, message: str
) -> None:
    with pytest.raises(EdgeError, match=message):
        site.federation(evaluation=given)
    assert not (site.folder / "run").exists()


def test_arguments_that_cannot_be_are_refused_at_once(site: Site) -> None:
    site.federation()
    with pytest.raises(StateError, match="another rounds: 2, not 3"):
        site.federation(rounds=3)
    here = Task(name="here", model=lambda: None, loss=len, input_shape=(1,))  # type: ignore[arg-type]
    other = site.folder / "other"
    for given, message in (
        ({"task": here}, "task is a Task that no module holds"),
        ({"task": "digits", "rounds": "many"}, "key rounds: Expected `int`"),
        ({"task": "digits", "roundz": 1}, "unknown field `roundz`"),
        ({"task": "digits", "evaluation": None}, "evaluation is not given"),
        ({}, "holds no run, and no task"),
    ):
        with pytest.raises(SettingsError, match=message):
            coordinator.Federation(
                site.folder / "other",
                **{"evaluation": site.data["evaluation"], **given},
            )
    assert not other.exists()
