"""The OpenAPI document, and the page to read and try it. Both need no login."""

from __future__ import annotations

from typing import Any

from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.request import Request

__all__ = ["DocsView", "SchemaView"]


class SchemaView(SpectacularAPIView):
    """The OpenAPI document, as JSON unless the client prefers YAML."""

    renderer_classes: Any = [
        OpenApiJsonRenderer2,
        OpenApiJsonRenderer,
        OpenApiYamlRenderer,
        OpenApiYamlRenderer2,
    ]
    authentication_classes: Any = []

    def _get_version_parameter(self, request: Request) -> None:
        """Ignore ``?version=``: there is one version, and its text would be in a header."""


class DocsView(SpectacularSwaggerSplitView):
    """Swagger UI with its script in a file, as the Content-Security-Policy demands."""

    authentication_classes: Any = []
    http_method_names = ["get", "head"]  # DRF would answer OPTIONS by a template that we don't have
    url_name = "api-schema"
