"""Views of ours in a site that has none of our middleware, and settings of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt
from rest_framework.test import APIClient

from runs.exceptions import SignInRefused
from runs.identity import actors
from runs.identity.models import Act, AuditEntry
from runs.web.self_contained import with_self_contained_views
from tests.support.rows import make_run

HTML = {"accept": "text/html"}


def missing(request: HttpRequest) -> HttpResponse:
    raise Http404


def without_database(request: HttpRequest) -> HttpResponse:
    raise OperationalError("connection failed")


def refused(request: HttpRequest) -> HttpResponse:
    raise SignInRefused(7)


def buggy(request: HttpRequest) -> HttpResponse:
    raise ValueError("a bug")


def who(request: HttpRequest) -> HttpResponse:
    actor = actors.current()
    return HttpResponse(f"{actor.name} {actor.address}")


def transactional(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{connection.in_atomic_block}")


@csrf_exempt
def exempt(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


_views: list[Callable[..., HttpResponse]]
_views = [missing, without_database, refused, buggy, who, transactional, exempt]
_inner = [path(f"{view.__name__}/", view) for view in _views]
urlpatterns = [
    *with_self_contained_views([path("own/", include(_inner))]),
    path("tools/", include("runs.urls")),
]


@pytest.fixture(autouse=True)
def site(settings: Any) -> None:
    """A site as of startproject, in debug mode."""
    settings.ROOT_URLCONF = __name__
    settings.DEBUG = True
    settings.MIDDLEWARE = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ]


@pytest.mark.parametrize(
    ("view", "status", "words"),
    [
        ("missing", 404, "There is nothing here"),
        ("without_database", 503, "The database does not answer"),
        ("refused", 429, "Please wait a moment"),
    ],
)
def test_our_own_pages_answer(client: Client, view: str, status: int, words: str) -> None:
    page = client.get(f"/own/{view}/", headers=HTML)
    assert page.status_code == status
    assert words in page.content.decode()
    assert 'href="/tools/app/"' in page.content.decode()
    answer = client.get(f"/own/{view}/", headers={"accept": "application/json"})
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/json")


def test_a_bug_is_left_to_the_site(client: Client) -> None:
    with pytest.raises(ValueError, match="a bug"):
        client.get("/own/buggy/")


def test_the_audit_log_learns_who_acts(client: Client, db: None) -> None:
    client.force_login(User.objects.create_user("ann"))
    answer = client.get("/own/who/", REMOTE_ADDR="192.0.2.7")
    assert answer.content == b"ann 192.0.2.7"
    assert actors.current().name == ""  # no request is left behind


@pytest.mark.django_db(transaction=True)
def test_no_transaction_is_around_a_view(client: Client, settings: Any) -> None:
    settings.DATABASES["default"]["ATOMIC_REQUESTS"] = True
    try:
        assert client.get("/own/transactional/").content == b"False"
        assert client.get("/tools/agents").status_code == 401
    finally:
        settings.DATABASES["default"]["ATOMIC_REQUESTS"] = False


def test_what_is_set_on_a_view_stays() -> None:
    (wrapped,) = [one.callback for one in _inner if one.callback.__name__ == "exempt"]
    assert wrapped is not exempt
    assert wrapped.csrf_exempt


@pytest.mark.django_db
def test_a_stop_is_in_the_audit_log_with_actor_and_address() -> None:
    owner = User.objects.create_user("ann")
    client = APIClient(REMOTE_ADDR="192.0.2.7")
    client.force_login(owner)
    run = make_run(owner)
    assert client.post(f"/tools/runs/{run.pk}/stop").status_code == 202
    entry = AuditEntry.objects.get(act=Act.STOP)
    assert (entry.actor, entry.address) == ("ann", "192.0.2.7")
