"""The OpenAPI document, and the page to read and try it. Both need no login."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, ClassVar

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import translation
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from drf_spectacular.settings import SPECTACULAR_DEFAULTS, patched_settings
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from runs.web import addresses

from .views import ApiView

__all__ = ["SchemaView", "docs"]

#: drf-spectacular's own defaults, and what we want otherwise: a site has settings for its own
#: document. ENUM_NAME_OVERRIDES stays the site's, since drf-spectacular reads it only once.
_SETTINGS: dict[str, Any] = {
    **{
        name: value
        for name, value in SPECTACULAR_DEFAULTS.items()
        if not name.startswith("SERVE_")
        and name not in {"DEFAULT_GENERATOR_CLASS", "ENUM_NAME_OVERRIDES"}
    },
    "TITLE": "Halting",
    "DESCRIPTION": "Run LLM agents, watch them, and stop any one of them for real.",
    "VERSION": "0.2.0",
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
}


class _AlsoByFormat(DefaultContentNegotiation):
    """By Accept, or by ``?format=yaml``."""

    settings: Any = SimpleNamespace(URL_FORMAT_OVERRIDE="format")


class SchemaView(ApiView):
    """The OpenAPI document, as JSON unless the client prefers YAML."""

    authentication_classes: Any = []
    permission_classes: Any = [AllowAny]
    renderer_classes: Any = [
        OpenApiJsonRenderer2,
        OpenApiJsonRenderer,
        OpenApiYamlRenderer,
        OpenApiYamlRenderer2,
    ]
    content_negotiation_class: Any = _AlsoByFormat
    schema = None  # not in the document itself
    #: The addresses that the document describes.
    patterns: Any = None

    #: By prefix: the document depends on nothing else.
    _documents: ClassVar[dict[str, Any]] = {}
    # drf-spectacular's settings are one object of the process, and are changed for a moment.
    _lock = threading.Lock()

    def get(self, request: Request) -> Response:
        """Return the document."""
        prefix = addresses.prefix()
        with self._lock:
            if prefix not in self._documents:
                self._documents[prefix] = self._make(prefix)
        name = f"Halting.{request.accepted_renderer.format}"
        disposition = {"Content-Disposition": f'inline; filename="{name}"'}
        return Response(self._documents[prefix], headers=disposition)

    def _make(self, prefix: str) -> Any:
        settings = {**_SETTINGS, "SCHEMA_PATH_PREFIX_INSERT": prefix.rstrip("/")}
        # In English, whatever the language of the first reader.
        with translation.override(None), patched_settings(settings):
            generator = SchemaGenerator(patterns=self.patterns)  # type: ignore[no-untyped-call]
            return generator.get_schema(public=True)  # type: ignore[no-untyped-call]


@login_not_required
@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """Show Swagger UI, with its scripts in files, as a Content-Security-Policy demands."""
    return render(request, "runs/api_docs.html")
