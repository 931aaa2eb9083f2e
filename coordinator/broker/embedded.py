"""The pure-Python broker as a process of its own: `python -m ... HOST PORT`.

Its event loop stays apart from the coordinator's, so neither delays the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys

__all__ = ["main", "serve"]

CONFIG_PLUGINS = {
    "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
}


async def serve(host: str, port: int) -> None:
    """Serves MQTT 3.1.1 until SIGTERM or SIGINT.

    Args:
        host: Address to listen on.
        port: TCP port.
    """
    from amqtt.broker import Broker  # noqa: PLC0415 - an extra, and slow to import

    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
        "plugins": CONFIG_PLUGINS,  # its defaults log every packet
    }
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker = Broker(config)
    await broker.start()
    await stop.wait()
    # Nothing lasts beyond a broker's life here, so a hanging client may be cut off.
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(broker.shutdown(), timeout=2)


def main() -> None:
    """Reads host and port from the command line and serves."""
    logging.basicConfig(
        level=logging.ERROR, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))


if __name__ == "__main__":
    main()
