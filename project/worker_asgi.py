"""What a worker process serves (`manage.py runworker`): its health, and the worker by the lifespan.

The same server and the same lifespan as the site's: what ends one process properly ends the other.
"""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup(set_prefix=False)

from project.lifespan import Lifespan  # noqa: E402 - after the settings
from project.probes import ProbeHandler  # noqa: E402

application = Lifespan(ProbeHandler(), is_worker=True, urlconf="project.probe_urls")
