"""Puts a server together on real parts: broker, MQTT, ledger, terminal."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from msgspec import structs

from coordinator.algorithms.privacy import check_budget, keep_noise, keep_spent
from coordinator.broker.watch import watched
from coordinator.identity.broker_access import identities_for, open_broker_access
from coordinator.identity.muted import Muted
from coordinator.identity.revocation import RevocationWatcher
from coordinator.ledger import open_ledger
from coordinator.protocol.link import link_to
from coordinator.server.log_file import keep_log
from coordinator.server.loop import Server
from coordinator.settings import RunSettings
from coordinator.settings.extension import extended, extended_rounds
from coordinator.views.page import page_process
from coordinator.views.report import leave_report
from coordinator.views.terminal.display import live
from edge_sdk.infer.run_key import make_run_key
from edge_sdk.sparse import check_ladder
from edge_sdk.tasks.layers import layers_of, make_model
from edge_sdk.tasks.model_state import check_model
from edge_sdk.tasks.parts.run_task import run_task
from edge_sdk.tasks.task import Examples, Task, load_task
from edge_sdk.terminal import OutputOptions, log_from_now_on, on_stop

__all__ = ["check_run", "serve"]

log = logging.getLogger(__name__)


def serve(
    folder: Path, settings: RunSettings, look: OutputOptions, *, linger: bool = False
) -> None:
    """Runs the federation of a folder to its end, or until a signal.

    Args:
        folder: The run's folder.
        settings: What its ``run.toml`` says.
        look: How to show what it does.
        linger: Whether its end waits for every delivery, also to devices not here.

    Raises:
        EdgeError: If it cannot start; everything started is stopped again.
    """
    log_from_now_on(run=settings.federation)
    task = run_task(load_task(settings.task, beside=folder), settings)
    examples = check_run(settings, task)
    identities = identities_for(folder, settings)
    if identities is None:
        log.warning("plain MQTT without identities: for this machine only")
    with ExitStack() as stack:
        stack.callback(leave_report, folder)  # last, whatever ended the run
        ledger = open_ledger(folder)
        stack.callback(ledger.close)
        check_budget(ledger, settings, where=f"{folder / 'run.toml'}: ")
        privacy = settings.privacy
        keep_noise(ledger, privacy.noise_multiplier, distributed=privacy.distributed)
        keep_spent(ledger, settings)
        stack.enter_context(keep_log(folder))
        make_run_key(folder)  # signs what is exported from here
        access = stack.enter_context(open_broker_access(folder, settings, identities))
        log.info("broker (%s): %s", access.broker.kind, access.broker.url)
        stack.enter_context(page_process(folder, settings.page))
        observe = stack.enter_context(live(look))
        muted = Muted(time.monotonic)
        stack.enter_context(watched(access.broker))
        stopped = threading.Event()
        while not stopped.is_set():
            with ExitStack() as once:
                server = Server(
                    settings,
                    task,
                    examples,
                    ledger,
                    link_to(
                        access.address,
                        settings.federation,
                        patient=True,
                        linked=partial(_say_broker, folder, access.broker.url),
                    ),
                    identities=identities,
                    linger=linger,
                    observe=observe,
                    mute=muted.mute,
                )
                once.callback(server.close)
                on_stop(partial(_stop, stopped, server))
                if identities is not None:
                    watcher = RevocationWatcher(
                        identities,
                        access.broker,
                        access.access_control,
                        access.takeover,
                        revoked=server.revoked,
                        rotated=server.rotated,
                        muted=muted,
                    )
                    once.enter_context(watcher)
                if not server.run():
                    return
            rounds, training = extended(
                settings.rounds, settings.training, extended_rounds(folder)
            )
            log.info("the run was extended to %d rounds", rounds)
            settings = structs.replace(settings, rounds=rounds, training=training)


def _say_broker(folder: Path, url: str) -> None:
    """Writes which broker answers into the run's folder."""
    try:
        (folder / "broker.url").write_text(url + "\n", encoding="utf-8")
    except OSError as error:
        log.warning("%s cannot be written: %s", folder / "broker.url", error)


def _stop(stopped: threading.Event, server: Server) -> None:
    """Ends the server, and starts no other one of an extended run."""
    stopped.set()
    server.stop()


def check_run(settings: RunSettings, task: Task) -> Examples | None:
    """Refuse a run that cannot work; return the evaluation examples, if any.

    Raises:
        TaskError: If the model has nothing to mask or to train, or its state cannot
            travel.
        DensityError: If a density is below one weight per output unit.
        DataError: If there is nothing to evaluate on.
    """
    model = make_model(task, 0)
    check_model(model)
    layers = layers_of(model, task.dense_layers)
    check_ladder(layers, settings.densities)
    place = settings.evaluation
    return None if place is None else task.read_eval(place)
