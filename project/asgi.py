"""The ASGI application: HTTP by Django, sockets and agents by Channels; it hosts the worker."""

from __future__ import annotations

import os

from runs.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

# All middleware and views of this project are synchronous.
application = get_asgi_application(serves_site=True)
