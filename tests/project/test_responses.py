"""Headers of every response, and errors outside the API's own views."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError
from django.http import HttpResponse
from django.test import Client, RequestFactory

from runs.web import error_pages

JSON = {"accept": "application/json"}
HTML = {"accept": "text/html,*/*;q=0.8"}


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/health/live", "/accounts/login/", "/static/admin/css/base.css"])
def test_the_policy_forbids_inline_scripts_everywhere(
    client: Client, settings: Any, path: str
) -> None:
    settings.WHITENOISE_AUTOREFRESH = False  # as in production
    response = client.get(path)
    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    response.close()


def test_the_usual_headers_are_there(client: Client) -> None:
    headers = client.get("/health/live").headers
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("path", ["/runs/x/y/z", "/api/nothing", "/health/nothing"])
def test_an_unknown_api_address_is_json_in_debug_too(
    client: Client, settings: Any, path: str, debug: bool
) -> None:
    settings.DEBUG = debug
    response = client.get(path, headers=HTML)
    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


def test_an_unknown_page_is_html_for_people_and_json_for_programs(client: Client) -> None:
    assert client.get("/nowhere", headers=JSON).json()["code"] == "not_found"
    page = client.get("/nowhere", headers=HTML)
    assert page.status_code == 404
    assert page["Content-Type"].startswith("text/html")


def test_a_foreign_host_is_a_json_error_for_the_api(client: Client, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["example.org"]
    response = client.get("/runs", headers={"host": "evil.example.net"})
    assert response.status_code == 400
    assert response.json()["code"] == "bad_request"


def test_a_form_without_its_csrf_token_is_refused() -> None:
    client = Client(enforce_csrf_checks=True)
    response = client.post("/accounts/login/", {"username": "x"}, headers=JSON)
    assert response.status_code == 403
    assert response.json()["code"] == "csrf_failed"


@pytest.mark.django_db
class TestHealth:
    def test_live_needs_no_identity(self, client: Client) -> None:
        for path in ("/health/live", "/health/live/"):
            assert client.get(path).json() == {"status": "alive"}

    def test_ready_says_what_it_looked_at(self, client: Client) -> None:
        response = client.get("/health/ready")
        assert response.status_code == 200
        assert response.json() == {
            "status": "ready",
            "degraded": False,
            "checks": {"database": "ok", "cache": "ok", "worker": "none", "agents": "none"},
        }

    def test_without_a_cache_it_is_ready_all_the_same(self, client: Client, settings: Any) -> None:
        settings.CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": "redis://127.0.0.1:1/0",
            }
        }
        response = client.get("/health/ready")
        assert response.status_code == 200
        assert response.json()["degraded"] is True
        assert response.json()["checks"]["cache"] == "away"


@pytest.mark.postgres
@pytest.mark.django_db
def test_ready_on_postgresql(client: Client) -> None:
    assert client.get("/health/ready").json()["checks"]["database"] == "ok"


@pytest.mark.redis
@pytest.mark.django_db
def test_ready_on_redis(client: Client) -> None:
    assert client.get("/health/ready").json()["checks"]["cache"] == "ok"


@pytest.mark.django_db
def test_a_page_without_an_icon_of_its_own_gets_ours(client: Client) -> None:
    response = client.get("/favicon.ico")
    assert response.status_code == 302
    icon = client.get(response["Location"])
    assert icon["Content-Type"] == "image/svg+xml"
    assert icon["Cache-Control"] == "max-age=0, public"
    icon.close()


class TestADatabaseThatIsAway:
    """In a view, in debug and outside, and in a middleware: Django hands that to handler500."""

    AWAY = OperationalError("no connection")

    @pytest.mark.parametrize(
        ("path", "type"), [("/app/", "text/html; charset=utf-8"), ("/runs", "application/json")]
    )
    @pytest.mark.parametrize("where", ["view", "middleware"])
    def test_is_503_and_to_be_tried_again(
        self, rf: RequestFactory, path: str, type: str, where: str
    ) -> None:
        request = rf.get(path, headers={"Accept": "text/html"})
        try:
            raise self.AWAY
        except OperationalError as error:
            if where == "view":
                middleware = error_pages.ErrorPagesMiddleware(lambda _: HttpResponse())
                response = middleware.process_exception(request, error)
            else:
                response = error_pages.server_error(request)
        assert response is not None
        assert (response.status_code, response["Retry-After"]) == (503, "1")
        assert response["Content-Type"] == type
        assert b"The database does not answer" in response.content

    def test_and_a_bug_is_a_bug(self, rf: RequestFactory) -> None:
        middleware = error_pages.ErrorPagesMiddleware(lambda _: HttpResponse())
        assert middleware.process_exception(rf.get("/app/"), ValueError("x")) is None
        try:
            raise ValueError("x")
        except ValueError:
            assert error_pages.server_error(rf.get("/app/")).status_code == 500
