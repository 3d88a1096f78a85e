"""The ASGI application of `manage.py runworker`: health and metrics; the lifespan has the worker.

It has the server and the lifespan of the site, so both kinds of process end in the same way.
"""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup(set_prefix=False)

from project.lifespan import Lifespan  # noqa: E402 - after the settings
from project.probes import ProbeHandler  # noqa: E402

application = Lifespan(ProbeHandler(), is_worker=True, urlconf="project.probe_urls")
