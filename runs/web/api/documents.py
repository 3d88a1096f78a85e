"""The OpenAPI document, and the page to read it and try it out. Both need no login."""

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
    """The OpenAPI document: JSON, which is YAML as well, unless YAML is asked for."""

    renderer_classes: Any = [
        OpenApiJsonRenderer2,
        OpenApiJsonRenderer,
        OpenApiYamlRenderer,
        OpenApiYamlRenderer2,
    ]
    authentication_classes: Any = []


class DocsView(SpectacularSwaggerSplitView):
    """Swagger UI, with its script apart from the page, as the Content-Security-Policy wants it."""

    authentication_classes: Any = []
    url_name = "api-schema"
