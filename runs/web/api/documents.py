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


class DocsView(SpectacularSwaggerSplitView):
    """Swagger UI with its script in a file, as the Content-Security-Policy demands."""

    authentication_classes: Any = []
    url_name = "api-schema"
