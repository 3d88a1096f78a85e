"""A site whose own API has settings that are the opposite of ours."""

from __future__ import annotations

import pytest

from .conftest import MakeSite

SETTINGS = """
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.BrowsableAPIRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.FormParser"],
    "DEFAULT_THROTTLE_CLASSES": ["mysite.theirs.Never"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "mysite.theirs.Negotiation",
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.NamespaceVersioning",
    "DEFAULT_VERSION": "v7",
    "ALLOWED_VERSIONS": ["v7"],
    "EXCEPTION_HANDLER": "mysite.theirs.handle",
    "NON_FIELD_ERRORS_KEY": "errors",
    "UNAUTHENTICATED_USER": None,
    "UNAUTHENTICATED_TOKEN": None,
    "FORMAT_SUFFIX_KWARG": "id",
    "URL_FORMAT_OVERRIDE": "status",
    "UNICODE_JSON": False,
    "COMPACT_JSON": False,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Theirs",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX_INSERT": "/theirs",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAdminUser"],
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [],
}
INSTALLED_APPS += ["drf_spectacular", "rest_framework"]
"""

THEIRS = """
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.throttling import BaseThrottle


class Never(BaseThrottle):
    def allow_request(self, request, view):
        return False


class Negotiation(BaseContentNegotiation):
    def select_parser(self, request, parsers):
        raise RuntimeError

    def select_renderer(self, request, renderers, format_suffix=None):
        return renderers[0], "text/theirs"


def handle(exc, context):
    raise RuntimeError("handled by the site")
"""

URLS = """
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView


class Thing(APIView):
    throttle_classes = []
    renderer_classes = [JSONRenderer]
    versioning_class = None
    schema = AutoSchema()

    def get(self, request):
        return Response({"title": "á"})


class Document(SpectacularAPIView):
    schema = None
    content_negotiation_class = DefaultContentNegotiation
    permission_classes = []
    throttle_classes = []
    versioning_class = None


urlpatterns += [path("api/thing", Thing.as_view()), path("their/schema", Document.as_view())]
"""


@pytest.fixture
def plain_document(client) -> bytes:  # type: ignore[no-untyped-def]
    """Our document, as this checkout serves it."""
    return client.get("/api/schema").content  # type: ignore[no-any-return]


def test_neither_changes_the_other(make_site: MakeSite, plain_document: bytes) -> None:
    files = {"mysite/theirs.py": THEIRS, "mysite/urls.py": URLS}
    site = make_site(settings=SETTINGS, files=files)
    site.write("go", "")
    with site.served() as client:
        for method, address in (("GET", "runs"), ("POST", "runs"), ("GET", "agents")):
            refused = client.request(method, address)
            assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated")
            assert refused.headers["WWW-Authenticate"] == "Token"
        wrong = client.post("api-token", json={"username": "ann"})
        assert wrong.json()["fields"] == {"password": ["This field is required."]}

        client.headers["Authorization"] = f"Token {site.token('ann')}"
        wrong = client.post("runs", json={"agent": "patient", "limits": 3})
        assert (wrong.status_code, list(wrong.json()["fields"])) == (400, ["limits"])
        started = client.post("runs", json={"agent": "patient", "input": {"word": "á"}})
        assert started.status_code == 201
        assert '"word":"á"' in started.text  # compact, and in UTF-8
        run = site.finished(client, started.json()["id"])
        assert (run["status"], run["result"]) == ("success", "á")
        assert client.get(f"runs/{run['id']}", headers={"Accept": "text/html"}).status_code == 406
        assert client.options("runs").status_code == 200

        theirs = client.get("their/schema", headers={"Accept": "application/json"}).text
        assert "Theirs" in theirs
        assert client.get("api/schema").content == plain_document
        # Before and after ours was made, and without our views.
        assert client.get("their/schema", headers={"Accept": "application/json"}).text == theirs
        assert "/theirs/api/thing" in theirs
        assert "stop_run" not in theirs
        assert client.get("api/thing").json() == {"title": "á"}
        assert "\\u00e1" in client.get("api/thing").text


@pytest.mark.thorough
def test_settings_that_still_name_our_classes_go_on(make_site: MakeSite) -> None:
    """The release before had them in its settings, where a project of one's own has them from."""
    ours = {
        "DEFAULT_AUTHENTICATION_CLASSES": [
            "halting.runs.identity.authentication.TokenAuthentication"
        ],
        "DEFAULT_THROTTLE_CLASSES": ["halting.runs.web.api.throttling.ApiThrottle"],
        "EXCEPTION_HANDLER": "halting.runs.web.api.errors.exception_handler",
    }
    site = make_site(settings=f"REST_FRAMEWORK = {ours}\n")
    with site.served() as client:
        client.headers["Authorization"] = f"Token {site.token('ann')}"
        assert client.get("agents").status_code == 200
