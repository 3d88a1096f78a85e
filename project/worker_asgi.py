"""What a worker process serves (`manage.py runworker`): its health, agents, the worker itself.

The same server and the same lifespan as the site's: what ends one process properly ends the other.
"""

from __future__ import annotations

import os

import django
from channels.routing import ChannelNameRouter, ProtocolTypeRouter

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup(set_prefix=False)

from project.lifespan import Lifespan  # noqa: E402 - after the settings
from project.probes import ProbeHandler  # noqa: E402
from runs.consumers import AGENTS_CHANNEL, AgentConsumer  # noqa: E402

application = Lifespan(
    ProtocolTypeRouter(
        {
            "http": ProbeHandler(),
            "channel": ChannelNameRouter({AGENTS_CHANNEL: AgentConsumer.as_asgi()}),
        }
    ),
    is_worker=True,
    urlconf="project.probe_urls",
)
