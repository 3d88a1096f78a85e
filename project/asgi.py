"""The ASGI application: HTTP by Django, sockets and agents by Channels; it hosts the worker."""

from __future__ import annotations

import os

import django
from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

# Before anything that imports models.
django.setup(set_prefix=False)

from runs.asgi.handler import Handler  # noqa: E402
from runs.asgi.lifespan import Lifespan  # noqa: E402
from runs.consumers import AGENTS_CHANNEL, AgentConsumer, RunConsumer, RunListConsumer  # noqa: E402
from runs.web.sockets import refuse_unknown_address  # noqa: E402

_sockets = URLRouter(
    [
        re_path(r"^ws/runs/?\Z", RunListConsumer.as_asgi()),
        re_path(r"^ws/runs/(?P<id>[^/]+)/?\Z", RunConsumer.as_asgi()),
        # Without it URLRouter raises, and the log fills with tracebacks.
        re_path(r"", refuse_unknown_address),  # type: ignore[arg-type]  # ASGI, not a view
    ]
)

application = Lifespan(
    ProtocolTypeRouter(
        {
            "http": Handler(),
            # runs/web/sockets.py checks the user and the Origin.
            "websocket": _sockets,
            # What other processes send to the worker of this one; the lifespan listens.
            "channel": ChannelNameRouter({AGENTS_CHANNEL: AgentConsumer.as_asgi()}),
        }
    )
)
