"""Answer probes by whatever name they come.

A balancer, an orchestrator and Prometheus reach a process by its address, which ALLOWED_HOSTS
rightly doesn't have. Nothing that they are told depends on the Host they name, so for them alone it
isn't looked at.
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
    urlconf = "project.probe_urls"  # which Django asks each request for

    def get_host(self) -> str:
        return "probe"


class ProbeHandler(Handler):
    """Django, with no other addresses than those of ``project.probe_urls``."""

    request_class = _ProbeRequest


class Probes:
    """ASGI wrapper: probes go to ``ProbeHandler``, all else to ``app``."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._handler = ProbeHandler()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and _PATH.fullmatch(scope["path"]):
            await self._handler(scope, receive, send)
        else:
            await self._app(scope, receive, send)
