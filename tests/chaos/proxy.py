"""Bad weather between one client and the broker, on every byte of a TCP connection."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

from patience import patience

__all__ = ["Gate", "Weather"]

READ = 16 * 1024
HELD_S = 0.02  # how often a held direction looks whether it may go on


@dataclass
class Weather:
    """What the link does at the moment.

    Attributes:
        latency_s: Seconds that each read waits.
        rate: Bytes per second; 0 for as fast as it goes.
        cut_after: Bytes, both ways together, after which each connection is reset.
        hold_up: Bytes towards the broker stay where they are; they pass later.
        hold_down: Bytes from the broker stay where they are.
        refuse: New connections are reset.
    """

    latency_s: float = 0.0
    rate: float = 0.0
    cut_after: int | None = None
    hold_up: bool = False
    hold_down: bool = False
    refuse: bool = False


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter
    passed: int = 0
    half_open: bool = False


class Gate:
    """A listener of its own for one client; every method may be called at any time.

    Args:
        broker_port: Where the broker listens on 127.0.0.1.
    """

    def __init__(self, broker_port: int) -> None:
        self.weather = Weather()
        self.port = 0
        self.bytes = 0  # passed so far, both ways
        self._broker_port = broker_port
        self._open: set[_Connection] = set()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._thread.start()
        assert self._ready.wait(patience(10)), "the gate does not listen"

    def sever(self) -> None:
        """Resets every connection."""
        self._do(
            lambda one: (one.client.transport.abort(), one.broker.transport.abort())
        )

    def half_open(self) -> None:
        """The broker's side of every connection ends; the client is not told."""

        def leave(one: _Connection) -> None:
            one.half_open = True
            one.broker.transport.abort()

        self._do(leave)

    def close(self) -> None:
        """Ends the listener and all connections."""
        self.sever()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(patience(5))

    def _do(self, action: Callable[[_Connection], None]) -> None:
        def all_of_them() -> None:
            for one in list(self._open):
                action(one)

        self._loop.call_soon_threadsafe(all_of_them)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", 0)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.weather.refuse:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(
                "127.0.0.1", self._broker_port
            )
        except OSError:
            writer.transport.abort()
            return
        one = _Connection(writer, up_writer)
        self._open.add(one)
        up = asyncio.ensure_future(self._pump(one, reader, up_writer, up=True))
        down = asyncio.ensure_future(self._pump(one, up_reader, writer, up=False))
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        if one.half_open:  # only the client can end it now
            await asyncio.wait((up,))
        pumps = (up, down)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self._open.discard(one)
        writer.transport.abort()
        up_writer.transport.abort()

    async def _pump(
        self,
        one: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        up: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ):
                if one.half_open:
                    continue
                weather = self.weather
                if weather.latency_s:
                    await asyncio.sleep(weather.latency_s)
                if weather.rate:
                    await asyncio.sleep(len(data) / weather.rate)
                while self.weather.hold_up if up else self.weather.hold_down:  # noqa: ASYNC110
                    await asyncio.sleep(HELD_S)
                one.passed += len(data)
                self.bytes += len(data)
                if weather.cut_after is not None and one.passed > weather.cut_after:
                    keep = len(data) - (one.passed - weather.cut_after)
                    writer.write(data[: max(keep, 0)])  # mid-packet, as a radio does
                    await writer.drain()
                    return
                writer.write(data)
                await writer.drain()
