"""Which application of a process answers: Halting's, or the site's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from channels.routing import ChannelNameRouter, URLRouter
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.urls import re_path

from runs.consumers import AGENTS_CHANNEL, AgentConsumer, RunConsumer, RunListConsumer
from runs.web import addresses
from runs.web.sockets import refuse_unknown_address

from . import kinds
from .handler import Handler, ProbeHandler

__all__ = ["App", "Application", "agents_channel"]

App = Callable[[Any, Any, Any], Awaitable[None]]

#: What other processes send to the worker of this one; the lifespan listens.
agents_channel = ChannelNameRouter({AGENTS_CHANNEL: AgentConsumer.as_asgi()})


class Application:
    """Routes a scope by its address. ``runs.asgi.get_asgi_application`` has the arguments."""

    def __init__(self, site: App | None, *, serves_site: bool) -> None:
        self._probes = ProbeHandler()
        self._handler = Handler()
        self._sockets = URLRouter(
            [
                re_path(r"^ws/runs/?\Z", RunListConsumer.as_asgi()),
                re_path(r"^ws/runs/(?P<id>[^/]+)/?\Z", RunConsumer.as_asgi()),
                # Without it URLRouter raises, and the log fills with tracebacks.
                re_path(r"", refuse_unknown_address),  # type: ignore[arg-type]  # ASGI, not a view
            ]
        )
        self._site_http: App = self._handler if serves_site else site or ASGIHandler()
        # Django's own would raise for each.
        self._site_sockets: App = site or refuse_unknown_address

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "channel":
            await agents_channel(scope, receive, send)
            return
        # As in Django's requests: FORCE_SCRIPT_NAME, or where the server has mounted us.
        path = scope["path"].removeprefix((get_script_prefix(scope) or "").rstrip("/"))
        own = addresses.own_path(path)
        if scope["type"] == "websocket":
            if own is not None and own.startswith("/ws/runs"):
                # runs/web/sockets.py checks the user and the Origin.
                await self._sockets(_without_prefix(scope, own), receive, send)
            else:
                await self._site_sockets(scope, receive, send)
        elif kinds.is_probe(own):
            await self._probes(_without_prefix(scope, own), receive, send)
        elif kinds.is_own(path, own):
            await self._handler(scope, receive, send)
        else:
            await self._site_http(scope, receive, send)


def _without_prefix(scope: Any, own: str | None) -> Any:
    """Return the scope for routes of our own, which know no prefix: of probes and sockets."""
    return {**scope, "path": own, "root_path": ""}
