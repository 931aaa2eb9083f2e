"""A whole federation in this process: agents in threads around a server."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from patience import patience

from coordinator.server.loop import Server
from edge_sdk.agent import Agent

JOIN_S = 30.0


def run_around(server: Server, agents: Sequence[Agent]) -> list[BaseException]:
    """Runs them to the run's end and closes them all; returns what agents died of.

    Whatever happens nothing of them is left: an agent that is not closed asks for its
    broker, which is gone, to the end of the suite.
    """
    died: list[BaseException] = []

    def run(agent: Agent) -> None:
        try:
            agent.run(until_done=True)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            died.append(error)
            if len(died) == len(agents):
                server.stop()  # nobody is left whom it could wait for

    threads = [threading.Thread(target=run, args=(one,), daemon=True) for one in agents]
    try:
        for thread in threads:
            thread.start()
        server.run()
        for thread in threads:
            thread.join(patience(JOIN_S))
    finally:
        for one in agents:
            one.stop()
        for thread in threads:
            thread.join(patience(JOIN_S))
        for one in agents:
            one.close()
        server.close()
    return died
