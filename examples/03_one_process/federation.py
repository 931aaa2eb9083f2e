"""A coordinator and two devices in one process, over a broker in memory."""

import threading
from pathlib import Path

import msgspec

from coordinator.ledger import open_ledger
from coordinator.server.loop import Server
from coordinator.settings import RunSettings, TrainingSettings, WarmUpSettings
from coordinator.views.terminal.status import summary
from device_profiles import load_board
from edge_sdk import load_task
from edge_sdk.agent import Agent, Identity
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.storage.journal import Journal
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.memory import MemoryBroker

HERE = Path(__file__).parent
DEVICES = {"pi": "raspberry_pi_4b_4gb", "orin": "jetson_orin_nano"}

task = load_task("digits")
broker = MemoryBroker()
folders = prepare_folders(
    "digits", HERE / "cache", HERE / "data", list(DEVICES), alpha=1.0, seed=1
)
settings = RunSettings(
    federation="one-process",
    task="digits",
    evaluation=folders["evaluation"],
    densities=[0.1, 0.4],
    rounds=10,
    training=TrainingSettings(rate=0.2),
    warm_up=WarmUpSettings(devices=1, epochs=2),
)


def device(name: str) -> Agent:
    """One device with its own data and journal."""
    examples = load_partition(folders[name])
    profile = msgspec.to_builtins(load_board(DEVICES[name]))
    return Agent(
        Identity(name, "one-process", "digits", len(examples), profile),
        broker.connect,
        Journal(HERE / "state" / name),
        TaskRunner(task, examples, "auto"),
    )


agents = [device(name) for name in DEVICES]
threads = [threading.Thread(target=a.run, kwargs={"until_done": True}) for a in agents]
for thread in threads:
    thread.start()
run = HERE / "run"
run.mkdir(exist_ok=True)
ledger = open_ledger(run)
server = Server(
    settings, task, task.eval_data(settings.evaluation), ledger, broker.connect
)
server.run()
for thread in threads:
    thread.join()
for agent in agents:
    agent.close()
server.close()
ledger.close()

found = summary(run)
print(f"rounds done: {found['rounds_done']}")
scores = found["scores"]
for density, score in scores[max(scores, key=int)].items():
    print(f"density {density}: accuracy {score['accuracy']:.3f}")
