"""The ASGI application of `manage.py runworker`: health, metrics, and agents by Channels.

It has the server and the lifespan of the site, so both kinds of process end in the same way.
"""

from __future__ import annotations

import django
from channels.routing import ProtocolTypeRouter

# Before anything that imports models.
django.setup(set_prefix=False)

from runs.asgi.application import agents_channel  # noqa: E402
from runs.asgi.handler import ProbeHandler  # noqa: E402
from runs.asgi.lifespan import Lifespan  # noqa: E402
from runs.web.error_pages import PROBE_URLCONF  # noqa: E402

application = Lifespan(
    ProtocolTypeRouter({"http": ProbeHandler(), "channel": agents_channel}),
    is_worker=True,
    urlconf=PROBE_URLCONF,
)
