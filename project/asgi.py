"""The ASGI application: HTTP by Django, sockets by Channels, the worker by the lifespan."""

from __future__ import annotations

import os
from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

# Before anything that imports models.
_http = get_asgi_application()

from project.body_limit import BodyLimit  # noqa: E402
from project.lifespan import Lifespan  # noqa: E402
from project.patience import Patience  # noqa: E402
from runs.conf import conf  # noqa: E402


async def _refuse_socket(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Refuse an unknown socket: closing before accepting is a 403 to the client."""
    await receive()
    await send({"type": "websocket.close"})


_sockets = URLRouter(
    [
        # The last one: without it URLRouter raises, and the log fills with tracebacks.
        re_path(r"", _refuse_socket),  # type: ignore[arg-type]  # ASGI, not a view
    ]
)

application = Lifespan(
    ProtocolTypeRouter(
        {
            # The API refuses exactly at the limit; beyond this nobody means well.
            "http": BodyLimit(Patience(_http), lambda: conf().max_input_bytes + 1024 * 1024),
            "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(_sockets)),
        }
    )
)
