"""Host the worker of this process for as long as the ASGI server lives.

ProtocolTypeRouter raises on lifespan events, so this is the outermost ASGI application. Our server
(runs/ops/serving.py) finds this object in the lifespan state, and drains it while it serves HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.urls import get_resolver

from runs.conf import PUBLISHED_KEY, conf
from runs.db.lending import close_reserves, open_reserves
from runs.process.tasks import cancel_and_wait

if TYPE_CHECKING:
    from runs.worker.reaper import ReaperThread
    from runs.worker.worker import Worker

__all__ = ["Lifespan"]

logger = logging.getLogger(__name__)


class Lifespan:
    """ASGI wrapper that starts, drains and stops the worker of this process.

    Args:
        is_worker: this process is there to run agents, whatever RUNS_EMBEDDED_WORKER says.
        urlconf: whose views it serves; the site's by default.

    ``worker`` is None before start-up, and where RUNS_EMBEDDED_WORKER is off.
    ``is_draining`` turns true once, and readiness (runs/ops/health.py) says no from then on.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        *,
        is_worker: bool = False,
        urlconf: str | None = None,
    ) -> None:
        self._app = app
        self._is_worker = is_worker
        self._urlconf = urlconf
        self.worker: Worker | None = None
        self.is_draining = False
        self._is_drained = False
        self._reaper: ReaperThread | None = None
        self._listener: asyncio.Task[None] | None = None  # receives run.start and run.stop

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        await receive()  # lifespan.startup
        try:
            await self.start()
        except Exception as error:
            # The server prints the message. Of a wrong setting a traceback would only hide it.
            if not isinstance(error, ImproperlyConfigured):
                logger.exception("start-up failed")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        if "state" in scope:
            scope["state"]["lifespan"] = self
        await send({"type": "lifespan.startup.complete"})

        try:
            await receive()  # lifespan.shutdown
        except asyncio.CancelledError:
            # A server in a hurry ends without this message; ours has called stop() itself.
            return
        try:
            await self.drain()
            await self.stop()
        except Exception as error:
            logger.exception("shutdown failed")
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def start(self) -> None:
        """Start the worker, if this process is to have one.

        Raises:
            ImproperlyConfigured: sessions and tokens would be signed with a published key; or
                USE_TZ is off, and no log could be written.
        """
        if not settings.DEBUG and settings.SECRET_KEY.startswith(PUBLISHED_KEY):
            raise ImproperlyConfigured(
                "DJANGO_SECRET_KEY is required unless DJANGO_DEBUG is on: a long random text."
            )
        if not settings.USE_TZ:  # a server that runs no checks would not say so
            raise ImproperlyConfigured("USE_TZ is off; Halting's instants are aware (runs.E005).")
        # Import all views now. Otherwise the first request does so, for a second, on the loop.
        await asyncio.to_thread(lambda: get_resolver(self._urlconf).url_patterns)
        if not self._is_worker:
            open_reserves()
        if self._is_worker or conf().embedded_worker:
            # Not at the top: models can only be imported after Django's setup, and a web process
            # without a worker does not need the agents' libraries.
            from runs.consumers import listen
            from runs.worker.worker import Worker

            self.worker = Worker()
            await self.worker.start()
            self._listener = asyncio.create_task(listen(self._app, self.worker))
        else:
            from runs.worker.reaper import ReaperThread

            self._reaper = ReaperThread(conf().lease_seconds)
            self._reaper.start()

    async def drain(self) -> None:
        """Claim no more runs, and return when those of this process are over. May be repeated."""
        self.is_draining = True
        if self.worker is not None and not self._is_drained:
            await self.worker.drain()
        # Not in stop(): a server waits for its connections before it ends the lifespan, and a feed
        # would never end by itself. And not before: pages watch their runs end.
        await _send_away()
        self._is_drained = True

    async def stop(self) -> None:
        """Release everything. May be repeated."""
        self.is_draining = True
        await _send_away()
        if self._listener is not None:
            await cancel_and_wait((self._listener,))
        if self.worker is not None:
            await self.worker.stop()
        if self._reaper is not None:
            await asyncio.to_thread(self._reaper.close)
        await asyncio.to_thread(close_reserves)


async def _send_away() -> None:
    """Release the readers of feeds, and the requests that wait for the end of a run."""
    # Not at the top: they import models.
    from runs.delivery.ends import let_go
    from runs.web.feed import close_hub

    let_go()
    await close_hub()
