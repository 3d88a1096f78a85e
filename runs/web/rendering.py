"""JSON as our doors write it, whatever the site's REST_FRAMEWORK says about its own."""

from __future__ import annotations

from rest_framework.renderers import JSONRenderer

__all__ = ["JsonRenderer"]


class JsonRenderer(JSONRenderer):
    """Compact, in UTF-8, without NaN."""

    ensure_ascii = False
    compact = True
    strict = True
