"""The site's ASGI application with its static files, as Django's own runserver serves them.

Only in debug mode: in production a web server has them, or WhiteNoise.
"""

from __future__ import annotations

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.utils.module_loading import import_string

__all__ = ["application"]

application = ASGIStaticFilesHandler(import_string(settings.ASGI_APPLICATION))
