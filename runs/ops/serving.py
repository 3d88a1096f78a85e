"""A uvicorn that drains before it exits, so that stops work over HTTP while runs end.

On SIGTERM uvicorn closes its sockets first, and shuts the application down last. Here the first
signal only starts the drain of the application's lifespan (runs/asgi/lifespan.py, found in the
lifespan state). uvicorn serves HTTP until the drain is done, and exits then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from multiprocessing import parent_process
from types import FrameType
from typing import Any

import django
import uvicorn
from django.conf import settings
from uvicorn.supervisors.watchfilesreload import WatchFilesReload

from . import leaving
from .http_protocol import HttpProtocol
from .large_messages import LargeMessagesProtocol

__all__ = ["DrainingServer", "ReloadingSupervisor", "configuration", "serve", "serve_reloaded"]

logger = logging.getLogger(__name__)

# After a second signal the process releases its resources for this long, then it exits.
_HURRY_SECONDS = 2.0
# After a shutdown in a hurry, threads that cannot be ended (an agent stuck in C) get this long.
_FORCED_LINGER_SECONDS = 0.3
# For requests in flight, each of which may wait five seconds for the database. The feeds are closed
# before. A client that does not read its close frame must not delay the exit for ever.
_GRACEFUL_SECONDS = 8
# Of one message from a client. We use none of them.
_MOST_SOCKET_BYTES = 4096


class DrainingServer(uvicorn.Server):
    """A server whose first signal drains, and whose second one leaves at once.

    ``is_supervised``: the reloader sends SIGTERM, and a Ctrl-C in the terminal reaches both
    processes. So under a supervisor only the same signal again counts as the second one.
    ``owns_process``: may end the process when something hangs; not in tests.
    """

    def __init__(
        self, config: uvicorn.Config, *, is_supervised: bool = False, owns_process: bool = False
    ) -> None:
        super().__init__(config)
        self._is_supervised = is_supervised
        self._owns_process = owns_process
        self._signals_seen: set[int] = set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGINT and SIGTERM. Called between two bytecodes of the main thread.

        uvicorn does not raise the signal again at the end: an orderly exit returns 0.
        """
        is_second = sig in self._signals_seen if self._is_supervised else bool(self._signals_seen)
        self._signals_seen.add(sig)
        self.should_exit = True
        if is_second:
            self._leave_within(2 * _HURRY_SECONDS, status=1)
            self.force_exit = True

    async def main_loop(self) -> None:
        """Serve until the first signal, and on until the application has drained."""
        await super().main_loop()
        lifespan = self._lifespan()
        if lifespan is None:
            return
        logger.info("draining: no new runs here; the same signal again leaves at once")
        draining = asyncio.ensure_future(lifespan.drain())
        try:
            while not (draining.done() or self.force_exit):
                await self.on_tick(0)  # puts the time into the headers of answers
                await asyncio.wait({draining}, timeout=0.1)
            if draining.done() and (error := draining.exception()):
                logger.error("the drain failed", exc_info=error)
        finally:
            draining.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets=sockets)
        if self.force_exit and (lifespan := self._lifespan()) is not None:
            # uvicorn skips the lifespan then. Release what can be released quickly.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(lifespan.stop(), _HURRY_SECONDS)
        # A thread (the rest of a drain) would keep the loop from closing.
        self._leave_within(self.linger_seconds, self.status)

    @property
    def linger_seconds(self) -> float:
        """How long threads that go on keep the process after the shutdown."""
        return _FORCED_LINGER_SECONDS if self.force_exit else leaving.LINGER_SECONDS

    @property
    def status(self) -> int:
        """The exit status: of the server, whatever an agent's thread still does."""
        return 1 if self.force_exit else 0

    def _lifespan(self) -> Any:
        """Return the ``runs.asgi.lifespan.Lifespan``, if the application has one."""
        return self.lifespan.state.get("lifespan")

    def _leave_within(self, seconds: float, status: int) -> None:
        if self._owns_process:
            leaving.leave_within(seconds, status)


class ReloadingSupervisor(WatchFilesReload):
    """uvicorn's reloader, with a second signal that reaches the server too."""

    def signal_handler(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit.is_set() and self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)
        super().signal_handler(sig, frame)


def configuration(application: str, **options: Any) -> uvicorn.Config:
    """Return how we serve an ASGI application, named as settings.ASGI_APPLICATION is."""
    module, _, name = application.rpartition(".")
    return uvicorn.Config(
        f"{module}:{name}",
        lifespan="on",
        http=HttpProtocol,
        # settings.LOGGING configures it.
        log_config=None,
        server_header=False,
        # uvicorn would read the environment itself.
        forwarded_allow_ips=getattr(settings, "FORWARDED_ALLOW_IPS", None),
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
        ws=LargeMessagesProtocol,
        # Compression for each reader took half as much time again, and 40 KiB of memory each.
        ws_per_message_deflate=False,
        ws_max_size=_MOST_SOCKET_BYTES,
        **options,
    )


def serve(config: uvicorn.Config, sockets: list[socket.socket]) -> None:
    """Serve in this process until a signal ends it; then the process ends, too."""
    _serve(DrainingServer(config, owns_process=True), sockets)


def serve_reloaded(config: uvicorn.Config, sockets: list[socket.socket]) -> None:
    """Serve as the child of a ReloadingSupervisor, and end when that one is gone."""
    # Configures logging before the first line. uvicorn imports the application itself.
    django.setup()
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    _serve(DrainingServer(config, is_supervised=True, owns_process=True), sockets)


def _serve(server: DrainingServer, sockets: list[socket.socket]) -> None:
    server.run(sockets=sockets)
    leaving.leave(server.status, seconds=server.linger_seconds)
    if server.status:
        raise SystemExit(server.status)


def _end_with_parent() -> None:
    """Drain when the supervisor was killed; the port would stay taken otherwise."""
    parent: Any = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
