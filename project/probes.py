"""Answer probes under any Host.

A balancer, an orchestrator and Prometheus reach a process by its address, which is rightly not in
ALLOWED_HOSTS. No answer to them depends on the Host, so for them alone Django does not check it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.handlers.asgi import ASGIRequest

from .handler import Handler

__all__ = ["ProbeHandler", "Probes"]

_PATH = re.compile(r"/(?:health/(?:live|ready)|metrics)/?")


class _ProbeRequest(ASGIRequest):
    urlconf = "project.probe_urls"  # Django reads it from each request

    def get_host(self) -> str:
        return "probe"


class ProbeHandler(Handler):
    """Django with the addresses of ``project.probe_urls`` alone."""

    request_class = _ProbeRequest


class Probes:
    """ASGI wrapper that sends probes to ``ProbeHandler`` and all other requests to ``app``."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._handler = ProbeHandler()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and _PATH.fullmatch(scope["path"]):
            await self._handler(scope, receive, send)
        else:
            await self._app(scope, receive, send)
